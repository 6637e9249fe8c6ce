//! The server: all surfaces on one listener, with limits on everything that a client can pile up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::error_handling::HandleErrorLayer;
use axum::extract::{DefaultBodyLimit, State, WebSocketUpgrade};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router, middleware};
use gpurent_core::rentals::Rentals;
use gpurent_core::store::Filter;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower_http::catch_panic::CatchPanicLayer;

use crate::api;
use crate::auth::{ApiKeys, Caller, DEFAULT_ADDRESS, authenticate};
use crate::body::LIMIT;
use crate::compat::{rent, rent_ws};
use crate::problem::Problem;

/// Requests at once; more are told to come back.
const MAX_REQUESTS: usize = 1024;
/// WebSockets at once.
const MAX_SOCKETS: usize = 1024;
/// The longest a request may take: `/rent` waits up to 25 s for a container.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a shutdown waits for requests under way.
const DRAIN: Duration = Duration::from_secs(10);

/// Why a server could not be started, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Everybody who could reach that address could rent, and read passwords.
    #[error("without an API key the server listens on loopback only, not on {0}")]
    KeylessOffLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The listener broke.
    #[error("the server ended")]
    Io(#[source] std::io::Error),
}

/// A server that listens already, and answers once it is [run](Server::run).
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
    sockets: TaskTracker,
}

#[derive(Clone)]
struct Sockets {
    rentals: Rentals,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    free: Arc<Semaphore>,
}

impl Server {
    /// The address that is used where none is configured: 127.0.0.1:8000.
    #[must_use]
    pub fn default_address() -> SocketAddr {
        SocketAddr::new(DEFAULT_ADDRESS, 8000)
    }

    /// Listens on `address`.
    ///
    /// # Errors
    /// [`ServeError::KeylessOffLoopback`] without any key off loopback, [`ServeError::Bind`] where the
    /// address is taken.
    pub async fn bind(address: SocketAddr, rentals: Rentals, keys: ApiKeys) -> Result<Self, ServeError> {
        if keys.is_empty() && !address.ip().is_loopback() {
            return Err(ServeError::KeylessOffLoopback(address));
        }
        let failed = |source| ServeError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let (shutdown, sockets) = (CancellationToken::new(), TaskTracker::new());
        let state = Sockets {
            rentals: rentals.clone(),
            shutdown: shutdown.clone(),
            tracker: sockets.clone(),
            free: Arc::new(Semaphore::new(MAX_SOCKETS)),
        };
        Ok(Self {
            address: listener.local_addr().map_err(failed)?,
            listener,
            router: router(rentals, keys, state),
            shutdown,
            sockets,
        })
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` ends; then lets requests under way finish, for at most ten seconds, and
    /// tells WebSockets goodbye.
    ///
    /// # Errors
    /// [`ServeError::Io`] where the listener broke.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let token = self.shutdown.clone();
        tokio::spawn(async move {
            shutdown.await;
            token.cancel();
        });
        let stop = self.shutdown.clone();
        let serve = axum::serve(self.listener, self.router).with_graceful_shutdown(self.shutdown.cancelled_owned());
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            result = async { serve.await } => result.map_err(ServeError::Io)?,
            () = too_late => tracing::warn!("requests were still under way when the server ended"),
        }
        // axum forgets upgraded connections (axum#3003); ours are tracked.
        self.sockets.close();
        drop(tokio::time::timeout(DRAIN, self.sockets.wait()).await);
        Ok(())
    }
}

fn router(rentals: Rentals, keys: ApiKeys, sockets: Sockets) -> Router {
    let guarded = Router::new()
        .merge(api::router())
        .merge(rent::router())
        .with_state(rentals.clone())
        .merge(Router::new().route("/ws", get(upgrade)).with_state(sockets))
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(middleware::from_fn_with_state(keys, authenticate));
    let limits = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(busy))
        .layer(TimeoutLayer::new(REQUEST_TIMEOUT))
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(MAX_REQUESTS))
        .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response()))
        .layer(DefaultBodyLimit::max(LIMIT));
    // Health is asked by machines that have no key, and answers when nothing else does.
    let health = Router::new().route("/health", get(health)).with_state(rentals);
    guarded.layer(limits).merge(health)
}

/// The answer to what is too much at once, in the form of each surface.
async fn busy(uri: Uri, _error: axum::BoxError) -> Response {
    if uri.path() == "/rent" { rent::busy() } else { Problem::busy().into_response() }
}

async fn health(State(rentals): State<Rentals>) -> Response {
    let filter = Filter::default();
    let store = tokio::time::timeout(Duration::from_secs(2), rentals.list(&filter, None, 1)).await;
    let (database, reconciler) = (matches!(store, Ok(Ok(_))), rentals.is_reconciled());
    let well = database && reconciler;
    let word = |well| if well { "ok" } else { "unavailable" };
    let body = json!({
        "status": if well { "ok" } else { "degraded" },
        "host_id": rentals.host(),
        "database": word(database),
        "reconciler": word(reconciler),
    });
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

async fn upgrade(
    State(sockets): State<Sockets>,
    Extension(caller): Extension<Caller>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let Ok(place) = Arc::clone(&sockets.free).try_acquire_owned() else { return Problem::busy().into_response() };
    upgrade.max_message_size(64 * 1024).on_upgrade(move |socket| async move {
        let session = rent_ws::serve(socket, sockets.rentals, caller, sockets.shutdown);
        sockets.tracker.track_future(session).await;
        drop(place);
    })
}

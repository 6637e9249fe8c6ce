//! All surfaces as one router, with limits on everything that a client can pile up.

use std::sync::Arc;
use std::time::Duration;

use axum::error_handling::HandleErrorLayer;
use axum::extract::{DefaultBodyLimit, FromRef, State, WebSocketUpgrade};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router, middleware};
use gpurent_core::rentals::Rentals;
use gpurent_core::runtime::Isolation;
use gpurent_core::store::Filter;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower_http::catch_panic::CatchPanicLayer;

use crate::api;
use crate::auth::{Authenticator, Caller, Pass, authenticate};
use crate::body::LIMIT;
use crate::compat::{rent, rent_ws};
use crate::listeners::Listeners;
use crate::problem::Problem;

/// Requests at once; more are told to come back.
const MAX_REQUESTS: usize = 1024;
/// The longest a request may take: `/rent` waits up to 25 s for a container.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A host's surfaces, to be served by [`Server`](crate::Server) or mounted in an application's own.
#[derive(Clone)]
pub struct Surfaces {
    rentals: Rentals,
    authenticator: Arc<dyn Authenticator>,
    listeners: Listeners,
}

impl FromRef<Surfaces> for Rentals {
    fn from_ref(surfaces: &Surfaces) -> Self {
        surfaces.rentals.clone()
    }
}

impl FromRef<Surfaces> for Listeners {
    fn from_ref(surfaces: &Surfaces) -> Self {
        surfaces.listeners.clone()
    }
}

impl Surfaces {
    /// The surfaces of a host, for those whom `authenticator` knows. [`ApiKeys`](crate::ApiKeys) without any
    /// key want to know where a connection comes from: serve them by
    /// `into_make_service_with_connect_info::<SocketAddr>()`.
    #[must_use]
    pub fn new(rentals: Rentals, authenticator: impl Authenticator) -> Self {
        Self { rentals, authenticator: Arc::new(authenticator), listeners: Listeners::new() }
    }

    /// Everything: `/v1`, `/rent` and `/ws`, `/health`. May be nested below any path.
    pub fn router(&self) -> Router {
        // Health is asked by machines that have no key, and answers when nothing else does.
        let health = Router::new().route("/health", get(health)).with_state(self.rentals.clone());
        self.guard(api::router().merge(rent_router())).merge(health)
    }

    /// Our own API alone, `/v1/...`.
    pub fn v1(&self) -> Router {
        self.guard(api::router())
    }

    /// The `rent` protocol alone: `/rent` and `/ws`.
    pub fn rent(&self) -> Router {
        self.guard(rent_router())
    }

    /// Routes of the application's own behind the same limits and the same authentication. Handlers find
    /// who calls as `Extension<Caller>`.
    pub fn protect(&self, routes: Router) -> Router {
        self.guard(Router::new().merge(routes.with_state(())))
    }

    /// Cancelled when listeners are to go.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.listeners.stopping.clone()
    }

    /// Tells all listeners goodbye, and waits for them to go. axum's own graceful shutdown forgets
    /// WebSockets (<https://github.com/tokio-rs/axum/issues/3003>).
    pub async fn stop(&self) {
        self.listeners.stopping.cancel();
        self.listeners.tracker.close();
        self.listeners.tracker.wait().await;
    }

    fn guard(&self, routes: Router<Surfaces>) -> Router {
        let limits = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(busy))
            .layer(TimeoutLayer::new(REQUEST_TIMEOUT))
            .layer(LoadShedLayer::new())
            .layer(GlobalConcurrencyLimitLayer::new(MAX_REQUESTS))
            .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response()))
            .layer(DefaultBodyLimit::max(LIMIT));
        routes
            .with_state(self.clone())
            .fallback(async || Problem::not_found())
            .method_not_allowed_fallback(async || Problem::method_not_allowed())
            .layer(middleware::from_fn_with_state(Arc::clone(&self.authenticator), authenticate))
            .layer(limits)
    }
}

fn rent_router() -> Router<Surfaces> {
    Router::new().merge(rent::router()).route("/ws", get(upgrade))
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
        // Not why: whoever asks may be anybody. The host's log tells.
        "isolation": match rentals.isolation() {
            Isolation::Enforced => "enforced",
            Isolation::Degraded(_) => "degraded",
        },
    });
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

async fn upgrade(
    State(rentals): State<Rentals>,
    State(listeners): State<Listeners>,
    Extension(caller): Extension<Caller>,
    Extension(pass): Extension<Pass>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let place = listeners.enter(&caller)?;
    Ok(upgrade.max_message_size(64 * 1024).on_upgrade(move |socket| async move {
        let session = rent_ws::serve(socket, rentals, caller, pass, listeners.stopping);
        listeners.tracker.track_future(session).await;
        drop(place);
    }))
}

//! All surfaces as routers, with limits on everything that a client can pile up.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::error_handling::HandleErrorLayer;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{DefaultBodyLimit, FromRef, State, WebSocketUpgrade};
use axum::http::{HeaderValue, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router, middleware};
use gpurent_core::host::Rentals;
use gpurent_core::store::AuditLog;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::audit::Audit;
use crate::auth::{Authenticator, Entrance, Gate, admit_strangers, authenticate, authenticate_socket};
use crate::body::LIMIT;
use crate::compat::cloud::Cloud;
use crate::compat::dashboard::Dashboard;
use crate::compat::instances::Instances;
use crate::compat::{cloud, dashboard, instances, rent, rent_ws};
use crate::health::Health;
use crate::limits::Limits;
use crate::listeners::{Listeners, READ_BUFFER};
use crate::problem::Problem;
use crate::rate::{Changes, Rates};
use crate::{api, audit, health, rate};

/// Requests at once that need no key.
const FOR_STRANGERS: usize = 64;

/// One of the protocols that a host speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Surface {
    /// Our own API, `/v1`, with its documentation.
    V1,
    /// `/rent` and `/ws`.
    Rent,
    /// `/start_instance`, `/terminate_instance` and `/ws`.
    Instances,
    /// `/api/containers` and what belongs to it, where it is [configured](Surfaces::with_dashboard).
    Dashboard,
    /// `/api/gpu`, where it is [configured](Surfaces::with_cloud).
    Cloud,
}

/// A host's surfaces, to be served by [`Server`](crate::Server) or mounted in an application's own.
#[derive(Clone)]
pub struct Surfaces {
    rentals: Rentals,
    gate: Gate,
    listeners: Listeners,
    limits: Limits,
    audit: Option<Audit>,
    cors: Option<CorsLayer>,
    instances: Instances,
    dashboard: Option<Arc<Dashboard>>,
    cloud: Option<Arc<Cloud>>,
    off: BTreeSet<Surface>,
    health: Health,
    changes: Option<Changes>,
}

/// Lets handlers take a part of the surfaces as their state.
macro_rules! part {
    ($part:ty, $field:ident) => {
        impl FromRef<Surfaces> for $part {
            fn from_ref(surfaces: &Surfaces) -> Self {
                surfaces.$field.clone()
            }
        }
    };
}

part!(Rentals, rentals);
part!(Health, health);
part!(Listeners, listeners);
part!(Option<Audit>, audit);
part!(Instances, instances);
part!(Option<Arc<Dashboard>>, dashboard);
part!(Option<Arc<Cloud>>, cloud);

impl Surfaces {
    /// The surfaces of a host, for those whom `authenticator` knows: `/v1`, `rent` and `instances`. Without
    /// [limits on rates](Limits::rate): an application may have its own. [`ApiKeys`](crate::ApiKeys) without any
    /// key, and keys that are good from certain networks only, want to know where a connection comes from: serve
    /// them by `into_make_service_with_connect_info::<SocketAddr>()`.
    #[must_use]
    pub fn new(rentals: Rentals, authenticator: impl Authenticator) -> Self {
        let limits = Limits::default().rate(0).changes(0);
        Self {
            rentals,
            gate: Gate::new(Arc::new(authenticator)),
            listeners: Listeners::new(&limits),
            limits,
            audit: None,
            cors: None,
            instances: Instances::default(),
            dashboard: None,
            cloud: None,
            off: BTreeSet::new(),
            health: Health::default(),
            changes: None,
        }
    }

    /// Other limits than the default ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.listeners = self.listeners.limited(&limits);
        self.gate.rates = limits.rate.map(Rates::new);
        self.changes = limits.changes.map(Changes::new);
        self.limits = limits;
        self
    }

    /// Writes down who did what. Has to be called within a tokio runtime.
    #[must_use]
    pub fn with_audit(mut self, log: Arc<dyn AuditLog>) -> Self {
        self.audit = Some(Audit::begin(log, &self.listeners.tracker, self.listeners.answered.clone()));
        self
    }

    /// Lets pages of these origins call from a browser; none may by default.
    #[must_use]
    pub fn allow_origins(mut self, origins: Vec<HeaderValue>) -> Self {
        let methods = [Method::GET, Method::POST, Method::PUT, Method::DELETE];
        let headers = ["authorization", "content-type", "x-api-key", "idempotency-key", "if-match", "last-event-id"];
        let told = ["etag", "location", "retry-after", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"];
        let name = |name: &'static str| axum::http::HeaderName::from_static(name);
        let layer = CorsLayer::new().allow_origin(AllowOrigin::list(origins)).allow_methods(methods);
        self.cors = Some(layer.allow_headers(headers.map(name)).expose_headers(told.map(name)));
        self
    }

    /// How instances of the `instances` protocol are rented.
    #[must_use]
    pub fn with_instances(self, instances: Instances) -> Self {
        Self { instances, ..self }
    }

    /// Speaks the `dashboard` protocol too.
    #[must_use]
    pub fn with_dashboard(self, dashboard: Dashboard) -> Self {
        Self { dashboard: Some(Arc::new(dashboard)), ..self }
    }

    /// Speaks the `cloud` protocol too.
    #[must_use]
    pub fn with_cloud(self, cloud: Cloud) -> Self {
        Self { cloud: Some(Arc::new(cloud)), ..self }
    }

    /// Leaves a surface out of [`router`](Self::router).
    #[must_use]
    pub fn without(mut self, surface: Surface) -> Self {
        self.off.insert(surface);
        self
    }

    fn has(&self, surface: Surface) -> bool {
        !self.off.contains(&surface)
    }

    /// Everything that is on, and `/health`. May be nested below any path.
    pub fn router(&self) -> Router {
        let (mut routes, mut sockets) = (Router::new(), Router::new());
        if self.has(Surface::V1) {
            let (v1, v1_sockets) = api::routes();
            (routes, sockets) = (routes.merge(v1), sockets.merge(v1_sockets));
        }
        if self.has(Surface::Rent) {
            routes = routes.merge(rent::routes().into_router());
        }
        if self.has(Surface::Instances) {
            routes = routes.merge(instances::routes().into_router());
        }
        if self.has(Surface::Rent) || self.has(Surface::Instances) {
            sockets = sockets.merge(updates());
        }
        if self.has(Surface::Dashboard) && self.dashboard.is_some() {
            routes = routes.merge(dashboard::routes().into_router());
        }
        if self.has(Surface::Cloud) && self.cloud.is_some() {
            routes = routes.merge(cloud::routes().into_router());
        }
        let open = if self.has(Surface::V1) { api::open_routes() } else { Router::new() };
        let all = self.guard(routes, sockets).merge(self.unguarded(open));
        if self.has(Surface::Dashboard) { all.merge(self.downloads()) } else { all }
    }

    /// Our own API alone, `/v1/...`, with its documentation.
    pub fn v1(&self) -> Router {
        let (routes, sockets) = api::routes();
        self.guard(routes, sockets).merge(api::open_routes().with_state(self.clone()))
    }

    /// The `rent` protocol alone: `/rent` and `/ws`.
    pub fn rent(&self) -> Router {
        self.guard(rent::routes().into_router(), updates().into())
    }

    /// The `instances` protocol alone: `/start_instance`, `/terminate_instance` and `/ws`.
    pub fn instances(&self) -> Router {
        self.guard(instances::routes().into_router(), updates().into())
    }

    /// The `dashboard` protocol alone, with `/health`; only that where it is not [configured](Self::with_dashboard).
    pub fn dashboard(&self) -> Router {
        let routes = if self.dashboard.is_some() { dashboard::routes().into_router() } else { Router::new() };
        self.guard(routes, Router::new()).merge(self.unguarded(Router::new())).merge(self.downloads())
    }

    /// The `cloud` protocol alone, `/api/gpu/...`; nothing where it is not [configured](Self::with_cloud).
    pub fn cloud(&self) -> Router {
        let routes = if self.cloud.is_some() { cloud::routes().into_router() } else { Router::new() };
        self.guard(routes, Router::new())
    }

    /// Routes of the application's own behind the same limits and the same authentication. Handlers find
    /// who calls as `Extension<Caller>`.
    pub fn protect(&self, routes: Router) -> Router {
        self.guard(Router::new().merge(routes.with_state(())), Router::new())
    }

    /// Whether callers have to prove anything.
    pub(crate) async fn is_guarded(&self) -> bool {
        self.gate.authenticator.is_guarded().await
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Cancelled when listeners are to go.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.listeners.stopping.clone()
    }

    /// Tells all listeners goodbye, and waits for them to go. axum's own graceful shutdown forgets
    /// WebSockets (<https://github.com/tokio-rs/axum/issues/3003>).
    pub async fn stop(&self) {
        self.listeners.stopping.cancel();
        self.listeners.answered.cancel();
        self.listeners.tracker.close();
        self.listeners.tracker.wait().await;
    }

    /// What is asked by machines and people that have no key.
    fn unguarded(&self, routes: Router<Surfaces>) -> Router {
        // Places of their own: whoever takes all others must not make the host look dead.
        let requests = Arc::new(Semaphore::new(FOR_STRANGERS));
        let (health, _) = health::routes().split_for_parts();
        routes.merge(health).layer(self.bounds(requests)).with_state(self.clone())
    }

    /// The dashboard's files for everybody.
    fn downloads(&self) -> Router {
        if !self.dashboard.as_ref().is_some_and(|dashboard| dashboard.has_downloads()) {
            return Router::new();
        }
        dashboard::open_routes()
            .into_router()
            .layer(middleware::from_fn_with_state(self.gate.clone(), admit_strangers))
            .layer(self.bounds(Arc::new(Semaphore::new(FOR_STRANGERS))))
            .with_state(self.clone())
    }

    fn guard(&self, routes: Router<Surfaces>, sockets: Router<Surfaces>) -> Router {
        let counts = (self.gate.rates.clone(), self.changes.clone(), self.listeners.clone());
        let known = |routes: Router<Surfaces>| {
            routes
                .layer(middleware::from_fn_with_state(self.audit.clone(), audit::note))
                .layer(middleware::from_fn_with_state(counts.clone(), rate::limit))
        };
        let routes = routes
            .fallback(async || Problem::not_found())
            .method_not_allowed_fallback(async || Problem::method_not_allowed());
        let routes = known(routes).layer(middleware::from_fn_with_state(self.gate.clone(), authenticate));
        let sockets = known(sockets).layer(middleware::from_fn_with_state(self.gate.clone(), authenticate_socket));
        let all =
            routes.merge(sockets).layer(self.bounds(Arc::clone(&self.listeners.requests))).with_state(self.clone());
        match &self.cors {
            Some(cors) => all.layer(cors.clone()),
            None => all,
        }
    }

    fn bounds(
        &self,
        requests: Arc<Semaphore>,
    ) -> impl tower::Layer<
        axum::routing::Route,
        Service: tower::Service<
            axum::extract::Request,
            Response: IntoResponse,
            Error: Into<std::convert::Infallible>,
            Future: Send,
        > + Clone
                     + Send
                     + Sync
                     + 'static,
    >
    + Clone
    + Send
    + Sync
    + 'static
    + use<> {
        ServiceBuilder::new()
            .layer(HandleErrorLayer::new(busy))
            .layer(TimeoutLayer::new(self.limits.request_time))
            .layer(LoadShedLayer::new())
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(requests))
            .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response()))
            .layer(DefaultBodyLimit::max(LIMIT))
    }
}

/// The WebSocket of the `rent` and the `instances` protocol.
pub(crate) fn updates() -> OpenApiRouter<Surfaces> {
    OpenApiRouter::new().routes(routes!(upgrade))
}

/// The answer to what is too much at once, in the form of each surface.
async fn busy(uri: Uri, _error: axum::BoxError) -> Response {
    match uri.path() {
        "/rent" => rent::busy(),
        "/start_instance" | "/terminate_instance" => instances::busy(),
        path if dashboard::is_route(path) => dashboard::busy(),
        path if path.starts_with("/api/gpu") => cloud::busy(),
        _ => Problem::busy().into_response(),
    }
}

/// Tells what happens to rentals, in the words of `rent` or of `instances`
#[utoipa::path(
    get, path = "/ws", operation_id = "updates", tag = "updates",
    responses(
        (status = 101, description = "A WebSocket: each message is an update"),
        (status = 401, description = "No valid key", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed from there", body = Problem, content_type = "application/problem+json"),
        (status = 426, description = "A WebSocket is wanted", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too often: wait as long as `Retry-After` says", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn upgrade(
    State(rentals): State<Rentals>,
    State(listeners): State<Listeners>,
    Extension(entrance): Extension<Entrance>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|_| Problem::socket_wanted())?;
    Ok(upgrade.max_message_size(64 * 1024).read_buffer_size(READ_BUFFER).on_upgrade(move |mut socket| async move {
        let Some((caller, pass)) = entrance.admit(&mut socket).await else { return };
        let Ok(place) = listeners.enter(&caller) else {
            rent_ws::turn_away(socket).await;
            return;
        };
        let session = rent_ws::serve(socket, rentals, caller, pass, listeners.stopping);
        listeners.tracker.track_future(session).await;
        drop(place);
    }))
}

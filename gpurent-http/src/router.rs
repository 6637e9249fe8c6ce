//! A host's protocols as one router, with a guard in front of each: who calls, how often, what is written down of it, and
//! limits on everything that a client can pile up.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::error_handling::HandleErrorLayer;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use axum::{Router, middleware};
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

use crate::extract::MAX_BODY;
use crate::health::Health;
use crate::limits::HttpLimits;
use crate::middleware::audit::Audit;
use crate::middleware::auth::first_message::authenticate_socket;
use crate::middleware::auth::{AuthLayer, Authenticator, Words, admit_anonymous, authenticate};
use crate::middleware::rate_limit::{Changes, RateLimits};
use crate::middleware::{audit, rate_limit};
use crate::problem::Problem;
use crate::protocol::Protocol;
#[cfg(feature = "cloud")]
use crate::protocols::cloud::Cloud;
#[cfg(feature = "dashboard")]
use crate::protocols::dashboard::Dashboard;
#[cfg(feature = "instances")]
use crate::protocols::instances::Instances;
#[cfg(feature = "rent")]
use crate::protocols::rent;
use crate::state::AppState;
use crate::subscribers::Subscribers;
use crate::v1::Reserved;
use crate::{health, protocols, v1};

/// Requests at once that need no key.
const FOR_STRANGERS: usize = 64;

/// The name of our own API, `/v1`.
const V1: &str = "v1";

/// Makes a protocol of what all of them share.
type Make = Arc<dyn Fn(&AppState) -> Protocol + Send + Sync>;

/// One of the host's protocols.
#[derive(Clone)]
struct Mounted {
    name: &'static str,
    make: Make,
}

/// A host's HTTP API: all protocols that it speaks, to be served by [`Server`](crate::Server) or mounted in an application's
/// own.
#[derive(Clone)]
pub struct HttpApi {
    state: AppState,
    gate: AuthLayer,
    limits: HttpLimits,
    cors: Option<CorsLayer>,
    health: Health,
    changes: Option<Changes>,
    v1: bool,
    others: Vec<Mounted>,
    /// The names of those that are left out, whether they are mounted before or after that was said.
    off: BTreeSet<String>,
}

impl HttpApi {
    /// The API of a host, for those whom `authenticator` knows: the protocols `v1`, and `rent` and `instances` where
    /// these features are on. Without
    /// [limits on rates](HttpLimits::rate): an application may have its own. [`ApiKeys`](crate::ApiKeys) without any
    /// key, and keys that are good from certain networks only, want to know where a connection comes from: serve
    /// them by `into_make_service_with_connect_info::<SocketAddr>()`.
    #[must_use]
    pub fn new(rentals: Rentals, authenticator: impl Authenticator) -> Self {
        let limits = HttpLimits::default().rate(0).changes(0);
        let api = Self {
            state: AppState { rentals, subscribers: Subscribers::new(&limits), audit: None },
            gate: AuthLayer::new(Arc::new(authenticator)),
            limits,
            cors: None,
            health: Health::default(),
            changes: None,
            v1: true,
            others: Vec::new(),
            off: BTreeSet::new(),
        };
        #[cfg(feature = "rent")]
        let api = api.with("rent", rent::protocol);
        #[cfg(feature = "instances")]
        let api = api.with_instances(Instances::default());
        api
    }

    /// Speaks one more protocol, in the place of one that had this name. It is made of what all protocols share whenever a
    /// [`router`](Self::router) is, and perhaps more than once: `make` has no other effects.
    #[must_use]
    pub fn with(mut self, name: &'static str, make: impl Fn(&AppState) -> Protocol + Send + Sync + 'static) -> Self {
        self.v1 &= name != V1;
        self.others.retain(|other| other.name != name);
        self.others.push(Mounted { name, make: Arc::new(make) });
        self
    }

    /// How instances of the `instances` protocol are rented.
    #[cfg(feature = "instances")]
    #[must_use]
    pub fn with_instances(self, instances: Instances) -> Self {
        self.with("instances", move |state| instances.protocol(state))
    }

    /// Speaks the `dashboard` protocol too.
    #[cfg(feature = "dashboard")]
    #[must_use]
    pub fn with_dashboard(self, dashboard: Dashboard) -> Self {
        let dashboard = Arc::new(dashboard);
        self.with("dashboard", move |state| Arc::clone(&dashboard).protocol(state))
    }

    /// Speaks the `cloud` protocol too.
    #[cfg(feature = "cloud")]
    #[must_use]
    pub fn with_cloud(self, cloud: Cloud) -> Self {
        let cloud = Arc::new(cloud);
        self.with("cloud", move |state| Arc::clone(&cloud).protocol(state))
    }

    /// Leaves the protocol of this name out of [`router`](Self::router), whenever it is mounted; its labels stay set aside.
    /// Ours are `v1`, `rent`, `instances`, `dashboard` and `cloud`; of another name there is nothing to leave out.
    #[must_use]
    pub fn without(mut self, name: impl Into<String>) -> Self {
        self.off.insert(name.into());
        self
    }

    /// Other limits than the default ones.
    #[must_use]
    pub fn with_limits(mut self, limits: HttpLimits) -> Self {
        self.state.subscribers = self.state.subscribers.limited(&limits);
        self.gate.rates = limits.rate.map(RateLimits::new);
        self.changes = limits.changes.map(Changes::new);
        self.limits = limits;
        self
    }

    /// Writes down who did what. Has to be called within a tokio runtime.
    #[must_use]
    pub fn with_audit(mut self, log: Arc<dyn AuditLog>) -> Self {
        let subscribers = &self.state.subscribers;
        self.state.audit = Some(Audit::begin(log, &subscribers.tracker, subscribers.answered.clone()));
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

    /// Every protocol that is on, and `/health`. May be nested below any path.
    pub fn router(&self) -> Router {
        let is_on = |name: &str| !self.off.contains(name);
        self.router_of(self.v1 && is_on(V1), self.others.iter().filter(|other| is_on(other.name)))
    }

    /// The protocol of this name alone, on or not, and `/health`.
    pub fn router_of_one(&self, name: &str) -> Router {
        self.router_of(self.v1 && name == V1, self.others.iter().filter(|other| other.name == name))
    }

    fn router_of<'a>(&self, v1: bool, others: impl Iterator<Item = &'a Mounted>) -> Router {
        let mut protocols: Vec<_> = others.map(|other| (other.name, (other.make)(&self.state))).collect();
        if v1 {
            protocols.push((V1, v1::protocol(&self.state, self.reserved())));
        }
        let mut all = self.unguarded(if v1 { v1::open_routes() } else { Router::new() });
        let words_for_keys = protocols.iter().any(|(_, protocol)| protocol.words_for_keys);
        let mut mounted = Vec::new();
        while let Some((name, mut protocol)) = protocols.pop() {
            if mounted.contains(&name) {
                continue;
            }
            mounted.push(name);
            protocols.append(&mut protocol.shared);
            all = all.merge(self.offer(&mut protocol)).merge(self.guard(protocol));
        }
        // Whoever asks for what is not there has to show a key as well.
        let nothing = Protocol { words_for_keys, ..Protocol::new(not_found()) };
        self.for_other_origins(all.merge(self.guard(nothing)))
    }

    fn for_other_origins(&self, routes: Router) -> Router {
        match &self.cors {
            Some(cors) => routes.layer(cors.clone()),
            None => routes,
        }
    }

    /// Routes of the application's own behind the same limits and the same authentication. Handlers find
    /// who calls as `Extension<Caller>`. Whoever reads a path that ends with `/access`, `/terminal` or `/ws` is written down.
    pub fn protect(&self, routes: Router) -> Router {
        let tells = |path: &str| ["/access", "/terminal", "/ws"].iter().any(|end| path.ends_with(end));
        let routes = routes.fallback(async || Problem::not_found());
        self.for_other_origins(self.guard(Protocol::new(routes).revealing(tells)))
    }

    /// The labels that say by which protocol a rental was made: of ours, spoken here or not, and of those that were added.
    fn reserved(&self) -> Reserved {
        let added = self.others.iter().flat_map(|other| (other.make)(&self.state).labels);
        let mut all: Vec<_> = protocols::LABELS.iter().chain(added).copied().collect();
        all.sort_unstable();
        all.dedup();
        Reserved(all.into())
    }

    /// Whether callers have to prove anything.
    pub(crate) async fn is_guarded(&self) -> bool {
        self.gate.authenticator.is_guarded().await
    }

    pub(crate) fn limits(&self) -> &HttpLimits {
        &self.limits
    }

    /// Cancelled when subscribers are to go.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.state.subscribers.stopping.clone()
    }

    /// Tells all subscribers goodbye, and waits for them to go. axum's own graceful shutdown forgets
    /// WebSockets (<https://github.com/tokio-rs/axum/issues/3003>).
    pub async fn stop(&self) {
        let subscribers = &self.state.subscribers;
        subscribers.stopping.cancel();
        subscribers.answered.cancel();
        subscribers.tracker.close();
        subscribers.tracker.wait().await;
    }

    /// Routes that machines and people ask who have no key.
    fn unguarded(&self, routes: Router) -> Router {
        // Places of their own: whoever takes all others must not make the host look dead.
        let requests = Arc::new(Semaphore::new(FOR_STRANGERS));
        let health = Router::from(health::routes()).with_state(self.state.own(self.health.clone()));
        routes.merge(health).layer(self.bounds(requests, || Problem::overloaded().into_response()))
    }

    /// Routes that a protocol offers to everybody who may call from where they are.
    fn offer(&self, protocol: &mut Protocol) -> Router {
        std::mem::take(&mut protocol.offered)
            .layer(middleware::from_fn_with_state(self.gate.clone(), admit_anonymous))
            .layer(self.bounds(Arc::new(Semaphore::new(FOR_STRANGERS)), || Problem::overloaded().into_response()))
    }

    fn guard(&self, protocol: Protocol) -> Router {
        let Protocol { routes, sockets, busy, reveals, words_for_keys, .. } = protocol;
        let subscribers = &self.state.subscribers;
        let counts = (self.gate.rates.clone(), self.changes.clone(), subscribers.clone());
        let known = |routes: Router| {
            routes
                .layer(middleware::from_fn_with_state((self.state.audit.clone(), reveals), audit::note))
                .layer(middleware::from_fn_with_state(counts.clone(), rate_limit::limit))
        };
        let routes = routes.method_not_allowed_fallback(async || Problem::method_not_allowed());
        let by_request = (self.gate.clone(), Words(words_for_keys));
        let routes = known(routes).layer(middleware::from_fn_with_state(by_request, authenticate));
        let sockets = known(sockets).layer(middleware::from_fn_with_state(self.gate.clone(), authenticate_socket));
        routes.merge(sockets).layer(self.bounds(Arc::clone(&subscribers.requests), busy))
    }

    fn bounds(
        &self,
        requests: Arc<Semaphore>,
        busy: fn() -> Response,
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
            .layer(HandleErrorLayer::new(async move |_error: axum::BoxError| busy()))
            .layer(TimeoutLayer::new(self.limits.request_time))
            .layer(LoadShedLayer::new())
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(requests))
            .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response()))
            .layer(DefaultBodyLimit::max(MAX_BODY))
    }
}

fn not_found() -> Router {
    Router::new().fallback(async || Problem::not_found())
}

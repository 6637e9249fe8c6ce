//! How often one key may call, and what is left of that: `RateLimit-Limit`, `-Remaining` and `-Reset` in every
//! answer, as the IETF's draft "RateLimit header fields for HTTP" (03) has them.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use gpurent_core::id::{ApiKeyId, RenterId};
use gpurent_core::store::Role;

use crate::caller::Caller;
use crate::middleware::auth::origin::address;
use crate::problem::Problem;
use crate::subscribers::Subscribers;

/// The client whose requests are counted.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Client {
    Key(ApiKeyId),
    Renter(RenterId),
    /// A client who did not show who they are.
    Stranger(Option<IpAddr>),
}

type Limiter = RateLimiter<Client, DefaultKeyedStateStore<Client>, DefaultClock, StateInformationMiddleware>;

/// Counts calls.
#[derive(Clone)]
pub(crate) struct RateLimits {
    limiter: Arc<Limiter>,
    calls: Arc<AtomicU32>,
}

/// Clients who have not called for a while are forgotten after so many calls.
const FORGET_EVERY: u32 = 4096;

impl RateLimits {
    pub(crate) fn new(a_second: NonZeroU32) -> Self {
        let burst = a_second.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        let limiter = RateLimiter::keyed(Quota::per_second(a_second).allow_burst(burst));
        Self { limiter: Arc::new(limiter.with_middleware()), calls: Arc::default() }
    }

    /// Counts a call.
    fn count(&self, client: &Client) -> Result<StateSnapshot, Problem> {
        if self.calls.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(client).map_err(|early| {
            let wait = early.wait_time_from(DefaultClock::default().now());
            Problem::rate_limited(wait.as_secs() + 1)
        })
    }

    /// Counts a call of somebody who did not show who they are.
    pub(crate) fn anonymous(&self, request: &Parts) -> Result<(), Problem> {
        self.count(&Client::Stranger(address(request))).map(|_| ())
    }
}

/// Counts what renters ask to be made or changed. Platforms ask for many customers, and are not counted.
#[derive(Clone)]
pub(crate) struct Changes(Arc<DefaultKeyedRateLimiter<RenterId>>);

impl Changes {
    pub(crate) fn new(a_minute: NonZeroU32) -> Self {
        Self(Arc::new(RateLimiter::keyed(Quota::per_minute(a_minute))))
    }

    fn count(&self, caller: &Caller, method: &Method) -> Result<(), Problem> {
        if caller.role != Role::Renter || matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        if self.0.len() > MOST_RENTERS {
            self.0.retain_recent();
        }
        self.0.check_key(&caller.renter).map_err(|early| {
            let wait = early.wait_time_from(DefaultClock::default().now());
            Problem::rate_limited(wait.as_secs() + 1)
        })
    }
}

/// Renters who have not called for a while are forgotten when there are more of them.
const MOST_RENTERS: usize = 4096;

/// Counts a known caller's request, those under way and those of late, and tells them what is left.
pub(crate) async fn limit(
    State((rates, changes, subscribers)): State<(Option<RateLimits>, Option<Changes>, Subscribers)>,
    request: Request,
    next: Next,
) -> Response {
    let Some(caller) = request.extensions().get::<Caller>() else { return next.run(request).await };
    let _under_way = match subscribers.begin(caller) {
        Ok(under_way) => under_way,
        Err(problem) => return problem.into_response(),
    };
    if let Some(Err(problem)) = changes.map(|changes| changes.count(caller, request.method())) {
        return problem.into_response();
    }
    let Some(rates) = rates else { return next.run(request).await };
    let client = caller.key.clone().map_or_else(|| Client::Renter(caller.renter.clone()), Client::Key);
    match rates.count(&client) {
        Ok(left) => {
            let mut response = next.run(request).await;
            set_headers(&mut response, &left);
            response
        }
        Err(problem) => problem.into_response(),
    }
}

fn set_headers(response: &mut Response, left: &StateSnapshot) {
    let quota = left.quota();
    let (burst, remaining) = (quota.burst_size().get(), left.remaining_burst_capacity());
    let until_full = quota.replenish_interval().saturating_mul(burst.saturating_sub(remaining));
    let headers = response.headers_mut();
    headers.insert("ratelimit-limit", HeaderValue::from(burst));
    headers.insert("ratelimit-remaining", HeaderValue::from(remaining));
    headers.insert("ratelimit-reset", HeaderValue::from(until_full.as_secs() + 1));
}

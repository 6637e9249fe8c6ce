//! One protocol that a host speaks: its routes, and all that the guard in front of them has to know of it.

use axum::Router;
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;

/// A protocol, as it is mounted by [`HttpApi::with`](crate::HttpApi::with).
///
/// Handlers find who calls as `Extension<`[`Caller`](crate::Caller)`>`.
///
/// ```
/// # use axum::{Extension, Router, routing::get};
/// # use gpurent_core::host::Rentals;
/// # use gpurent_http::{ApiKeys, Caller, HttpApi, Protocol};
/// # fn mount(rentals: Rentals, keys: ApiKeys) -> Router {
/// let api = HttpApi::new(rentals, keys).with("mine", |state| {
///     let rentals = state.rentals().clone();
///     let count = async move |Extension(caller): Extension<Caller>| {
///         let ours = rentals.live().await.unwrap_or_default().into_iter().filter(|r| r.spec().renter == caller.renter);
///         ours.count().to_string()
///     };
///     Protocol::new(Router::new().route("/mine/count", get(count))).with_labels(&["mine."])
/// });
/// # api.router()
/// # }
/// ```
pub struct Protocol {
    pub(crate) routes: Router,
    pub(crate) sockets: Router,
    pub(crate) offered: Router,
    pub(crate) busy: fn() -> Response,
    pub(crate) reveals: fn(&str) -> bool,
    pub(crate) labels: &'static [&'static str],
    pub(crate) words_for_keys: bool,
    pub(crate) shared: Vec<(&'static str, Self)>,
}

impl Protocol {
    /// A protocol with these routes, which need a key. They are merged with those of all other protocols: none has a route
    /// twice, and none has a fallback of its own.
    #[must_use]
    pub fn new(routes: Router) -> Self {
        Self {
            routes,
            sockets: Router::new(),
            offered: Router::new(),
            busy: || Problem::overloaded().into_response(),
            reveals: |_| false,
            labels: &[],
            words_for_keys: false,
            shared: Vec::new(),
        }
    }

    /// Routes that are or may be WebSockets, whose key may come as their first message: a browser sends none with them.
    #[must_use]
    pub(crate) fn with_sockets(self, sockets: Router) -> Self {
        Self { sockets, ..self }
    }

    /// Routes that need no key: for everybody who [may call from where they are](crate::Authenticator::admits_from).
    #[must_use]
    pub fn with_offered(self, offered: Router) -> Self {
        Self { offered, ..self }
    }

    /// The answer to requests beyond what the host takes at once; by default a problem with status 503.
    #[must_use]
    pub fn with_busy(self, busy: fn() -> Response) -> Self {
        Self { busy, ..self }
    }

    /// Which of the paths that are read tell a secret, and are written down with who read them; by default none. Whatever
    /// changes something is written down in any case.
    #[must_use]
    pub fn revealing(self, reveals: fn(&str) -> bool) -> Self {
        Self { reveals, ..self }
    }

    /// The beginnings of labels by which the protocol marks its rentals: no renter may set such over `/v1`.
    #[must_use]
    pub fn with_labels(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }

    /// The protocol's clients send a word where others send a key. Where no key is needed, that is none.
    #[must_use]
    pub(crate) fn with_words_for_keys(self) -> Self {
        Self { words_for_keys: true, ..self }
    }

    /// A part that several protocols have, and which is there once.
    #[must_use]
    pub(crate) fn sharing(mut self, name: &'static str, part: Self) -> Self {
        self.shared.push((name, part));
        self
    }
}

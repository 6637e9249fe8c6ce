//! Serves a host's rentals over HTTP and WebSocket.
//!
//! A host speaks several protocols over the same [`Rentals`](gpurent_core::host::Rentals): our own API under `/v1` ([`v1`]),
//! those of existing platforms ([`protocols`]), and an embedder's own ([`Protocol`]). Handlers validate, call `Rentals` and
//! render; none of them touches the engine.
//!
//! [`Server`] is all of it on an address; [`HttpApi`] is all of it as a router for an application's own
//! server. Who calls is told by an [`Authenticator`]; the default is [`ApiKeys`]: without any key the
//! server listens on loopback only, and refuses requests that a web page in somebody's browser could have
//! sent there.
//!
//! ```
//! # use gpurent_core::host::Rentals;
//! use gpurent_http::{ApiKeys, HttpApi};
//!
//! fn mount(rentals: Rentals, keys: ApiKeys) -> axum::Router {
//!     let gpus = HttpApi::new(rentals, keys);
//!     axum::Router::new().nest("/gpus", gpus.router()).route("/", axum::routing::get(|| async { "my own page" }))
//! }
//! ```
//!
//! Handlers of an application's own answer as `/v1` does by [`Problem`], which every error of `Rentals` becomes.
//!
//! # What else a real server needs
//! Keys ([`ApiKeys::with_store`]) or a login of its own, TLS (`Server::with_tls`) or a proxy that speaks it, and a process that
//! runs the reconciler: its `/health` tells whether one does.
//!
//! # Features
//! All are on by default.
//! - `rent`, `instances`, `dashboard`, `cloud`: the protocols of existing platforms, beside `/v1`. The labels by which their rentals
//!   are known stay set aside whichever are on.
//! - `tls`: servers that speak TLS themselves.

// With fewer protocols, some of what they share has no use.
#![cfg_attr(
    not(all(feature = "cloud", feature = "dashboard", feature = "instances", feature = "rent")),
    allow(dead_code, unused_imports, reason = "shared by protocols of which some are off")
)]

mod caller;
mod extract;
mod farewell;
mod health;
mod limits;
mod middleware;
mod problem;
mod protocol;
pub mod protocols;
mod router;
mod server;
mod state;
mod subscribers;
pub mod v1;
mod websocket;

pub use caller::Caller;
pub use limits::HttpLimits;
pub use middleware::auth::{ApiKey, ApiKeys, AuthError, Authenticator};
pub use problem::Problem;
pub use protocol::Protocol;
pub use router::HttpApi;
pub use server::{ServeError, Server};
#[cfg(feature = "tls")]
pub use server::{Tls, TlsError};
pub use state::AppState;

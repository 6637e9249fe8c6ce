//! Serves a host's rentals over HTTP and WebSocket.
//!
//! Two surfaces over the same [`Rentals`](gpurent_core::host::Rentals): our own API under `/v1`
//! ([`api`]) and the `rent` protocol of existing platforms ([`compat`]). Handlers validate, call
//! `Rentals` and render; none of them touches the engine.
//!
//! [`Server`] is all of it on an address; [`Surfaces`] is all of it as a router for an application's own
//! server. Who calls is told by an [`Authenticator`]; the default is [`ApiKeys`]: without any key the
//! server listens on loopback only, and refuses requests that a web page in somebody's browser could have
//! sent there.
//!
//! ```
//! # use gpurent_core::host::Rentals;
//! use gpurent_http::{ApiKeys, Surfaces};
//!
//! fn mount(rentals: Rentals, keys: ApiKeys) -> axum::Router {
//!     let gpus = Surfaces::new(rentals, keys);
//!     axum::Router::new().nest("/gpus", gpus.router()).route("/", axum::routing::get(|| async { "my own page" }))
//! }
//! ```

pub mod api;
mod audit;
mod auth;
mod body;
pub mod compat;
mod connections;
mod health;
mod limits;
mod listeners;
mod problem;
mod rate;
mod server;
mod surfaces;
mod tls;
mod words;

pub use auth::{ApiKey, ApiKeys, Authenticator, Caller, Denied};
pub use limits::Limits;
pub use server::{ServeError, Server};
pub use surfaces::{Surface, Surfaces};
pub use tls::{Tls, TlsError};

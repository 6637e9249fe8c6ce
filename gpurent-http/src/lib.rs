//! Serves a host's rentals over HTTP and WebSocket.
//!
//! Two surfaces over the same [`Rentals`](gpurent_core::rentals::Rentals): our own API under `/v1`
//! ([`api`]) and the `rent` protocol of existing platforms ([`compat`]). Handlers validate, call
//! `Rentals` and render; none of them touches the engine.
//!
//! Without an API key the server listens on loopback only, and refuses requests that a web page in
//! somebody's browser could have sent there.

pub mod api;
mod auth;
mod body;
pub mod compat;
mod problem;
mod server;
mod words;

pub use auth::{ApiKey, ApiKeys};
pub use server::{ServeError, Server};

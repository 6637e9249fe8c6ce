//! Keeps gpurent's rentals in a database.
//!
//! [`PostgresStore`] passes the same conformance suite as the core's store in memory. It lives in a
//! schema of its own (`gpurent`) with a migrations table of its own, so that it can share a database
//! with an application.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use gpurent_store::PostgresStore;
//!
//! let store = Arc::new(PostgresStore::connect("postgres://me@localhost/mine").await?);
//! # Ok(())
//! # }
//! ```

mod error;
mod postgres;
mod row;

pub use postgres::PostgresStore;

//! Keeps gpurent's rentals in a database.
//!
//! [`SqliteStore`] needs nothing but a file; [`PostgresStore`] serves many hosts and many front
//! processes. Both pass the same conformance suite as the core's store in memory, and keep API keys
//! ([`KeyStore`](gpurent_core::store::KeyStore)) beside the rentals. Both are polite guests in an
//! application's own database ([`from_pool`](PostgresStore::from_pool)): tables in a schema `gpurent` (on
//! SQLite: with the prefix `gpurent_`), and a migrations table of their own.
//!
//! ```
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use gpurent_core::store::{Filter, Store};
//! use gpurent_store::SqliteStore;
//!
//! let directory = tempfile::tempdir()?;
//! let store = SqliteStore::open(&directory.path().join("rentals.db")).await?;
//! assert!(store.list(&"host".parse()?, &Filter::default(), None, 10).await?.is_empty());
//! # Ok(())
//! # })
//! # .map_err(|error: Box<dyn std::error::Error>| error)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A shared database, with views for tools that know the rental tables of existing platforms:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use gpurent_store::{CompatibilityViews, PostgresStore};
//!
//! let pool = sqlx::PgPool::connect("postgres://me@localhost/mine").await?;
//! let store = PostgresStore::from_pool(pool).await?;
//! store.add_views(&CompatibilityViews::in_schema("platform")?).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//! - `postgres`, on by default: PostgreSQL 12 or newer, over TLS or without, behind poolers too.
//! - `sqlite`, on by default: SQLite, which is compiled in.

#[cfg(not(any(feature = "postgres", feature = "sqlite")))]
compile_error!("gpurent-store keeps nothing without a database: enable the feature `postgres` or `sqlite`");

mod claim;
mod error;
mod listing;
#[cfg(feature = "postgres")]
mod postgres;
mod refused;
mod rows;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "postgres")]
pub use postgres::{CompatibilityViews, PostgresStore};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;

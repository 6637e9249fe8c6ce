//! Conformance suites: what a backend has to do, one named test a clause.
//!
//! A third party proves a store of its own in a few lines:
//!
//! ```ignore
//! mod my_store_conforms {
//!     gpurent_core::store_suite!(futures_executor::block_on, || async { MyStore::connect().await });
//! }
//! ```

pub mod runtime_suite;
pub mod store_suite;

//! Conformance suites: what a backend has to do, one named test a clause.
//!
//! A third party proves a store of its own in a few lines:
//!
//! ```
//! mod my_store_conforms {
//!     use gpurent_core::memory::MemoryStore;
//!
//!     gpurent_core::store_suite!(futures_executor::block_on, || async { MemoryStore::default() });
//! }
//! ```

pub mod runtime_suite;
pub mod simulation;
pub mod store_suite;

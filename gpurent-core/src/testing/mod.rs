//! Conformance suites: what a backend has to do, one named test a clause; the simulation; and [`TestHost`], a whole host in
//! one line, for tests of an application.
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

pub mod allocator_suite;
pub mod clock_suite;
pub mod deadline_book_suite;
pub mod gpu_probe_suite;
mod host;
pub mod runtime_suite;
pub mod sealer_suite;
pub mod simulation;
pub mod store_suite;

pub use host::{TEST_GPU, TestHost};

/// The result of what cannot fail where the part under test does as it should.
fn valid<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("this goes well: {error:?}"))
}

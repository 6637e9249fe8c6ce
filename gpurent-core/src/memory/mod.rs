//! Fakes of everything outside: a store, an engine, GPUs and a clock in memory.
//!
//! They pass the same conformance suites as the real ones, and can be told to fail.

mod clock;
mod deadlines;
mod exec;
mod gpus;
mod machine;
mod runtime;
mod store;
mod tables;

pub use clock::ManualClock;
pub use deadlines::MemoryDeadlines;
pub use gpus::SimulatedGpus;
pub use machine::MemoryMachine;
#[cfg(feature = "testing")]
pub(crate) use runtime::ContainerSnapshot;
pub use runtime::{InjectedFault, MemoryRuntime, RuntimeStep};
pub use store::MemoryStore;
#[cfg(feature = "testing")]
pub(crate) use store::StoreSnapshot;

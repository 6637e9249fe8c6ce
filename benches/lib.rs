//! The parts that benches share: how things are compared ([`compare`]), a real host ([`host`]), and the engine
//! spoken to by hand ([`raw`]).

pub mod host;
mod pairs;
pub mod raw;

pub use pairs::{PlainSubject, Subject, compare, compare_plain, environment, quantile, rounds, tell};

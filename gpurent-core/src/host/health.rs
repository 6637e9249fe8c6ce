//! Conditions that hold rentals up: steps that fail, and an engine that does not answer.

use jiff::Timestamp;

/// A rental that waits: its next step failed, and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Since when it does not get on.
    pub since: Timestamp,
    /// How often the step failed since then.
    pub failures: u32,
    /// Why it failed the last time; tells a renter nothing that is the host's own.
    pub message: String,
}

/// The engine's answer when it was last asked for all containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineHealth {
    /// How all of them are. So it is believed to be before it was asked for the first time.
    Answers,
    /// How most of them are: it hangs over so many.
    HangsOver(usize),
    /// Nothing.
    Silent,
}

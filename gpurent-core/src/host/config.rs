//! How often the reconciler looks, and how much it does at once.

use std::time::Duration;

/// How often the reconciler looks, besides acting at once on what it is told.
#[derive(Clone, Debug)]
pub struct ReconcileConfig {
    /// How often the engine's containers are looked at while rentals run.
    pub observe: Duration,
    /// How often the store is read for intents that other processes wrote.
    pub read: Duration,
    /// How often it is confirmed that the host is still ours.
    pub confirm: Duration,
    /// How long a confirmation lasts. Without a valid one nothing is done on the engine, except that
    /// containers are stopped whose paid time is over.
    pub lease: Duration,
    /// How long a new holder of the host waits before it acts. Nothing where a lock makes sure that the former
    /// one is gone (`gpurent_docker::EngineLock`, for agents of one machine); elsewhere at least `lease`.
    pub handover: Duration,
    /// For how long a container must have been without a use before it is removed.
    pub orphan_grace: Duration,
    /// The safety sweep: everything is read and compared, whatever was believed before.
    pub sweep: Duration,
    /// How often a rental's use of the disk is measured; more rarely where that takes long.
    pub measure: Duration,
    /// The longest pause between two tries of something that fails for now.
    pub max_backoff: Duration,
    /// How long a shutdown waits for effects that must not be cut off.
    pub drain: Duration,
    /// Rentals on their way up at once; the others wait. Taking down is never held up.
    pub concurrent_steps: usize,
}

impl Default for ReconcileConfig {
    fn default() -> Self {
        Self {
            observe: Duration::from_secs(2),
            read: Duration::from_secs(2),
            confirm: Duration::from_secs(5),
            lease: Duration::from_secs(15),
            handover: Duration::ZERO,
            orphan_grace: Duration::from_secs(3),
            sweep: Duration::from_secs(300),
            measure: Duration::from_secs(15),
            max_backoff: Duration::from_secs(15),
            drain: Duration::from_secs(20),
            concurrent_steps: 64,
        }
    }
}

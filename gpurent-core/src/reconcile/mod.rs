//! The loop that makes rentals come true.
//!
//! Level-triggered: what to do next for a rental is computed from what is stored and what is observed
//! ([`Rental::next`](crate::rental::Rental::next)), never from a message. A crash anywhere is therefore
//! repaired by starting again. `driver` decides what runs when, `step` carries one action out,
//! `duty` keeps the loop's own chores (reading the store, observing the engine, publishing, confirming
//! the lease).

mod driver;
mod duty;
mod step;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;

use crate::clock::Sleep;
use crate::rentals::Shared;
use crate::runtime::RuntimeError;
use crate::store::StoreError;

/// How often the reconciler looks, besides acting at once on what it is told.
#[derive(Clone, Debug)]
pub struct Pace {
    /// How often the engine's containers are looked at while rentals run.
    pub observe: Duration,
    /// How often the store is read for intents that other processes wrote.
    pub read: Duration,
    /// How often it is confirmed that the host is still ours.
    pub confirm: Duration,
    /// The safety sweep: everything is read and compared, whatever was believed before.
    pub sweep: Duration,
    /// The longest pause between two tries of something that fails for now.
    pub max_backoff: Duration,
    /// How long a shutdown waits for effects that must not be cut off.
    pub drain: Duration,
    /// Pulls at once; other effects at once are sixteen times as many.
    pub concurrent_pulls: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            observe: Duration::from_secs(2),
            read: Duration::from_secs(2),
            confirm: Duration::from_secs(5),
            sweep: Duration::from_secs(300),
            max_backoff: Duration::from_secs(15),
            drain: Duration::from_secs(20),
            concurrent_pulls: 4,
        }
    }
}

/// Why a reconciler gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// Another process has taken over the host. This one has to end.
    #[error("another process has taken over this host")]
    TakenOver,
    /// The host cannot be taken over: its id is in use with another engine.
    #[error("the host cannot be taken over")]
    Refused(#[source] StoreError),
    /// The engine does not tell who it is.
    #[error("the container engine cannot be used")]
    Engine(#[source] RuntimeError),
}

/// The one that acts for a host. Run it on any executor; dropping the future stops it at once, and the
/// next one goes on where it was.
pub struct Reconciler {
    shared: Arc<Shared>,
}

impl Reconciler {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Takes over the host and acts for it until `shutdown` ends. Tenants run on after a shutdown.
    ///
    /// The caller must hold whatever makes sure that this engine has one agent only (such as
    /// `gpurent_docker::EngineLock`).
    ///
    /// # Errors
    /// [`ReconcileError`]: this process must not act for the host.
    pub async fn run(self, sleep: impl Sleep, shutdown: impl Future<Output = ()> + Send) -> Result<(), ReconcileError> {
        let running = Running::begin(&self.shared);
        let result = driver::Driver::new(Arc::clone(&self.shared), &sleep).run(shutdown.boxed().fuse()).await;
        drop(running);
        result
    }
}

/// Says that a reconciler runs for as long as it lives, however the future ends.
struct Running<'a>(&'a Shared);

impl<'a> Running<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.reconciling.store(true, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.reconciling.store(false, Ordering::SeqCst);
    }
}

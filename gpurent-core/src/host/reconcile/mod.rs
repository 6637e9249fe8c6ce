//! The loop that makes rentals come true.
//!
//! Level-triggered: what to do next for a rental is computed from what is stored and what is observed
//! ([`Rental::next`](crate::model::Rental::next)), never from a message. A crash anywhere is therefore
//! repaired by starting again.
//!
//! - `decide` is what is done with a rental or a container, by what the store and the engine say: pure, for the loop and for
//!   `dry_run`, which tells an operator what would be done.
//! - `driver` is the loop: what it believes, which rental's step runs (`in_flight`), what becomes of containers without a use
//!   (`orphans`), and what recurs for the host (`periodic_tasks`, `periodic`; `disk_watch` and `service_watch` look at what rentals write and
//!   offer, in `rounds`).
//! - `step` carries one action out for one rental: the effect on the engine, then its record.
//! - `leadership` is how a process becomes the one that acts; `observe`, `publish`, `pull` and `adopt` are what it asks.
//! - `clock_mapping` puts the engine's times on the host's clocks; `contain_panic` makes a backend's panic a failure.
//! - `watchdog` is what is still done while nobody may act.

mod adopt;
mod clock_mapping;
mod contain_panic;
mod decide;
mod driver;
mod dry_run;
mod leadership;
mod observe;
mod periodic;
mod publish;
mod pull;
mod rounds;
mod step;
mod watchdog;

use std::sync::Arc;

pub use dry_run::{Planned, plan};
use futures_util::FutureExt;
pub use watchdog::watch;

use crate::clock::Sleep;
use crate::host::context::HostContext;
use crate::host::readiness::Readiness;
use crate::runtime::RuntimeError;
use crate::store::StoreError;

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
///
/// A request to rent that comes before the reconciler has begun to run, or has found out what is there, waits for it; once the
/// reconciler is dropped, or has ended, requests are refused.
#[must_use = "nothing happens on the host unless it runs"]
pub struct Reconciler {
    running: Running,
}

impl Reconciler {
    pub(crate) fn new(context: Arc<HostContext>) -> Self {
        context.readiness.set(Readiness::Starting);
        Self { running: Running(context) }
    }

    /// Takes over the host and acts for it until `shutdown` ends. Tenants run on after a shutdown.
    ///
    /// The caller must hold whatever makes sure that this engine has one agent only (such as
    /// `gpurent_docker::EngineLock`).
    ///
    /// # Errors
    /// [`ReconcileError`]: this process must not act for the host.
    pub async fn run(
        self,
        sleep: impl Sleep + 'static,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ReconcileError> {
        let context = Arc::clone(&self.running.0);
        driver::Driver::run(context, Arc::new(sleep), shutdown.boxed().fuse()).await
    }
}

/// Says that there is a reconciler for as long as it lives, however its future ends.
struct Running(Arc<HostContext>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.readiness.set(Readiness::NoReconciler);
        self.0.set_lease(None);
        self.0.placement.quarantine.knows_none();
        if let Some(pulls) = &self.0.pulls {
            pulls.forget();
        }
    }
}

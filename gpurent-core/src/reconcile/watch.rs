//! What is still done for a host while nobody may act for it: containers are stopped whose paid time is
//! over by the host's own book. Nothing else is touched, and nothing is removed: the engine keeps the record
//! of the end until the store is there to take it.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use futures_util::future::join_all;

use crate::clock::{Clock, Sleep};
use crate::deadline::Deadline;
use crate::host::Shared;
use crate::id::LaunchId;
use crate::lease::Lease;
use crate::runtime::ContainerRuntime;

/// How long something is waited for that does not answer, and how long the watch sleeps at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches over the book for ever: for a process that waits for its store, and has no reconciler yet.
/// Dropping the future ends the watch.
pub async fn watch(
    book: &dyn crate::deadline::DeadlineBook,
    runtime: &dyn ContainerRuntime,
    clock: &dyn Clock,
    sleep: &dyn Sleep,
) {
    let mut stopped = BTreeSet::new();
    loop {
        let pause = match book.read().await {
            Ok(deadlines) => stop_overdue(&deadlines, &mut stopped, runtime, clock).await,
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "nobody knows which rentals are over");
                PATIENCE
            }
        };
        sleep.sleep(pause).await;
    }
}

/// The same for a reconciler, whenever it must not act or does not know enough to.
pub(super) async fn watch_while_unused(shared: &Shared, lease: &Lease, sleep: &dyn Sleep) {
    let mut stopped = BTreeSet::new();
    loop {
        lease.unused(sleep).await;
        // Somebody else may have written the book since we did.
        let pause = match shared.deadlines.read().await {
            Ok(deadlines) => stop_overdue(&deadlines, &mut stopped, &*shared.runtime, &*shared.clock).await,
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "nobody knows which rentals are over");
                PATIENCE
            }
        };
        sleep.sleep(pause).await;
    }
}

/// Stops what is overdue and was not stopped yet; tells when to look again.
pub(super) async fn stop_overdue(
    deadlines: &[Deadline],
    stopped: &mut BTreeSet<LaunchId>,
    runtime: &dyn ContainerRuntime,
    clock: &dyn Clock,
) -> Duration {
    stopped.retain(|launch| deadlines.iter().any(|deadline| deadline.launch == *launch));
    let mut pause = PATIENCE;
    let mut overdue = Vec::new();
    for deadline in deadlines {
        match deadline.time_left(&clock.now()) {
            None => {}
            Some(left) if left.is_positive() => pause = pause.min(left.unsigned_abs()),
            Some(_) if stopped.contains(&deadline.launch) => {}
            Some(_) => overdue.push(deadline.launch),
        }
    }
    let stopping = overdue.into_iter().map(async |launch| (launch, runtime.stop(launch, Duration::ZERO).await));
    for (launch, result) in join_all(stopping).await {
        match result {
            Ok(_) => {
                tracing::warn!(%launch, "stopped: its paid time is over, and the store is away");
                stopped.insert(launch);
            }
            Err(error) => tracing::warn!(%launch, error = &error as &dyn Error, "not stopped; to be tried again"),
        }
    }
    pause
}

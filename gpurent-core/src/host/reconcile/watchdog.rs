//! The watchdog, which acts for a host while nobody else may: containers are stopped whose paid time is
//! over by the host's own book, unless the store answers and knows better. Nothing else is touched, and nothing is
//! removed: the engine keeps the record of the end until the store is there to take it.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, select_biased};

use crate::clock::{Clock, Sleep};
use crate::host::context::HostContext;
use crate::host::lease::Lease;
use crate::id::LaunchId;
use crate::runtime::ContainerRuntime;
use crate::store::{Deadline, DeadlineBook, Store};

/// How long the watch sleeps at most, and how long one pass waits for an engine that does not stop something.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the store may take to say that a rental was extended, or that somebody else acts for the host.
const STORE_TIMEOUT: Duration = Duration::from_millis(200);

/// The watchdog, and the host that it watches.
struct Watch<'a> {
    runtime: &'a dyn ContainerRuntime,
    clock: &'a dyn Clock,
    sleep: &'a dyn Sleep,
    /// `None` where it could not be reached yet.
    store: Option<&'a dyn Store>,
    /// The launches that were stopped already.
    stopped: BTreeSet<LaunchId>,
}

/// Watches over the book for ever: for a process that waits for its store, and has no reconciler yet. It
/// begins after a second, so that a store that answers at once comes first. Dropping the future ends the watch.
pub async fn watch(book: &dyn DeadlineBook, runtime: &dyn ContainerRuntime, clock: &dyn Clock, sleep: &dyn Sleep) {
    let mut watch = Watch { runtime, clock, sleep, store: None, stopped: BTreeSet::new() };
    loop {
        sleep.sleep(STOP_TIMEOUT).await;
        watch.pass_over(book.read().await).await;
    }
}

/// The same for a reconciler that has not taken its host over yet.
pub(super) async fn watch_until_taken_over(context: &HostContext, sleep: &dyn Sleep) {
    let mut watch = Watch::of(context, sleep);
    loop {
        let pause = watch.pass_over(context.deadlines.read().await).await;
        sleep.sleep(pause).await;
    }
}

/// The same for a reconciler, whenever it must not act or does not know enough to.
pub(super) async fn watch_while_unused(context: &HostContext, lease: &Lease, sleep: &dyn Sleep) {
    let mut watch = Watch::of(context, sleep);
    loop {
        lease.unused(sleep).await;
        // The store may be there, and say at once whose the host is: then this process goes on, or ends.
        sleep.sleep(STORE_TIMEOUT).await;
        if !lease.is_used() {
            // Somebody else may have written the book since we did.
            let pause = watch.pass_over(context.deadlines.read().await).await;
            sleep.sleep(pause).await;
        }
    }
}

impl<'a> Watch<'a> {
    fn of(context: &'a HostContext, sleep: &'a dyn Sleep) -> Self {
        let (runtime, clock, store) = (&*context.runtime, &*context.clock, &*context.store);
        Self { runtime, clock, sleep, store: Some(store), stopped: BTreeSet::new() }
    }

    /// Stops what is overdue and was not stopped yet; tells when to look again.
    async fn pass_over<E: Error>(&mut self, book: Result<Vec<Deadline>, E>) -> Duration {
        let deadlines = match book {
            Ok(deadlines) => deadlines,
            Err(error) => {
                tracing::error!(error = %error, "nobody knows which rentals are over");
                return STOP_TIMEOUT;
            }
        };
        self.stopped.retain(|launch| deadlines.iter().any(|deadline| deadline.launch == *launch));
        let mut pause = STOP_TIMEOUT;
        let mut overdue = Vec::new();
        for deadline in deadlines {
            match deadline.time_left(&self.clock.now()) {
                None => {}
                Some(left) if left.is_positive() => pause = pause.min(left.unsigned_abs()),
                Some(_) if self.stopped.contains(&deadline.launch) => {}
                Some(_) => overdue.push(deadline.launch),
            }
        }
        let watch = &*self;
        let mut stopping: FuturesUnordered<_> =
            overdue.into_iter().map(async |launch| (launch, watch.stop(launch).await)).collect();
        // One that cannot be stopped must not hold up the others, whose time comes meanwhile.
        let mut too_late = self.sleep.sleep(STOP_TIMEOUT).fuse();
        let mut stopped = Vec::new();
        loop {
            select_biased! {
                done = stopping.next() => match done {
                    Some((launch, true)) => stopped.push(launch),
                    Some((_, false)) => {}
                    None => break,
                },
                () = too_late => break,
            }
        }
        drop(stopping);
        self.stopped.extend(stopped);
        pause
    }

    /// Whether it is stopped, or need not be.
    async fn stop(&self, launch: LaunchId) -> bool {
        if self.goes_on(launch).await {
            return false;
        }
        match self.runtime.stop(launch, Duration::ZERO).await {
            Ok(_) => {
                tracing::warn!(%launch, "stopped: its paid time is over, and nobody acts for the host");
                true
            }
            Err(error) => {
                tracing::warn!(%launch, error = &error as &dyn Error, "not stopped; to be tried again");
                false
            }
        }
    }

    /// Whether the store says, in time, that there is paid time left: another process may have extended it.
    async fn goes_on(&self, launch: LaunchId) -> bool {
        let Some(store) = self.store else { return false };
        let mut asked = store.get(launch.rental).fuse();
        let mut patience = self.sleep.sleep(STORE_TIMEOUT).fuse();
        let rental = select_biased! {
            rental = asked => rental.ok().flatten(),
            () = patience => None,
        };
        let left =
            rental.filter(|rental| rental.launch() == launch).and_then(|rental| rental.time_left(&self.clock.now()));
        left.is_some_and(|left| left.is_positive())
    }
}

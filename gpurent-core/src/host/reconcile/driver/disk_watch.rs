//! The watch over what rentals write on the host's disk: who is measured when, and what it comes to. The rules are in
//! [`disk_limit`](crate::allocation::disk_limit).
//!
//! Measuring takes the longer the more files a tenant has: each rental has a pace of its own, ten times as long as its
//! measuring takes, and few are measured at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, select_biased};

use crate::allocation::{Allowed, Before, DiskLimit, Verdict, Written};
use crate::clock::BootInstant;
use crate::host::reconcile::contain_panic::contained;
use crate::host::reconcile::driver::{Done, Driver};
use crate::host::reconcile::rounds::Rounds;
use crate::id::{LaunchId, RentalId};
use crate::model::{Action, DiskUse, EndReason, Rental, RentalState};
use crate::runtime::{LaunchSpec, RuntimeError};

/// How many rentals are measured at once.
const AT_ONCE: usize = 4;

/// The rest between two looks, in times of what the last one took if it came to something; but no more than the longest.
const REST: u32 = 10;
const MAX_MEASURE_INTERVAL: Duration = Duration::from_secs(600);

/// How long one measuring may take.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(600);

/// The looks at all rentals' disk space.
pub(in crate::host::reconcile) struct DiskWatch {
    rounds: Rounds,
    /// The former looks at each, with the limits of the last.
    seen: BTreeMap<LaunchId, (Before, Allowed)>,
    /// Warnings that renters have not been told yet.
    warnings: BTreeMap<RentalId, (LaunchId, Action)>,
}

impl Default for DiskWatch {
    fn default() -> Self {
        Self { rounds: Rounds::new(AT_ONCE), seen: BTreeMap::new(), warnings: BTreeMap::new() }
    }
}

/// A look at what a rental has written.
pub(in crate::host::reconcile) struct Look {
    launch: LaunchId,
    /// When it began, on the boot clock.
    begun: BootInstant,
    allowed: Allowed,
    /// The most that is counted.
    most: Written,
}

impl DiskWatch {
    /// When the next look is due, on the boot clock.
    pub(in crate::host::reconcile) fn due(&self) -> Option<BootInstant> {
        self.rounds.due()
    }

    /// Takes the warning that a rental's renter is to be told.
    pub(in crate::host::reconcile) fn warning(&mut self, rental: &Rental) -> Option<Action> {
        let (launch, warning) = self.warnings.remove(&rental.id())?;
        (launch == rental.launch() && matches!(rental.state(), RentalState::Ready)).then_some(warning)
    }

    pub(in crate::host::reconcile) fn forget(&mut self, rental: RentalId) {
        self.warnings.remove(&rental);
    }
}

impl Driver {
    /// Measures those whose turn it is. A rental is looked at as soon as it runs: what is there then was there before.
    pub(in crate::host::reconcile) fn measure_disks(&mut self, now: BootInstant) {
        if self.context.placement.disk_limit == DiskLimit::None {
            return;
        }
        let up: Vec<LaunchId> =
            self.live.values().filter(|rental| rental.state().is_up()).map(|rental| rental.launch()).collect();
        self.disks.rounds.keep_to(&up, now);
        self.disks.seen.retain(|launch, _| up.contains(launch));
        while let Some(launch) = self.disks.rounds.begin(now) {
            let rental = self.live.get(&launch.rental);
            let Some((rental, allowed)) = rental.and_then(|rental| Some((rental, self.allowed_to(rental)?))) else {
                self.disks.rounds.done(launch, now.after(self.context.config.measure));
                continue;
            };
            let most = allowed.most_counted(self.disks.seen.get(&launch).map(|(seen, _)| *seen));
            let (context, sleep, spec) = (Arc::clone(&self.context), Arc::clone(&self.sleep), LaunchSpec::of(rental));
            self.spawn(async move {
                let mut used = std::pin::pin!(contained(context.runtime.disk_use(&spec, most)).fuse());
                let mut too_late = sleep.sleep(MEASURE_TIMEOUT).fuse();
                let used = select_biased! {
                    used = used => used,
                    () = too_late => Err(RuntimeError::Unavailable("it is not counted in time".into())),
                };
                Done::Measured(Look { launch, begun: now, allowed, most }, used)
            });
        }
    }

    /// The limits of a rental; where several mount one workspace, of all of them together.
    fn allowed_to(&self, rental: &Rental) -> Option<Allowed> {
        let placement = &self.context.placement;
        let allowed = |rental: &Rental| placement.disk_limit.allowed(placement.division().part(rental.gpus().len()));
        let Some(workspace) = &rental.spec().workspace else { return allowed(rental) };
        let shares = |other: &&Arc<Rental>| {
            let theirs = other.spec().workspace.as_ref();
            other.id() != rental.id() && other.state().is_up() && theirs.is_some_and(|w| w.folder == workspace.folder)
        };
        self.live
            .values()
            .filter(shares)
            .filter_map(|other| allowed(other))
            .fold(allowed(rental), |sum, other| Some(sum?.with(other)))
    }

    /// Judges a look.
    pub(in crate::host::reconcile) fn measured(
        &mut self,
        Look { launch, begun, allowed, most }: Look,
        result: Result<Written, RuntimeError>,
    ) {
        let now = self.now();
        let took = now.since(begun);
        // An engine that hung until it failed has not counted for all that time, and somebody may be filling the disk.
        let times = if result.is_ok() { REST } else { 1 };
        let rest = took.saturating_mul(times).min(MAX_MEASURE_INTERVAL).max(self.context.config.measure);
        self.disks.rounds.done(launch, now.after(rest));
        let seen = self.disks.seen.get(&launch).copied();
        let used = match result {
            Ok(mut used) => {
                // What was copied lies below what the container shows.
                let copied = self.live.get(&launch.rental).map_or(0, |rental| rental.copied_bytes());
                used.container = used.container.plus(DiskUse { bytes: copied, files: 0 });
                used
            }
            Err(error) => {
                // Of one that has just ended, as a rule.
                if !matches!(error, RuntimeError::Missing) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%launch, error, "what it writes on the disk is not known");
                }
                return;
            }
        };
        let before =
            seen.map(|(seen, former)| if former == allowed { seen } else { seen.under_other_limits(&former, used) });
        // What is in the container of a rental that was resumed it wrote itself, before.
        let was_resumed = self.live.get(&launch.rental).is_some_and(|rental| rental.resumed() > 0);
        let first = || match Before::first(used, most) {
            found if was_resumed => found.with_a_container_of_its_own(&allowed),
            found => found,
        };
        let seen = before.map_or_else(first, |before| before.again(used, most));
        self.disks.seen.insert(launch, (seen, allowed));
        let wall = self.context.clock.now().wall;
        let current = self.live.get(&launch.rental).filter(|rental| rental.launch() == launch);
        let Some(rental) = current.filter(|rental| rental.state().is_up()) else { return };
        let (verdict, used, limit) = allowed.judge(used, before);
        match verdict {
            Verdict::Fine => self.disks.forget(launch.rental),
            Verdict::Warn if matches!(rental.state(), RentalState::Ready) && !rental.was_warned_of_the_disk(wall) => {
                self.disks.warnings.insert(launch.rental, (launch, Action::WarnOfDisk { used, limit }));
            }
            Verdict::Warn => {}
            Verdict::Stop => {
                self.ended_by_themselves.insert(launch.rental, EndReason::DiskFull { used, limit });
            }
        }
    }
}

//! The watch over what rentals write on the host's disk: who is measured when, and what it comes to. The rules are in
//! [`disk`](crate::disk).
//!
//! Measuring takes the longer the more files a tenant has: each rental has a pace of its own, ten times as long as its
//! measuring takes, and few are measured at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::chores::contained;
use super::driver::{Done, Driver};
use super::duty::later;
use crate::disk::{DiskUse, Verdict, judge, most_counted};
use crate::id::{LaunchId, RentalId};
use crate::lifecycle::{EndReason, State};
use crate::rental::{Action, Rental};
use crate::runtime::{LaunchSpec, RuntimeError};

/// How many rentals are measured at once.
const AT_ONCE: usize = 4;

/// For each second that measuring takes, so many pass until the next time.
const REST: u32 = 10;

/// One launch's use of the disk, as far as known.
#[derive(Default)]
struct Measured {
    used: Option<DiskUse>,
    /// On the boot clock; `None` while it is being measured.
    due: Option<i64>,
}

/// What is known of the disk.
#[derive(Default)]
pub(super) struct DiskWatch {
    measured: BTreeMap<LaunchId, Measured>,
    /// Those whose renters are to be told.
    pub(super) warnings: BTreeMap<RentalId, Action>,
}

impl DiskWatch {
    /// What all have written together, as far as known.
    fn used(&self) -> DiskUse {
        self.measured.values().filter_map(|measured| measured.used).fold(DiskUse::default(), DiskUse::plus)
    }

    fn under_way(&self) -> usize {
        self.measured.values().filter(|measured| measured.due.is_none()).count()
    }

    /// When the next one is due, on the boot clock.
    pub(super) fn due(&self) -> Option<i64> {
        let next = self.measured.values().filter_map(|measured| measured.due).min();
        next.filter(|_| self.under_way() < AT_ONCE)
    }
}

impl Driver {
    /// Measures those whose turn it is.
    pub(super) fn measure_disks(&mut self, now: i64) {
        let up: Vec<LaunchId> =
            self.live.values().filter(|rental| rental.state().is_up()).map(Rental::launch).collect();
        self.disks.measured.retain(|launch, measured| measured.due.is_none() || up.contains(launch));
        for launch in up {
            let first = later(now, self.shared.pace.measure);
            self.disks.measured.entry(launch).or_insert(Measured { used: None, due: Some(first) });
        }
        let mut due: Vec<(i64, LaunchId)> = self
            .disks
            .measured
            .iter()
            .filter_map(|(launch, measured)| Some((measured.due.filter(|due| *due <= now)?, *launch)))
            .collect();
        due.sort_unstable();
        for (_, launch) in due.into_iter().take(AT_ONCE.saturating_sub(self.disks.under_way())) {
            let Some(rental) = self.live.get(&launch.rental) else { continue };
            let Some(limit) = self.limit_of(rental) else {
                self.rest(launch, now, Duration::ZERO, None);
                continue;
            };
            if let Some(measured) = self.disks.measured.get_mut(&launch) {
                measured.due = None;
            }
            let (shared, spec) = (Arc::clone(&self.shared), LaunchSpec::of(rental));
            self.spawn(async move {
                let measured = contained(shared.runtime.disk_use(&spec, most_counted(limit))).await;
                Done::Measured(launch, now, measured)
            });
        }
    }

    fn limit_of(&self, rental: &Rental) -> Option<DiskUse> {
        let placement = &self.shared.placement;
        let part = placement.division().part(rental.gpus().len());
        placement.disk_limit.of(part, placement.disks.space().as_ref(), self.disks.used())
    }

    /// The next time comes after a rest.
    fn rest(&mut self, launch: LaunchId, now: i64, took: Duration, used: Option<DiskUse>) {
        let due = later(now, self.shared.pace.measure.max(took.saturating_mul(REST)));
        let before = self.disks.measured.get(&launch).and_then(|measured| measured.used);
        self.disks.measured.insert(launch, Measured { used: used.or(before), due: Some(due) });
    }

    /// What a measurement comes to.
    pub(super) fn measured(&mut self, launch: LaunchId, begun: i64, result: Result<DiskUse, RuntimeError>) {
        let now = self.now();
        let took = Duration::from_micros(u64::try_from(now.saturating_sub(begun)).unwrap_or(0));
        let before = self.disks.measured.get(&launch).and_then(|measured| measured.used);
        let used = match result {
            Ok(used) => used,
            Err(error) => {
                // Of one that has just ended, as a rule; and of an engine that does not tell, of which the log says more.
                tracing::debug!(%launch, error = &error as &dyn std::error::Error, "disk use not measured");
                return self.rest(launch, now, took, None);
            }
        };
        self.rest(launch, now, took, Some(used));
        let wall = self.shared.clock.now().wall;
        let current = self.live.get(&launch.rental).filter(|rental| rental.launch() == launch);
        let Some(rental) = current.filter(|rental| rental.state().is_up()) else { return };
        let Some(limit) = self.limit_of(rental) else { return };
        match judge(used, before, limit) {
            Verdict::Fine => drop(self.disks.warnings.remove(&launch.rental)),
            Verdict::Warn if matches!(rental.state(), State::Ready) && !rental.was_warned_of_the_disk(wall) => {
                self.disks.warnings.insert(launch.rental, Action::WarnOfDisk { used, limit });
            }
            Verdict::Warn => {}
            Verdict::Stop => {
                self.ended_by_themselves.insert(launch.rental, EndReason::DiskFull { used, limit });
            }
        }
    }
}

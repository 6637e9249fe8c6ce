//! The store against the engines: holds, places, reasons, the journal.

use std::collections::BTreeMap;

use crate::id::{HostId, RentalId, Seq};
use crate::memory::ContainerSnapshot;
use crate::model::{EndReason, GpuUuid, HostPort, Rental, RentalState, SuspendCause};
use crate::runtime::ContainerStatus;
use crate::store::Store;
use crate::testing::simulation::environment::{Environment, at_once};
use crate::testing::simulation::oracle::{DISK_LIMIT, FILLS_PER_SECOND, Oracle, gave_up, is_gone};

impl Oracle {
    pub(super) fn check_store(&mut self, environment: &Environment) {
        let rows = self.store.all();
        self.check_holds(&rows);
        for row in rows {
            let id = row.id();
            let name = self.name(id);
            if self.rows.get(&id) == Some(&row) {
                continue;
            }
            self.check_row(&name, &row);
            if !matches!(row.state().end_reason(), None | Some(EndReason::Expired)) {
                self.ended_once.insert(row.launch());
            }
            let was_suspended =
                self.rows.get(&id).is_some_and(|before| matches!(before.state(), RentalState::Suspended { .. }));
            if !self.known_since.contains_key(&id) || (was_suspended && !row.gpus().is_empty()) {
                self.check_place(environment, &name, &row);
            }
            let since = *self.known_since.entry(id).or_insert(environment.now());
            let early = environment.now() - since < self.provisioning - 1_000_000;
            if early && gave_up(&row) && !self.restored && !self.hosts.iter().any(|host| host.reboots > 0) {
                self.report_violation(format!(
                    "{name} is given up as too slow after {} microseconds",
                    environment.now() - since
                ));
            }
            if !row.is_live() && self.billed.insert(id) {
                self.check_bill(environment, &name, &row);
                self.check_absence(&name, &row);
            }
            if row.state().suspend_cause().is_some() && !self.suspending_since.contains_key(&row.launch()) {
                self.suspending_since.insert(row.launch(), environment.now());
                self.check_reason(environment, &name, &row);
            }
            if matches!(row.state(), RentalState::Suspended { .. }) {
                self.check_retained(&name, &row);
            }
            if row.paid_from().is_some() {
                self.ready_since.entry(row.launch()).or_insert(environment.now());
            }
            if row.state().end_reason().is_some() && !self.ending_since.contains_key(&id) {
                self.ending_since.insert(id, environment.now());
                self.check_reason(environment, &name, &row);
            }
            self.rows.insert(id, row);
        }
    }

    pub(super) fn check_holds(&mut self, rows: &[Rental]) {
        let mut gpus: BTreeMap<(&HostId, &GpuUuid), RentalId> = BTreeMap::new();
        let mut ports: BTreeMap<(&HostId, HostPort), RentalId> = BTreeMap::new();
        let mut twice = None;
        for row in rows.iter().filter(|row| row.is_live()) {
            for gpu in row.gpus() {
                twice = twice.or(gpus.insert((row.host(), &gpu.uuid), row.id()));
            }
            for binding in row.ports() {
                twice = twice.or(ports.insert((row.host(), binding.host), row.id()));
            }
        }
        if let Some(rental) = twice {
            let name = self.name(rental);
            self.report_violation(format!("I1: what {name} holds is held by another live rental"));
        }
    }

    pub(super) fn check_row(&mut self, name: &str, row: &Rental) {
        let events = at_once(self.store.events(row.id(), Seq::ZERO, 500)).unwrap_or_default();
        match Rental::folded(&events) {
            None => self.report_violation(format!("I7: the events of {name} are not a legal history")),
            Some(folded) if !folded.is_same_but_for_writes(row) => {
                self.report_violation(format!("I7: the events of {name} do not fold to it"));
            }
            Some(_) => {}
        }
        let open = row.segments().iter().filter(|segment| segment.ended_at.is_none()).count();
        let billable = matches!(
            row.state(),
            RentalState::Ready
                | RentalState::Suspending { stopped: false, .. }
                | RentalState::Ending { stopped: false, .. }
        );
        if open > usize::from(billable) {
            self.report_violation(format!("I5: {name} has {open} open segments while it is {:?}", row.state()));
        }
        let overlap = row.segments().windows(2).any(|pair| pair[0].ended_at.is_none_or(|end| end > pair[1].started_at));
        if overlap {
            self.report_violation(format!("I5: segments of {name} overlap"));
        }
    }

    /// Checks that no rental is given a GPU on which another's container runs.
    pub(super) fn check_place(&mut self, environment: &Environment, name: &str, row: &Rental) {
        if environment.now() < self.echoes_until {
            return;
        }
        let there = self.hosts.iter().flat_map(|host| host.engine.snapshot());
        let others = there.filter(|seen| seen.launch.rental != row.id() && seen.status == ContainerStatus::Running);
        let on_its_gpus = |seen: &ContainerSnapshot| row.gpus().iter().any(|gpu| seen.gpus.contains(&gpu.uuid));
        if let Some(other) = others.into_iter().find(on_its_gpus) {
            self.report_violation(format!("I4: {name} is given a GPU on which {} runs", other.launch));
        }
    }

    /// Checks that a suspended rental has a container that is put away, and none that runs.
    pub(super) fn check_retained(&mut self, name: &str, row: &Rental) {
        let there = self.hosts.iter().flat_map(|host| host.engine.snapshot());
        let its: Vec<ContainerSnapshot> = there.filter(|seen| seen.launch.rental == row.id()).collect();
        if self.restored || self.robbed.contains(&row.id()) {
            return;
        }
        if its.iter().any(|seen| seen.status == ContainerStatus::Running) {
            self.report_violation(format!("I3: {name} is suspended, and its container runs"));
        }
        if row.retained().is_none() || !its.iter().any(|seen| seen.retained) {
            self.report_violation(format!("{name} is suspended, and nothing of it is kept"));
        }
    }

    /// Checks that an ended rental has no container that ran. (One that never did may be made late, by a request lost on
    /// its way; it is found and removed.)
    pub(super) fn check_absence(&mut self, name: &str, row: &Rental) {
        let there = self.hosts.iter().flat_map(|host| host.engine.snapshot());
        let left = there.into_iter().any(|seen| seen.launch.rental == row.id() && seen.started_at.is_some());
        if left && !self.restored {
            self.report_violation(format!("I3: {name} is {:?}, and its container is there", row.state()));
        }
    }

    /// Checks that no container is said to be gone that runs, and that no failure takes what was ready once.
    pub(super) fn check_reason(&mut self, environment: &Environment, name: &str, row: &Rental) {
        let gone = match row.state().end_reason() {
            Some(EndReason::Lost { .. } | EndReason::Exited { .. }) => true,
            Some(EndReason::Failed(why)) => is_gone(why),
            _ => matches!(row.state().suspend_cause(), Some(SuspendCause::Failed(why)) if is_gone(why)),
        };
        if let Some(EndReason::DiskFull { used, .. }) = row.state().end_reason() {
            // What an earlier container wrote may have been taken over.
            let of_the_rental = self.filling.iter().filter(|(launch, _)| launch.rental == row.id());
            let filled = of_the_rental.map(|(launch, since)| {
                let until = self.runs.get(launch).and_then(|run| run.died).unwrap_or(environment.now());
                u64::try_from(until - since).unwrap_or(0) / 1_000_000 * FILLS_PER_SECOND
            });
            let written: u64 = filled.sum();
            if used.bytes <= DISK_LIMIT || (used.bytes > written && !self.restored) {
                self.report_violation(format!("{name} ends for {} bytes, and wrote {written}", used.bytes));
            }
        }
        if let Some(EndReason::Failed(why)) = row.state().end_reason()
            && row.has_been_ready()
            && !self.restored
        {
            self.report_violation(format!(
                "{name} was ready once, and a launch that failed ends it with its files: {why:?}"
            ));
        }
        let runs = self.runs.get(&row.launch()).is_some_and(|run| run.died.is_none());
        if gone && runs && environment.now() >= self.echoes_until {
            self.report_violation(format!(
                "{name} ends as gone, and its container runs: {:?}",
                row.state().end_reason()
            ));
        }
    }

    /// The journal has every event of every rental, in the rental's order.
    pub(super) fn check_journal(&self, environment: &Environment, host: &HostId) {
        let mut next: BTreeMap<RentalId, Seq> = BTreeMap::new();
        let mut at = crate::id::Position::ZERO;
        loop {
            let page = at_once(self.store.journal(host, at, 500)).unwrap_or_default();
            let Some(last) = page.last() else { break };
            for entry in &page {
                let seq = next.entry(entry.rental).or_insert(Seq::ZERO);
                if entry.position != at.next() || entry.recorded.seq != seq.next() {
                    return environment.broken("I7: the journal has a gap, or something twice".to_owned());
                }
                (at, *seq) = (entry.position, entry.recorded.seq);
            }
            debug_assert_eq!(at, last.position);
        }
        for row in self.store.all().into_iter().filter(|row| row.host() == host) {
            if next.get(&row.id()) != Some(&row.last_seq()) {
                environment.broken("I7: an event is not in the journal".to_owned());
            }
        }
    }
}

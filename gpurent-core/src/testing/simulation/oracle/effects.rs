//! Effects on the engines as they land: who may have them, and what they may do.

use crate::id::{Epoch, LaunchId};
use crate::memory::ContainerSnapshot;
use crate::model::{EndReason, Rental, RentalState, Term};
use crate::runtime::ContainerStatus;
use crate::store::Store;
use crate::testing::simulation::environment::{Environment, HostNo, ProcessId, at_once};
use crate::testing::simulation::fault_point::FaultPoint;
use crate::testing::simulation::oracle::{FILLS_PER_SECOND, Oracle};

impl Oracle {
    pub(in crate::testing::simulation) fn took_over(&mut self, process: ProcessId, host: HostNo, epoch: Epoch) {
        let given = &mut self.hosts[host].given;
        if !given.insert(epoch) && !self.restored {
            self.report_violation(format!("I9: epoch {epoch} is given to process {process}, and was given before"));
        }
        self.epochs.insert(process, epoch);
        if self.restored {
            // A store that was set back counts epochs from where it was.
            for host in &mut self.hosts {
                host.acted = None;
            }
        }
    }

    /// A process sends something to an engine that will change it.
    pub(in crate::testing::simulation) fn acts(
        &mut self,
        process: ProcessId,
        host: HostNo,
        point: FaultPoint,
        launch: LaunchId,
    ) {
        if point == FaultPoint::Stop {
            // Allowed without holding the host, to whoever's time is over: judged when it lands.
            return;
        }
        let name = self.name(launch.rental);
        let Some(epoch) = self.epochs.get(&process).copied() else {
            return self.report_violation(format!(
                "I9: process {process} does {point:?} to {name} and never took the host over"
            ));
        };
        let newest = self.hosts[host].acted.unwrap_or(epoch).max(epoch);
        self.hosts[host].acted = Some(newest);
        if epoch < newest {
            self.report_violation(format!(
                "I9: process {process} does {point:?} to {name} in epoch {epoch}, though epoch {newest} has acted"
            ));
        }
    }

    pub(super) fn running(&self, host: HostNo, launch: LaunchId) -> bool {
        let seen = self.hosts[host].engine.snapshot();
        seen.iter().any(|seen| seen.launch == launch && seen.status == ContainerStatus::Running)
    }

    /// A stop lands.
    pub(in crate::testing::simulation) fn stops(&mut self, environment: &Environment, host: HostNo, launch: LaunchId) {
        if environment.now() < self.echoes_until || !self.running(host, launch) {
            return;
        }
        let name = self.name(launch.rental);
        let stored = at_once(self.store.get(launch.rental)).unwrap_or_default();
        let Some(row) = stored.or_else(|| self.rows.get(&launch.rental).cloned()) else { return };
        if row.attempt() != launch.attempt || row.state().suspend_cause().is_some() {
            return;
        }
        if self.ended_once.contains(&launch) {
            // The end was recorded, and its agent carries it out although the store has forgotten it since.
            return;
        }
        let by_the_clock = matches!(row.state().end_reason(), None | Some(EndReason::Expired));
        let (Some(run), true) = (self.runs.get(&launch), by_the_clock) else { return };
        let promised = self.promised.get(&launch.rental).copied().flatten();
        let known = self.rows.get(&launch.rental).map(|known| known.spec().term);
        let terms = [Some(row.spec().term), promised, known].into_iter().flatten();
        // What earlier launches used is over.
        let used = self.rows.get(&launch.rental).map(Rental::used_before).max(Some(row.used_before()));
        let term = terms.filter_map(Term::duration).max().map(|term| term - used.unwrap_or_default());
        // A wall clock that was set between a start and its record leaves the time in between to be told by.
        let slack = if environment.clock_was_set(host) { 1_000_000 } else { 0 };
        let lived = environment.now() - run.started + slack;
        match (row.paid_from().or(self.rows.get(&launch.rental).and_then(Rental::paid_from)), term) {
            (Some(_), Some(term)) if i128::from(lived) >= term.as_micros() => {}
            (Some(_), Some(term)) => {
                self.report_violation(format!(
                    "I10: {name} is stopped after {lived} of {} microseconds",
                    term.as_micros()
                ));
            }
            // It is about to be recorded as ready.
            (None, Some(term)) if i128::from(lived) >= term.as_micros() => {}
            _ => self.report_violation(format!("{name} is stopped, and nothing says why: {:?}", row.state())),
        }
    }

    /// A removal lands.
    pub(in crate::testing::simulation) fn removes(&mut self, now: i64, host: HostNo, launch: LaunchId) {
        if now < self.echoes_until || !self.hosts[host].engine.containers().contains(&launch) {
            return;
        }
        let name = self.name(launch.rental);
        match at_once(self.store.get(launch.rental)).unwrap_or_default() {
            None => {
                self.report_violation(format!(
                    "the container of {name} is removed, and the store knows no such rental"
                ));
            }
            Some(row) if row.attempt() == launch.attempt => match row.state() {
                RentalState::Ending { stopped: true, .. } | RentalState::Ended { .. } => {}
                state => self.report_violation(format!("the container of {name} is removed while it is {state:?}")),
            },
            // Whoever has ended it, by a store that was set back to before that launch, has ended all of it.
            Some(row) if row.attempt() < launch.attempt && row.is_live() => {
                self.report_violation(format!(
                    "I2: the container of a launch of {name} is removed that the store knows not yet"
                ));
            }
            Some(row) if row.may_need(launch.attempt) => {
                self.report_violation(format!(
                    "I3: the files of {name} are removed with a container of a former launch"
                ));
            }
            Some(_) => {}
        }
    }

    /// A container is put away.
    pub(in crate::testing::simulation) fn retains(&mut self, now: i64, host: HostNo, launch: LaunchId) {
        if now < self.echoes_until || !self.running(host, launch) {
            return;
        }
        let name = self.name(launch.rental);
        self.report_violation(format!("a container of {name} is put away while it runs"));
    }

    /// A launch that takes over another's files has those of every launch that was ready before.
    pub(super) fn check_files(&mut self) {
        if self.restored {
            return;
        }
        let there: Vec<ContainerSnapshot> = self.hosts.iter().flat_map(|host| host.engine.snapshot()).collect();
        for seen in there {
            // Of what has ended nothing is kept, whatever a request that is late makes of it; nor once it is to be removed.
            let is_needed = self.rows.get(&seen.launch.rental).is_some_and(|row| {
                row.may_need(seen.launch.attempt) && !matches!(row.state(), RentalState::Ending { stopped: true, .. })
            });
            if !is_needed || self.robbed.contains(&seen.launch.rental) {
                continue;
            }
            let earlier =
                |launch: &&LaunchId| launch.rental == seen.launch.rental && launch.attempt < seen.launch.attempt;
            let lost = self.ready_since.keys().filter(earlier).find(|launch| !seen.files_of.contains(launch)).copied();
            if let Some(lost) = lost {
                self.report_violation(format!("the files of {lost} are not in the container of {}", seen.launch));
            }
        }
    }

    /// Notes that a container is removed by hand.
    pub(in crate::testing::simulation) fn loses(&mut self, host: HostNo, launch: LaunchId) {
        self.hosts[host].engine.lose(launch);
        self.robbed.insert(launch.rental);
        self.changed = true;
    }

    /// A container's program begins to fill the disk.
    pub(in crate::testing::simulation) fn fills(&mut self, now: i64, host: HostNo, launch: LaunchId) {
        self.hosts[host].engine.fill(launch, FILLS_PER_SECOND);
        self.filling.entry(launch).or_insert(now);
    }

    /// The machine goes down, with every container on it.
    pub(in crate::testing::simulation) fn machine_dies(&mut self, environment: &Environment, host: HostNo) {
        let now = environment.now();
        for run in self.runs.values_mut().filter(|run| run.host == host) {
            run.died.get_or_insert(now);
        }
    }

    /// Whether a container's machine is up.
    pub(in crate::testing::simulation) fn lives(&self, launch: LaunchId) -> bool {
        self.runs.get(&launch).is_none_or(|run| run.died.is_none())
    }
}

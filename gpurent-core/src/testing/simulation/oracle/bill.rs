//! The bill against what really ran.

use jiff::Timestamp;

use crate::id::{LaunchId, Seq};
use crate::model::{BillLine, RecordedEvent, Rental, RentalEvent};
use crate::store::Store;
use crate::testing::simulation::environment::{Environment, at_once};
use crate::testing::simulation::oracle::{Oracle, Run};

impl Oracle {
    pub(super) fn check_bill(&mut self, environment: &Environment, name: &str, row: &Rental) {
        let bill = row.bill(Timestamp::MAX);
        if bill.total != bill.lines.iter().map(BillLine::amount).sum() {
            self.report_violation(format!("I6: the lines of {name} do not add up"));
        }
        // A store that was set back may have let a launch be made twice.
        if self.restored {
            return;
        }
        let paid: Vec<LaunchId> = self.ready_since.keys().filter(|l| l.rental == row.id()).copied().collect();
        let runs: Vec<&Run> = paid.iter().filter_map(|launch| self.runs.get(launch)).collect();
        if runs.len() != row.segments().len() {
            let (billed, ran) = (row.segments().len(), runs.len());
            return self
                .report_violation(format!("I5: {name} is billed for {billed} containers, and {ran} of it were ready"));
        }
        for (segment, run) in row.segments().iter().zip(&runs) {
            let (billed, started) = (segment.started_at, run.started_at);
            // Of two containers the second one is not billed from before the first one's end.
            if billed != started && !(environment.clock_was_set(run.host) && billed > started) {
                return self.report_violation(format!("I5: {name} is billed from {billed}, started {started}"));
            }
        }
        let Some(run) = runs.last() else { return };
        let lived: i64 = runs.iter().map(|run| run.died.unwrap_or(environment.now()) - run.started).sum();
        let term = row.spec().term.duration().map_or(i64::MAX, |term| i64::try_from(term.as_micros()).unwrap_or(0));
        let due = lived.min(term);
        let used = bill.used_micros;
        let host = &self.hosts[run.host];
        let plain = !environment.clock_was_set(run.host) && host.reboots == 0;
        let events = at_once(self.store.events(row.id(), Seq::ZERO, 500)).unwrap_or_default();
        let untold = |recorded: &RecordedEvent| matches!(recorded.event, RentalEvent::Stopped { exit: None, .. });
        let (least, most) = match (plain, row.exit().filter(|_| !events.iter().any(untold))) {
            // The engine has the record of it.
            (true, Some(_)) => (due, due),
            // What was seen of it, and nothing more.
            (true, None) => (due - 40_000_000 - host.unattended, due),
            // A clock that is set while the machine is down leaves nothing to measure by.
            (false, _) if host.reboots > 0 && environment.clock_was_set(run.host) => (0, term),
            // As near as it can be told.
            // An end that was made up after one reboot looks real after the next.
            (false, _) if environment.clock_was_set(run.host) || host.reboots > 1 => {
                (due - 60_000_000 - host.unattended, (due + 5_000_000 + host.unattended).min(term))
            }
            // After a reboot nobody pays for more than what was seen.
            (false, _) => (due - 60_000_000 - host.unattended, due + 100_000),
        };
        if used < least || used > most {
            let exit = row.exit();
            self.report_violation(format!(
                "I5: {name} ran {lived} of {term}, and is billed {used} microseconds (plain: {plain}, exit {exit:?})"
            ));
        }
    }
}

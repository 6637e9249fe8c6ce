//! The engines: no GPU twice, nobody past their end.

use std::collections::BTreeMap;

use crate::id::LaunchId;
use crate::model::GpuUuid;
use crate::runtime::ContainerStatus;
use crate::testing::simulation::environment::{Environment, HostNo};
use crate::testing::simulation::oracle::{LATE, Oracle, RECOVERY, Run};

impl Oracle {
    pub(super) fn check_engines(&mut self, environment: &Environment) {
        let now = environment.now();
        let mut accusations = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let seen = host.engine.snapshot();
            let mut on: BTreeMap<GpuUuid, LaunchId> = BTreeMap::new();
            for seen in &seen {
                let Some(started_at) = seen.started_at else { continue };
                let run =
                    self.runs.entry(seen.launch).or_insert(Run { host: number, started: now, started_at, died: None });
                if seen.status != ContainerStatus::Running {
                    run.died.get_or_insert(now);
                    continue;
                }
                for gpu in &seen.gpus {
                    if let Some(other) = on.insert(gpu.clone(), seen.launch) {
                        accusations.push(format!("I4: {other} and {} run on one GPU", seen.launch));
                    }
                }
            }
            let workspaces = host.engine.workspaces();
            for folder in seen.iter().filter_map(|seen| seen.workspace.as_ref()) {
                let found = workspaces.get(folder).copied();
                let known = *self.workspaces.entry((number, folder.clone())).or_insert(found);
                if found.is_none() || found != known {
                    accusations.push(format!("the workspace {folder} is not what it was"));
                }
            }
            let there = |launch: &LaunchId| seen.iter().any(|seen| seen.launch == *launch);
            for (launch, run) in self.runs.iter_mut().filter(|(_, run)| run.host == number) {
                if !there(launch) {
                    run.died.get_or_insert(now);
                }
            }
        }
        for accusation in accusations {
            self.report_violation(accusation);
        }
    }

    /// Checks that nobody runs past the end of the paid time, as long as somebody is there to end it.
    pub(in crate::testing::simulation) fn check_lateness(
        &mut self,
        environment: &Environment,
        attended: impl Fn(HostNo) -> bool,
    ) {
        let now = environment.now();
        for (launch, run) in self.runs.iter().filter(|(_, run)| run.died.is_none()) {
            let Some(row) = self.rows.get(&launch.rental) else { continue };
            let (Some(_), Some(term)) = (row.paid_from(), row.spec().term.duration()) else { continue };
            let left = term - row.used_before();
            let hoped = self.hoped.get(&launch.rental).filter(|hope| !hope.is_answered).map_or(0, |hope| hope.micros);
            let from = self.readied_at.get(launch).copied().unwrap_or(run.started).max(run.started);
            let end = from + i64::try_from(left.as_micros()).unwrap_or(0) + hoped;
            let late = now - self.ready_since.get(launch).map_or(end, |since| end.max(*since));
            let blameless = environment.last_trouble(run.host).is_some_and(|trouble| now < trouble + RECOVERY);
            if late > LATE && row.attempt() == launch.attempt && !blameless && !self.restored && attended(run.host) {
                environment.broken(format!("I10: {launch} runs {late} microseconds past its end"));
                return;
            }
        }
    }
}

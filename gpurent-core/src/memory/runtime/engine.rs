//! The fake engine's own state: its containers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;

use crate::id::{ContainerId, LaunchId};
use crate::memory::runtime::{InjectedFault, RuntimeStep};
use crate::model::{DiskUse, Exit, Retained, WorkspaceFolder};
use crate::runtime::{ContainerStatus, LaunchSpec};

#[derive(Default)]
pub(in crate::memory) struct Engine {
    pub(in crate::memory) away: bool,
    pub(in crate::memory) replaced: bool,
    pub(in crate::memory) containers: BTreeMap<LaunchId, Container>,
    pub(in crate::memory) faults: BTreeMap<RuntimeStep, VecDeque<InjectedFault>>,
    pub(in crate::memory) made: u64,
    /// The disk space that a new container finds in use.
    pub(in crate::memory) found: DiskUse,
    /// Whether programs answer on their published ports.
    pub(in crate::memory) serves: bool,
    /// Folders that outlive containers, and as how manieth thing each was made.
    pub(in crate::memory) workspaces: BTreeMap<WorkspaceFolder, u64>,
}

pub(in crate::memory) struct Container {
    pub(in crate::memory) spec: LaunchSpec,
    pub(in crate::memory) id: ContainerId,
    pub(in crate::memory) started_at: Option<Timestamp>,
    pub(in crate::memory) exit: Option<Exit>,
    pub(in crate::memory) lets_in: Vec<u8>,
    pub(in crate::memory) retained: bool,
    /// The launches that left files in it.
    pub(in crate::memory) files_of: BTreeSet<LaunchId>,
    pub(in crate::memory) announced: Vec<String>,
    /// Whether the program was told to finish, as it does then.
    pub(in crate::memory) has_finished: bool,
    pub(in crate::memory) output: Vec<String>,
    pub(in crate::memory) written: DiskUse,
    /// Bytes a second that are written besides, and since when on the boot clock.
    pub(in crate::memory) fills: Option<(u64, i64)>,
}

impl Container {
    pub(in crate::memory) fn presence(&self) -> ContainerStatus {
        match (&self.exit, self.started_at) {
            (Some(exit), _) => ContainerStatus::Exited(exit.clone()),
            (None, Some(_)) => ContainerStatus::Running,
            (None, None) => ContainerStatus::Created,
        }
    }

    pub(in crate::memory) fn end(&mut self, exit: Exit, now: i64) {
        self.written = self.has_written(now);
        self.fills = None;
        self.exit = Some(exit);
    }

    pub(in crate::memory) fn retention(&self, launch: LaunchId) -> Retained {
        Retained {
            attempt: launch.attempt,
            container: self.id.clone(),
            gpus: self.spec.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
            ports: self.spec.ports.clone(),
            bytes: Some(self.written.bytes),
        }
    }

    pub(in crate::memory) fn has_written(&self, now: i64) -> DiskUse {
        let filled = self.fills.map_or(0, |(bytes_per_second, since)| {
            let seconds = u64::try_from(now.saturating_sub(since)).unwrap_or(0) / 1_000_000;
            bytes_per_second.saturating_mul(seconds)
        });
        self.written.plus(DiskUse { bytes: filled, files: 0 })
    }
}

impl Engine {
    pub(in crate::memory) fn retain(&mut self, launch: LaunchId, now: Timestamp, boot: i64) -> Option<Retained> {
        let up_to_it = |other: &LaunchId| other.rental == launch.rental && other.attempt <= launch.attempt;
        let mut latest = None;
        for (launch, container) in self.containers.iter_mut().filter(|(other, _)| up_to_it(other)) {
            if container.presence() == ContainerStatus::Running {
                container.end(Exit { finished_at: now, code: 137, out_of_memory: false }, boot);
            }
            container.retained = true;
            latest = Some(container.retention(*launch));
        }
        latest
    }

    /// Whether a container was made of the same as another launch of its rental.
    pub(in crate::memory) fn is_made_of(&self, launch: LaunchId, spec: &LaunchSpec) -> bool {
        let made_of = |found: &LaunchSpec| LaunchSpec { id: spec.id, ..found.clone() }.hash() == spec.hash();
        self.containers.get(&launch).is_some_and(|container| made_of(&container.spec))
    }
}

//! The containers of the fake engine as the simulation's oracle sees them.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::id::LaunchId;
use crate::memory::MemoryRuntime;
use crate::memory::runtime::engine::Container;
use crate::model::{GpuUuid, WorkspaceFolder};
use crate::runtime::ContainerStatus;

/// See [`MemoryRuntime::snapshot`].
pub(crate) struct ContainerSnapshot {
    pub(crate) launch: LaunchId,
    pub(crate) workspace: Option<WorkspaceFolder>,
    pub(crate) status: ContainerStatus,
    pub(crate) gpus: Vec<GpuUuid>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) retained: bool,
    pub(crate) files_of: BTreeSet<LaunchId>,
}

impl MemoryRuntime {
    /// All containers, as they are at this moment, whether or not the engine answers.
    pub(crate) fn snapshot(&self) -> Vec<ContainerSnapshot> {
        let engine = self.engine();
        let snapshot = |(launch, container): (&LaunchId, &Container)| ContainerSnapshot {
            launch: *launch,
            workspace: container.spec.workspace.as_ref().map(|workspace| workspace.folder.clone()),
            status: container.presence(),
            gpus: container.spec.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
            started_at: container.started_at,
            retained: container.retained,
            files_of: container.files_of.clone(),
        };
        engine.containers.iter().map(snapshot).collect()
    }
}

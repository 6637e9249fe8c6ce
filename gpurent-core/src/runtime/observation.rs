//! The containers of a host as an engine shows them.

use jiff::Timestamp;

use crate::id::{ContainerId, LaunchId};
use crate::model::{Claim, Exit, GpuUuid, HostPort, Retained};

/// The state of one container, as the engine tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerStatus {
    /// Made, never started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited(Exit),
    /// There, and the engine does not say how it is: nothing may be concluded about this one.
    Unknown,
}

/// One of our containers, as the engine showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedContainer {
    /// The container's launch, by its labels.
    pub launch: LaunchId,
    /// The engine's id of it.
    pub container: ContainerId,
    /// How it is.
    pub status: ContainerStatus,
    /// The GPUs that it was given, by its labels.
    pub gpus: Vec<GpuUuid>,
    /// The host's ports that it was given, by its labels.
    pub ports: Vec<HostPort>,
    /// Whether it was [put away](crate::runtime::ContainerRuntime::retain).
    pub retained: bool,
}

/// The record that a container carries, for a rental that the store has lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedContainer {
    /// The engine's id of it.
    pub container: ContainerId,
    /// The claim that it was made for.
    pub claim: Box<Claim>,
    /// Whether the engine attached its GPUs.
    pub gpus_attached: bool,
    /// When it started; `None` where it has not.
    pub started_at: Option<Timestamp>,
    /// How it ended and what is kept of it, where it was [put away](crate::runtime::ContainerRuntime::retain).
    pub retained: Option<(Option<Exit>, Retained)>,
}

/// All of a host's containers at one time. What is not in it was absent; where the engine did not
/// answer there is no observation at all, and nothing may be concluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The containers that carry the host's label.
    pub containers: Vec<ObservedContainer>,
}

impl Observation {
    /// The container of one launch, as it was seen.
    #[must_use]
    pub fn of(&self, launch: LaunchId) -> Option<&ObservedContainer> {
        self.containers.iter().find(|seen| seen.launch == launch)
    }
}

//! The files of a rental that outlive its container's stop: kept while it is suspended, and taken over when it is resumed.
//!
//! A container that is suspended is stopped and stays, with everything that it wrote in its own file system. Where the
//! rental comes back on the same GPUs and ports it is started again as it is; elsewhere its files are copied into the new
//! container. Processes, memory and what lay on a tmpfs are gone with the stop, as they are with `docker stop`.

use serde::{Deserialize, Serialize};

use crate::id::{Attempt, ContainerId};
use crate::model::{GpuUuid, PortBinding};

/// The stopped container of a suspended rental.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// The launch that it was made or started for last.
    pub attempt: Attempt,
    /// The engine's id of it.
    pub container: ContainerId,
    /// The GPUs with which it can be started again as it is.
    pub gpus: Vec<GpuUuid>,
    /// The ports with which it can be started again as it is.
    pub ports: Vec<PortBinding>,
    /// The size of what it wrote, in bytes; `None` where nobody could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// The source of a new container's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Files {
    /// From its image alone.
    #[default]
    New,
    /// The rental's last container is started again, with all that lies in it.
    Same,
    /// The rental's last container had other GPUs or ports: what it wrote was copied.
    Copied,
    /// From its image alone, though there should have been more: somebody removed the rental's last container.
    Lost,
}

impl Files {
    /// Whether there is nothing to be told of them.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
    pub(crate) fn are_new(&self) -> bool {
        *self == Self::New
    }
}

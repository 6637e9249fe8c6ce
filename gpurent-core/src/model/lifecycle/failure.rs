//! Failures of a launch before its rental is ready, and how containers end.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::Blame;

/// Why a rental never became ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure.
    pub kind: FailureKind,
    /// A sentence for the renter and the operator; holds no secret.
    pub detail: String,
    /// The container's last lines of output, where there was one.
    pub log_tail: Vec<String>,
}

/// Kinds of failures before a rental is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// The image does not exist, or its registry refuses it.
    ImageUnavailable,
    /// The pull made no progress for too long.
    PullStalled,
    /// The container's program ended before access was verified.
    ExitedEarly,
    /// SSH did not answer in time.
    AccessTimeout,
    /// The image lets nobody log in.
    NoLogin,
    /// The host's own SSH server does not run in the container.
    NoServer,
    /// The image is for another kind of processor.
    WrongArchitecture,
    /// Everything together took too long.
    DeadlineExceeded,
    /// The engine has no NVIDIA runtime.
    GpuRuntimeMissing,
    /// A host port was taken by somebody else, again and again.
    PortTaken,
    /// The container saw other GPUs than the claimed ones.
    WrongDevices,
    /// The engine refused the container.
    Refused,
    /// The container vanished while it was being made.
    Vanished,
    /// The image needs a newer NVIDIA driver than the host has.
    DriverTooOld,
}

/// Kinds of failures that count against no renter: they are the host's own, and told by no container. (Others that are
/// said to be the host's fault, such as access that is not answered in time, an image can bring about.)
pub const BY_THE_HOST: [FailureKind; 3] =
    [FailureKind::GpuRuntimeMissing, FailureKind::PortTaken, FailureKind::Vanished];

impl FailureKind {
    /// Every kind of failure.
    pub const ALL: [Self; 14] = [
        Self::ImageUnavailable,
        Self::PullStalled,
        Self::ExitedEarly,
        Self::AccessTimeout,
        Self::NoLogin,
        Self::NoServer,
        Self::WrongArchitecture,
        Self::DeadlineExceeded,
        Self::GpuRuntimeMissing,
        Self::PortTaken,
        Self::WrongDevices,
        Self::Refused,
        Self::Vanished,
        Self::DriverTooOld,
    ];

    /// Whether a container that ran is charged for in spite of it, where the host charges for such.
    #[must_use]
    pub fn is_charged(self) -> bool {
        !self.is_by_the_host() && !matches!(self, Self::NoServer | Self::WrongDevices)
    }

    /// Whether it counts against no renter.
    #[must_use]
    pub fn is_by_the_host(self) -> bool {
        BY_THE_HOST.contains(&self)
    }

    /// The party at fault for the failure.
    #[must_use]
    pub fn fault(self) -> Blame {
        match self {
            Self::ImageUnavailable | Self::ExitedEarly | Self::NoLogin | Self::WrongArchitecture => Blame::Renter,
            _ => Blame::Host,
        }
    }
}

/// How a container ended, by the engine's own record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// When, on the engine's wall clock.
    pub finished_at: Timestamp,
    /// The main program's exit code.
    pub code: i64,
    /// Whether the kernel killed it for want of memory.
    pub out_of_memory: bool,
}

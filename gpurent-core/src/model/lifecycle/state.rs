//! Where a rental is in its life.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::model::{EndReason, Failure};

/// Where a rental is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum RentalState {
    /// The GPUs and ports are claimed; the container is being made.
    Provisioning,
    /// The container runs; access is being verified.
    Running,
    /// The renter can log in, and pays.
    Ready,
    /// The container is being stopped and put away; the rental goes on later.
    Suspending {
        /// Why.
        cause: SuspendCause,
        /// Whether the container is known to have stopped, and the usage is closed.
        stopped: bool,
    },
    /// The container is stopped and kept with its files; the rental has no GPU and no port, and its paid time stands still.
    Suspended {
        /// Why.
        cause: SuspendCause,
        /// Since when.
        since: Moment,
    },
    /// The rental is being taken down.
    Ending {
        /// Why.
        reason: EndReason,
        /// Whether the container is known to have stopped, and the usage is closed.
        stopped: bool,
    },
    /// The container is gone, its GPUs and ports are free, the bill is final.
    Ended {
        /// Why.
        reason: EndReason,
        /// Since when.
        at: Timestamp,
    },
}

/// The states' names alone, for filters, tables and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// [`RentalState::Provisioning`]
    Provisioning,
    /// [`RentalState::Running`]
    Running,
    /// [`RentalState::Ready`]
    Ready,
    /// [`RentalState::Suspending`]
    Suspending,
    /// [`RentalState::Suspended`]
    Suspended,
    /// [`RentalState::Ending`]
    Ending,
    /// [`RentalState::Ended`]
    Ended,
}

impl Phase {
    /// Every phase, in the order of a life.
    pub const ALL: [Self; 7] =
        [Self::Provisioning, Self::Running, Self::Ready, Self::Suspending, Self::Suspended, Self::Ending, Self::Ended];

    /// The name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }
}

impl RentalState {
    /// The state's name.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self {
            Self::Provisioning => Phase::Provisioning,
            Self::Running => Phase::Running,
            Self::Ready => Phase::Ready,
            Self::Suspending { .. } => Phase::Suspending,
            Self::Suspended { .. } => Phase::Suspended,
            Self::Ending { .. } => Phase::Ending,
            Self::Ended { .. } => Phase::Ended,
        }
    }

    /// Why it ends or ended.
    #[must_use]
    pub fn end_reason(&self) -> Option<&EndReason> {
        match self {
            Self::Ending { reason, .. } | Self::Ended { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// Why it is or is being suspended.
    #[must_use]
    pub fn suspend_cause(&self) -> Option<&SuspendCause> {
        match self {
            Self::Suspending { cause, .. } | Self::Suspended { cause, .. } => Some(cause),
            _ => None,
        }
    }

    /// Whether its container is being taken down.
    #[must_use]
    pub fn is_going_down(&self) -> bool {
        matches!(self, Self::Suspending { .. } | Self::Ending { .. })
    }

    /// Whether it should have a container that runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Running | Self::Ready)
    }
}

/// Why a rental is suspended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SuspendCause {
    /// The renter or the platform asked for it.
    Requested,
    /// The rental was to be resumed, and did not become ready again.
    Failed(Failure),
}

//! The states of a rental, why it ends, and whose fault that is.
//!
//! ```text
//!     claim              started              access verified
//!  ──────────▶ Provisioning ────▶ Running ─────────────────▶ Ready
//!               ▲  │  ▲             │                           │  cancelled · expired · exited · lost · failed
//!        resume │  │  └─ relaunch   │                           │
//!               │  ├────────────────┼───────────────────────────┤
//!               │  │ suspend        │                           │
//!               │  └──▶ Suspending{cause} ── stopped ── absent  │
//!               │                       │            │          │
//!            Suspended{cause} ◀─────────┼────────────┘          │
//!                  └────────────────────┴─────────┬─────────────┘
//!                                                 ▼
//!                               Ending{reason} ── stopped ── absence confirmed ──▶ Ended{reason}
//! ```
//!
//! Failure is a reason, not a state: every rental leaves by the same door, so nothing skips the clean-up. A
//! launch that fails after its rental was ready once suspends it instead: what was paid for is not lost.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::disk::DiskUse;

/// Where a rental is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum State {
    /// Its GPUs and ports are claimed; the container is being made.
    Provisioning,
    /// Its container runs; access is being verified.
    Running,
    /// Its renter can log in, and pays.
    Ready,
    /// Its container is being stopped and put away; the rental goes on later.
    Suspending {
        /// Why.
        cause: SuspendCause,
        /// Whether the container is known to have stopped, and the usage is closed.
        stopped: bool,
    },
    /// Its container is stopped and kept with its files; it has no GPU and no port; its paid time stands still.
    Suspended {
        /// Why.
        cause: SuspendCause,
        /// Since when.
        since: Moment,
    },
    /// It is being taken down.
    Ending {
        /// Why.
        reason: EndReason,
        /// Whether the container is known to have stopped, and the usage is closed.
        stopped: bool,
    },
    /// Its container is gone, its GPUs and ports are free, its bill is final.
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
    /// [`State::Provisioning`]
    Provisioning,
    /// [`State::Running`]
    Running,
    /// [`State::Ready`]
    Ready,
    /// [`State::Suspending`]
    Suspending,
    /// [`State::Suspended`]
    Suspended,
    /// [`State::Ending`]
    Ending,
    /// [`State::Ended`]
    Ended,
}

impl Phase {
    /// All of them, in the order of a life.
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

impl State {
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
    /// Its renter or the platform asked for it.
    Requested,
    /// It was to be resumed, and did not become ready again.
    Failed(Failure),
}

/// Why a rental ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndReason {
    /// Its paid time is over.
    Expired,
    /// Its renter or the platform ended it.
    Cancelled,
    /// Its main program ended by itself after it was ready.
    Exited {
        /// The program's exit code.
        code: i64,
        /// Whether the kernel killed it for want of memory.
        out_of_memory: bool,
    },
    /// Its container vanished without us.
    Lost {
        /// When it was last seen running.
        last_seen: Timestamp,
    },
    /// It never became ready.
    Failed(Failure),
    /// It was suspended for longer than the host keeps it.
    Abandoned,
    /// The rental wrote more on the host's disk than it may, and went on.
    DiskFull {
        /// The space that it used.
        used: DiskUse,
        /// The space that it may use.
        limit: DiskUse,
    },
}

/// The outcomes that everybody distinguishes, for filters and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndKind {
    /// Its paid time was used up.
    Expired,
    /// It never became ready.
    Failed,
    /// Anything else: cancelled, exited, lost, abandoned, stopped for what it wrote.
    Terminated,
}

impl EndKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Expired, Self::Failed, Self::Terminated];

    /// The name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Terminated => "terminated",
        }
    }
}

impl EndReason {
    /// Which of the three outcomes it is.
    #[must_use]
    pub fn kind(&self) -> EndKind {
        match self {
            Self::Expired => EndKind::Expired,
            Self::Failed(_) => EndKind::Failed,
            Self::Cancelled | Self::Exited { .. } | Self::Lost { .. } | Self::Abandoned | Self::DiskFull { .. } => {
                EndKind::Terminated
            }
        }
    }
}

/// Who has to do something about an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nobody: it ended as agreed.
    Nobody,
    /// The renter: the same request would end the same way.
    Renter,
    /// The host: another host, or this one later, may do better.
    Host,
}

impl EndReason {
    /// Whose fault the end is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Expired | Self::Cancelled | Self::Abandoned => Fault::Nobody,
            Self::Exited { .. } | Self::DiskFull { .. } => Fault::Renter,
            Self::Lost { .. } => Fault::Host,
            Self::Failed(failure) => failure.kind.fault(),
        }
    }

    /// Whether the end counts against no renter.
    #[must_use]
    pub fn is_by_the_host(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.kind.is_by_the_host(),
            Self::Lost { .. } => true,
            _ => false,
        }
    }

    /// Whether a container that ran until this end without letting its renter in is charged for, where the host charges for
    /// such: not where the host ended it.
    #[must_use]
    pub fn is_charged(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.kind.is_charged(),
            other => !other.is_by_the_host(),
        }
    }

    /// Whether the same request may succeed another time.
    #[must_use]
    pub fn retryable(&self) -> bool {
        // Here the same driver would refuse it again.
        let never_here = matches!(self, Self::Failed(failure) if failure.kind == FailureKind::DriverTooOld);
        self.fault() == Fault::Host && !never_here
    }

    /// A sentence for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Expired => "The paid time is over".to_owned(),
            Self::Cancelled => "Ended on request".to_owned(),
            Self::Exited { out_of_memory: true, code } => {
                format!("The container ran out of memory and was killed (exit code {code})")
            }
            Self::Exited { code, .. } => format!("The container's program ended with exit code {code}"),
            Self::Lost { .. } => "The container disappeared from the host".to_owned(),
            Self::Failed(failure) => failure.detail.clone(),
            Self::Abandoned => "It was suspended for too long".to_owned(),
            Self::DiskFull { used, limit } => {
                format!("It wrote more on the host's disk than it may: {}", used.beside(*limit))
            }
        }
    }
}

/// Why a rental never became ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
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
    /// All of them.
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

    /// Whose fault it is.
    #[must_use]
    pub fn fault(self) -> Fault {
        match self {
            Self::ImageUnavailable | Self::ExitedEarly | Self::NoLogin | Self::WrongArchitecture => Fault::Renter,
            _ => Fault::Host,
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

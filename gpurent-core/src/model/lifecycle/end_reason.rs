//! Why a rental ends, and whose fault that is.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Blame, DiskUse, Failure, FailureKind};

/// Why a rental ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndReason {
    /// The paid time is over.
    Expired,
    /// The renter or the platform ended the rental.
    Cancelled,
    /// The main program ended by itself after the rental was ready.
    Exited {
        /// The program's exit code.
        code: i64,
        /// Whether the kernel killed it for want of memory.
        out_of_memory: bool,
    },
    /// The container vanished without us.
    Lost {
        /// When it was last seen running.
        last_seen: Timestamp,
    },
    /// The rental never became ready.
    Failed(Failure),
    /// The rental was suspended for longer than the host keeps it.
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
    /// The paid time was used up.
    Expired,
    /// The rental never became ready.
    Failed,
    /// Anything else: cancelled, exited, lost, abandoned, stopped for what it wrote.
    Terminated,
}

impl EndKind {
    /// Every kind of end.
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

impl EndReason {
    /// The party at fault for the end.
    #[must_use]
    pub fn fault(&self) -> Blame {
        match self {
            Self::Expired | Self::Cancelled | Self::Abandoned => Blame::Nobody,
            Self::Exited { .. } | Self::DiskFull { .. } => Blame::Renter,
            Self::Lost { .. } => Blame::Host,
            Self::Failed(failure) => failure.kind.fault(),
        }
    }

    /// Whether the end counts against no renter.
    #[must_use]
    pub fn is_by_the_host(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.kind.is_by_the_host(),
            Self::Lost { .. } => true,
            Self::Expired | Self::Cancelled | Self::Exited { .. } | Self::Abandoned | Self::DiskFull { .. } => false,
        }
    }

    /// Whether the program has time to stop by itself before it is killed. The paid time of one that expires is over, and the
    /// program was told of that before.
    #[must_use]
    pub fn leaves_a_grace(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::Expired
            | Self::Exited { .. }
            | Self::Lost { .. }
            | Self::Failed(_)
            | Self::Abandoned
            | Self::DiskFull { .. } => false,
        }
    }

    /// Whether a container that was seen running a moment ago has ended by the host's own stop, whatever the clock of the
    /// engine says of when: it ran until then, and is billed until then.
    #[must_use]
    pub fn is_carried_out_by_the_host(&self) -> bool {
        match self {
            Self::Expired | Self::Cancelled | Self::DiskFull { .. } => true,
            Self::Exited { .. } | Self::Lost { .. } | Self::Failed(_) | Self::Abandoned => false,
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
        self.fault() == Blame::Host && !never_here
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

//! Where a fault can hit, what it does there, and which pairs of state and place were hit.

use std::collections::BTreeSet;
use std::fmt;

use crate::model::Phase;

/// A call to something outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the method of that name of Store, ContainerRuntime or DeadlineBook")]
pub enum FaultPoint {
    TakeOver,
    Confirm,
    Claim,
    Adopt,
    Commit,
    Get,
    Live,
    Sealed,
    Publish,
    Journal,
    Engine,
    Prepare,
    Create,
    Start,
    Verify,
    ReplaceAccess,
    Announce,
    Notify,
    Stop,
    Retain,
    Remove,
    Examine,
    Observe,
    Logs,
    DiskUse,
    Services,
    ReadBook,
    WriteBook,
}

impl FaultPoint {
    /// Whether the store is asked.
    #[must_use]
    pub fn is_store(self) -> bool {
        self <= Self::Journal
    }

    /// Whether the host's own book is asked.
    #[must_use]
    pub fn is_book(self) -> bool {
        self >= Self::ReadBook
    }

    /// Whether the call may change something: a crash beside it is another crash than one beside the next.
    #[must_use]
    pub fn is_effect(self) -> bool {
        use FaultPoint::{
            Adopt, Announce, Claim, Commit, Create, Notify, Prepare, Publish, Remove, ReplaceAccess, Retain, Start,
            Stop, TakeOver, Verify, WriteBook,
        };
        matches!(
            self,
            TakeOver
                | Claim
                | Adopt
                | Commit
                | Publish
                | Prepare
                | Create
                | Start
                | Verify
                | ReplaceAccess
                | Announce
                | Notify
                | Stop
                | Retain
                | Remove
                | WriteBook
        )
    }

    /// The states in which a rental can be when this call is made for it or for its whole host.
    fn reachable(self) -> &'static [Phase] {
        use Phase::{Ended, Ending, Provisioning, Ready, Running, Suspended, Suspending};
        const ALL_LIVE: &[Phase] = &[Provisioning, Running, Ready, Suspending, Suspended, Ending];
        match self {
            Self::Claim | Self::Adopt | Self::Examine => &[],
            Self::Prepare | Self::Create | Self::Start => &[Provisioning],
            Self::Verify => &[Running],
            Self::ReplaceAccess => &[Running, Ready],
            Self::Announce | Self::Notify | Self::DiskUse | Self::Services => &[Ready],
            // Of a rental that ends, and of one whose time is over while the store does not answer.
            Self::Stop => &[Ready, Suspending, Ending],
            // Of a rental that ends or is suspended; of an earlier launch; of one that has ended, as an orphan.
            Self::Remove => &[Provisioning, Ready, Ending, Ended],
            Self::Retain => &[Suspending],
            Self::Sealed => &[Provisioning, Running, Ready],
            // The lines of one that failed on its way up, and of one that has stopped.
            Self::Logs => &[Running, Suspending, Ending],
            Self::Commit | Self::Get => ALL_LIVE,
            Self::TakeOver | Self::Confirm | Self::Live | Self::Publish | Self::Journal => ALL_LIVE,
            Self::Engine | Self::Observe | Self::ReadBook | Self::WriteBook => ALL_LIVE,
        }
    }

    const ALL: [Self; 28] = [
        Self::TakeOver,
        Self::Confirm,
        Self::Claim,
        Self::Adopt,
        Self::Commit,
        Self::Get,
        Self::Live,
        Self::Sealed,
        Self::Publish,
        Self::Journal,
        Self::Engine,
        Self::Prepare,
        Self::Create,
        Self::Start,
        Self::Verify,
        Self::ReplaceAccess,
        Self::Announce,
        Self::Notify,
        Self::Stop,
        Self::Retain,
        Self::Remove,
        Self::Examine,
        Self::Observe,
        Self::Logs,
        Self::DiskUse,
        Self::Services,
        Self::ReadBook,
        Self::WriteBook,
    ];
}

/// A fault of a call. Times are microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimFault {
    /// The call fails, and nothing has happened.
    Before,
    /// The call does its work, and seems to have failed: the answer is lost.
    After,
    /// The call seems to have failed, and does its work later.
    Late(i64),
    /// Nothing happens and nobody answers for so long.
    Hang(i64),
    /// The call does its work, and nobody answers for so long.
    HangAfter(i64),
    /// The call does its work again a while after.
    Twice(i64),
    /// The call takes so long.
    Slow(i64),
    /// The one who calls panics.
    Panic,
    /// The call refuses, as it may by itself: an image that is not there, a port that is taken.
    Refused,
    /// The process that calls dies before anything has happened.
    CrashBefore,
    /// The process dies when it has happened, and before it knows.
    CrashDone,
    /// The process dies just after it has heard.
    CrashAfter,
}

/// Which pairs of state and place a fault has hit.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    hit: BTreeSet<(FaultPoint, Option<Phase>)>,
}

impl Coverage {
    pub(super) fn note(&mut self, point: FaultPoint, phase: Option<Phase>) {
        self.hit.insert((point, phase));
    }

    /// Adds what another history has hit.
    pub fn add(&mut self, other: &Self) {
        self.hit.extend(&other.hit);
    }

    /// How many pairs there are.
    #[must_use]
    pub fn possible() -> usize {
        Self::pairs().count()
    }

    fn pairs() -> impl Iterator<Item = (FaultPoint, Option<Phase>)> {
        FaultPoint::ALL.into_iter().flat_map(|point| {
            let phases = point.reachable();
            let alone = phases.is_empty().then_some((point, None));
            phases.iter().map(move |phase| (point, Some(*phase))).chain(alone)
        })
    }

    /// The pairs that no fault has hit.
    #[must_use]
    pub fn missed(&self) -> Vec<(FaultPoint, Option<Phase>)> {
        Self::pairs().filter(|pair| !self.hit.contains(pair)).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missed = self.missed();
        write!(f, "{} of {} pairs of state and fault point hit", Self::possible() - missed.len(), Self::possible())?;
        if !missed.is_empty() {
            write!(f, "; missed {missed:?}")?;
        }
        Ok(())
    }
}

//! The events of a rental: the only way it changes, and what everybody else sees.
//!
//! Events are numbered from 1 within a rental, stored with the change they make, and folding them gives
//! the rental again. They hold no secret: whoever may see one adds it when sending.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::id::{Attempt, ContainerId, HostId, InstanceName, Position, RentalId, Seq};
use crate::model::{
    CredentialKind, DiskUse, EndReason, Exit, Files, Gpu, ImageDigest, PortBinding, Quote, RentalSpec, ResolvedImage,
    Retained, Service, SuspendCause, Term,
};

/// Whether a number is not worth writing down.
pub(crate) fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

/// A claim: the first event of every rental, and everything that was settled with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The new rental.
    pub id: RentalId,
    /// On which host.
    pub host: HostId,
    /// Under which name.
    pub name: InstanceName,
    /// The rental's specification.
    pub spec: RentalSpec,
    /// How its renter gets in.
    pub credential: CredentialKind,
    /// The GPUs it got.
    pub gpus: Vec<Gpu>,
    /// The ports it got.
    pub ports: Vec<PortBinding>,
    /// The price, where prices are on.
    pub quote: Option<Quote>,
    /// Until when it has to have started.
    pub due: Timestamp,
    /// When it was made, on both clocks.
    pub at: Moment,
    /// How much of its term was used up by earlier launches.
    #[serde(default, skip_serializing_if = "SignedDuration::is_zero")]
    pub used: SignedDuration,
}

/// A container that was found running for a rental that the store had lost, or knew less of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Which launch it is.
    pub attempt: Attempt,
    /// The container.
    pub container: ContainerId,
    /// The ports it has.
    pub ports: Vec<PortBinding>,
    /// Whether the engine attached its GPUs.
    pub gpus_attached: bool,
    /// When it started, by the engine's own record; `None` where it has not.
    pub started_at: Option<Timestamp>,
    /// The claim that it carries. Of a later launch than the store knew of, it says what the rental had become by then.
    pub claim: Box<Claim>,
}

/// The place that a rental was given when it was resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumption {
    /// The rental's GPUs.
    pub gpus: Vec<Gpu>,
    /// The rental's ports.
    pub ports: Vec<PortBinding>,
    /// The rental's price from now on, where prices are on.
    pub quote: Option<Quote>,
    /// Until when it has to have started.
    pub due: Timestamp,
    /// When it was resumed, on both clocks.
    pub at: Moment,
}

/// Something that happened to a rental.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RentalEvent {
    /// GPUs and ports were claimed for it.
    Claimed(Box<Claim>),
    /// The image was pinned to what its tag meant at that moment.
    Pinned {
        /// The image's digest.
        digest: ImageDigest,
    },
    /// The container was made.
    Created {
        /// The container.
        container: ContainerId,
        /// Whether the GPUs were attached by the engine; simulated ones cannot always be.
        gpus_attached: bool,
        /// When, on both of our clocks; `None` of a container that was there already, which may have started at any time
        /// since the claim.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Moment>,
        /// The image that it was made of, where the engine tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<Box<ResolvedImage>>,
        /// The source of the container's files.
        #[serde(default, skip_serializing_if = "Files::are_new")]
        files: Files,
        /// The bytes that were copied into it.
        #[serde(default, skip_serializing_if = "is_zero")]
        copied_bytes: u64,
    },
    /// The container started.
    Started {
        /// When, by the engine's own record.
        started_at: Timestamp,
        /// The same instant on both of our clocks.
        started: Moment,
    },
    /// A container of it was found that the store did not know: after the store was restored from a backup.
    Adopted(Box<Adoption>),
    /// The container could not start because of a port, and is tried again with others.
    Relaunched {
        /// The new ports.
        ports: Vec<PortBinding>,
    },
    /// Access was verified: the renter can log in. Paid time counts from here, back to the start.
    Verified {
        /// The container's start on both clocks.
        paid_from: Moment,
    },
    /// The paid time became longer.
    Extended {
        /// The whole term now.
        term: Term,
    },
    /// The credential was replaced; the container does not know yet.
    AccessChanged {
        /// Password or key.
        credential: CredentialKind,
    },
    /// The container lets in by the new credential, and no longer by the old one.
    AccessApplied,
    /// The end of the paid time is near, and the renter was told inside the container.
    Warned,
    /// The renter was told that the end is not so near any more.
    WarningWithdrawn,
    /// The rental's disk space is almost used up, or more than that, and the renter was told inside the container.
    DiskWarned {
        /// The space that it uses.
        used: DiskUse,
        /// The space that it may use.
        limit: DiskUse,
    },
    /// Services answered on published ports, for the first time in this container.
    ServicesUp {
        /// The services that were not known before.
        services: Vec<Service>,
    },
    /// The renter's program was told to finish (SIGTERM); the container lives on until the end.
    Notified,
    /// The rental began to be suspended.
    SuspendBegan {
        /// Why.
        cause: SuspendCause,
    },
    /// The rental's container is stopped and put away, its GPUs and ports are free, and its paid time stands still.
    Suspended {
        /// Since when.
        since: Moment,
        /// The container; `None` where it is gone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retained: Option<Retained>,
    },
    /// GPUs and ports were claimed for it again.
    Resumed(Box<Resumption>),
    /// The rental began to end.
    EndBegan {
        /// Why.
        reason: EndReason,
    },
    /// The container stopped, or is known never to have run; its usage is closed.
    Stopped {
        /// How, by the engine's own record; `None` where no container was left to tell.
        exit: Option<Exit>,
        /// When it ended, on both clocks, as far as that can be told; within one boot it decides the bill,
        /// whatever the wall clock did meanwhile.
        #[serde(default)]
        ended: Option<Moment>,
    },
    /// The container is gone, and its GPUs and ports are free.
    Ended,
}

impl RentalEvent {
    /// The event's name as it is stored and sent.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Claimed(_) => "claimed",
            Self::Pinned { .. } => "pinned",
            Self::Created { .. } => "created",
            Self::Started { .. } => "started",
            Self::Adopted(_) => "adopted",
            Self::Relaunched { .. } => "relaunched",
            Self::Verified { .. } => "verified",
            Self::Extended { .. } => "extended",
            Self::AccessChanged { .. } => "access_changed",
            Self::AccessApplied => "access_applied",
            Self::Warned => "warned",
            Self::WarningWithdrawn => "warning_withdrawn",
            Self::DiskWarned { .. } => "disk_warned",
            Self::ServicesUp { .. } => "services_up",
            Self::Notified => "notified",
            Self::SuspendBegan { .. } => "suspend_began",
            Self::Suspended { .. } => "suspended",
            Self::Resumed(_) => "resumed",
            Self::EndBegan { .. } => "end_began",
            Self::Stopped { .. } => "stopped",
            Self::Ended => "ended",
        }
    }
}

/// An event with its number and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedEvent {
    /// The event's number within the rental.
    pub seq: Seq,
    /// When it was recorded, on the host's wall clock.
    pub at: Timestamp,
    /// The event.
    pub event: RentalEvent,
}

/// An event in its host's journal, where readers follow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// The entry's number within the journal: a reader resumes after the last one it saw.
    pub position: Position,
    /// The rental that the event happened to.
    pub rental: RentalId,
    /// The event.
    pub recorded: RecordedEvent,
}

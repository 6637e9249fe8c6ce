//! Where rentals are kept. One method is one transaction; uniqueness is the store's, never
//! check-then-insert.
//!
//! Writes come in two kinds. Intents (rent, cancel) need the revision they saw, so that any process may
//! write them. Observations (started, stopped, ended) need the host's current [`Epoch`] as well: a
//! process that lost its host writes nothing any more.
//!
//! An implementation proves itself with [`store_suite!`](crate::store_suite), one named test a clause.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::access::CredentialKind;
use crate::clock::Moment;
use crate::event::{Claim, Event, JournalEntry, Recorded};
use crate::id::{
    Attempt, ContainerId, EngineId, Epoch, HostId, IdempotencyKey, InstanceName, LaunchId, MachineId, Position,
    RentalId, RenterId, Revision, Seq,
};
use crate::lifecycle::{EndKind, Phase, State};
use crate::placement::{Held, NoPlace, Placed, Placement};
use crate::rental::{IllegalTransition, Outcome, Rental};
use crate::renter::RenterHas;
use crate::seal::{Fingerprint, Sealed};
use crate::spec::RentalSpec;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It does not answer, or not in time. What was asked may or may not have happened: read, then
    /// decide again.
    #[error("the store does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Somebody else changed the rental, or holds what the change needs: read, then decide again.
    #[error("the rental was changed by somebody else")]
    Conflict,
    /// Another process has taken over the host: stop acting for it.
    #[error("another process has taken over this host")]
    Fenced,
    /// The host id belongs to another engine, or to one of this id on another machine: two machines are configured with one
    /// host id.
    #[error("this host id is pinned to the engine {0}, on the machine where its rentals run")]
    HostPinned(EngineId),
    /// The database is set up so that it must not be used as asked: somebody has to change that.
    #[error("the database must not be used as it is set up")]
    Misconfigured(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored cannot be understood: an operator has to look.
    #[error("the store holds something unreadable")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A rental that is to be placed.
#[derive(Clone, Debug)]
pub struct NewRental {
    /// Its id.
    pub id: RentalId,
    /// Its host.
    pub host: HostId,
    /// Its name.
    pub name: InstanceName,
    /// What was asked for.
    pub spec: RentalSpec,
    /// How its renter gets in.
    pub credential: CredentialKind,
    /// The credential itself, sealed.
    pub sealed: Sealed,
    /// What tells the same request from another under the same name or key.
    pub fingerprint: Fingerprint,
    /// The renter's own key for this request. With one, the name alone makes no request the same.
    pub key: Option<IdempotencyKey>,
    /// Until when it has to have started.
    pub due: Timestamp,
    /// Now.
    pub at: Moment,
}

impl NewRental {
    /// Its first launch.
    #[must_use]
    pub fn launch(&self) -> LaunchId {
        LaunchId { rental: self.id, attempt: Attempt::new(1) }
    }

    /// The rental and its first event, once it has a place.
    #[must_use]
    pub fn settle(&self, placed: Placed) -> (Rental, Recorded) {
        let claim = Claim {
            id: self.id,
            host: self.host.clone(),
            name: self.name.clone(),
            spec: self.spec.clone(),
            credential: self.credential,
            gpus: placed.gpus,
            ports: placed.ports,
            quote: placed.quote,
            due: self.due,
            at: Some(self.at.clone()),
            used: jiff::SignedDuration::ZERO,
        };
        Rental::claimed(claim, self.at.wall)
    }
}

/// What a claim came to.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// The rental was made.
    New(Rental),
    /// The same request was made before: under the same key, or, without one, under the same name by a
    /// rental that lives and is not ending.
    Existing(Rental),
}

impl Claimed {
    /// The rental, new or not.
    #[must_use]
    pub fn rental(&self) -> &Rental {
        match self {
            Self::New(rental) | Self::Existing(rental) => rental,
        }
    }
}

/// Why a claim came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// There is no place for it.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// A live rental of the renter's has this name, and was asked for in another way or is just ending.
    #[error("the name {0} belongs to another rental that still runs")]
    NameTaken(InstanceName),
    /// The renter used this key for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A rental that was made again from what its container carries.
#[derive(Clone, Debug)]
pub struct Foundling {
    /// The rental.
    pub rental: Rental,
    /// All of its events.
    pub events: Vec<Recorded>,
    /// Stands for how it was asked for, which nobody knows any more.
    pub fingerprint: Fingerprint,
}

/// The last lines of a container's output, which outlive it for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTail {
    /// The lines, oldest first.
    pub lines: Vec<String>,
    /// When they were read. What other rentals of the host left and is out of date by then is dropped
    /// with this write, and with every end.
    pub at: Timestamp,
    /// Until when they are kept.
    pub until: Timestamp,
}

/// A rental as it was read, and the events that are to happen to it.
#[derive(Clone, Debug)]
pub struct Change {
    rental: Rental,
    expected: Revision,
    events: Vec<Recorded>,
    fence: Option<Epoch>,
    sealed: Option<Sealed>,
    log_tail: Option<LogTail>,
}

impl Change {
    /// An intent: allowed to every process.
    #[must_use]
    pub fn intent(rental: Rental) -> Self {
        let expected = rental.revision();
        Self { rental, expected, events: Vec::new(), fence: None, sealed: None, log_tail: None }
    }

    /// An observation: allowed to the process that holds the host.
    #[must_use]
    pub fn observation(rental: Rental, epoch: Epoch) -> Self {
        Self { fence: Some(epoch), ..Self::intent(rental) }
    }

    /// Lets an event happen.
    ///
    /// # Errors
    /// [`IllegalTransition`]: it cannot happen to the rental as it is.
    pub fn apply(&mut self, event: Event, at: Timestamp) -> Result<Outcome, IllegalTransition> {
        let outcome = self.rental.apply(event.clone(), at)?;
        if outcome == Outcome::Changed {
            if self.events.is_empty() {
                self.rental.bump_revision(at);
            }
            self.events.push(Recorded { seq: self.rental.last_seq(), at, event });
        }
        Ok(outcome)
    }

    /// Replaces the rental's sealed secrets.
    #[must_use]
    pub fn with_sealed(self, sealed: Sealed) -> Self {
        Self { sealed: Some(sealed), ..self }
    }

    /// Keeps the last lines of the rental's output.
    #[must_use]
    pub fn with_log_tail(self, tail: LogTail) -> Self {
        Self { log_tail: Some(tail), ..self }
    }

    /// The new sealed secrets, if they are to be replaced.
    #[must_use]
    pub fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_ref()
    }

    /// The lines to keep, if any.
    #[must_use]
    pub fn log_tail(&self) -> Option<&LogTail> {
        self.log_tail.as_ref()
    }

    /// The rental as it will be.
    #[must_use]
    pub fn rental(&self) -> &Rental {
        &self.rental
    }

    /// The rental as it will be, for the caller to go on with.
    #[must_use]
    pub fn into_rental(self) -> Rental {
        self.rental
    }

    /// The revision that the stored rental must still have.
    #[must_use]
    pub fn expected(&self) -> Revision {
        self.expected
    }

    /// What happened; empty where nothing is to be written.
    #[must_use]
    pub fn events(&self) -> &[Recorded] {
        &self.events
    }

    /// The epoch that the host must still have.
    #[must_use]
    pub fn fence(&self) -> Option<Epoch> {
        self.fence
    }
}

/// What somebody holds who took over a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// Fences off everybody who held the host before.
    pub epoch: Epoch,
    /// The last position in the host's journal.
    pub last_position: Position,
}

/// Which rentals to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this renter only.
    pub renter: Option<RenterId>,
    /// Of this name only.
    pub name: Option<InstanceName>,
    /// With this label and value only.
    pub label: Option<(String, String)>,
    /// In one of these phases, or ended in one of the `ends`. All, where both are empty.
    pub phases: Vec<Phase>,
    /// See `phases`.
    pub ends: Vec<EndKind>,
}

impl Filter {
    /// Whether a rental passes.
    #[must_use]
    pub fn passes(&self, rental: &Rental) -> bool {
        let spec = rental.spec();
        let ended_so = || match rental.state() {
            State::Ended { reason, .. } => self.ends.contains(&reason.kind()),
            _ => false,
        };
        let every_state = self.phases.is_empty() && self.ends.is_empty();
        self.renter.as_ref().is_none_or(|renter| spec.renter == *renter)
            && self.name.as_ref().is_none_or(|name| rental.name() == name)
            && self.label.as_ref().is_none_or(|(name, value)| spec.labels.get(name) == Some(value.as_str()))
            && (every_state || self.phases.contains(&rental.state().phase()) || ended_so())
    }
}

/// The most rows that one page holds.
pub const MAX_PAGE: usize = 500;

/// Keeps rentals, their holds, their events and their sealed credentials.
///
/// Every method is safe to retry after [`StoreError::Unavailable`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Takes over the host and begins a new epoch; all earlier ones are fenced off from then on. The
    /// caller must already hold whatever guards the engine (such as a file lock), since the former
    /// holder is not asked.
    ///
    /// # Errors
    /// [`StoreError::HostPinned`] if the host has live rentals on another engine: of another id, or of the same one on
    /// another machine, where both machines are known.
    async fn take_over(
        &self,
        host: &HostId,
        engine: &EngineId,
        machine: Option<&MachineId>,
    ) -> Result<Tenure, StoreError>;

    /// Whether `epoch` is still the host's.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if it is not.
    async fn confirm(&self, host: &HostId, epoch: Epoch) -> Result<(), StoreError>;

    /// Notes that the holder of the host ends, and acts no longer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; nothing depends on it but [`last_acted`](Self::last_acted).
    async fn resign(&self, _host: &HostId, _epoch: Epoch) -> Result<(), StoreError> {
        Ok(())
    }

    /// How long ago somebody last acted for the host, to about ten seconds; `None` where nobody did, where the last holder
    /// has resigned, or where the store does not note it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    async fn last_acted(&self, _host: &HostId) -> Result<Option<Duration>, StoreError> {
        Ok(None)
    }

    /// Places a new rental and writes it, its holds, its sealed credential and its first event in one
    /// transaction. Fails with "no GPU" only when there is none: losing a race is tried again inside. A renter who has
    /// as much as [one may have](Placement::renter_limits) gets nothing; of many claims at once a database that many
    /// write to may let a few through beyond that, as many as it carries out at once.
    ///
    /// # Errors
    /// [`ClaimError`]; nothing was written then, except perhaps after `Unavailable`.
    async fn claim(&self, new: &NewRental, placement: &Placement) -> Result<Claimed, ClaimError>;

    /// Writes a rental that the store does not know, with all of its events and what it holds: one whose
    /// container was found after the store was restored from a backup. Its secrets are lost.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where the rental is known, or its name, a GPU or a port is another's;
    /// [`StoreError::Fenced`] if the epoch is another; nothing was written then.
    async fn adopt(&self, found: &Foundling, epoch: Epoch) -> Result<(), StoreError>;

    /// Writes a change: the rental, its events, its usage, the holds it has or no longer has, and what
    /// else comes with it. The sealed secrets are erased with the event that ends the rental, and so is the environment
    /// in its claim.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the revision is another or a new port is held, [`StoreError::Fenced`]
    /// if the epoch is another; nothing was written then.
    async fn commit(&self, change: &Change) -> Result<(), StoreError>;

    /// One rental, live or ended.
    async fn get(&self, id: RentalId) -> Result<Option<Rental>, StoreError>;

    /// Whose container this is or was, by the engine's id of it or at least the first 12 characters: ids that were
    /// given out stay good when a rental gets another container. The latest, should several begin alike.
    async fn of_container(&self, host: &HostId, container: &ContainerId) -> Result<Option<RentalId>, StoreError>;

    /// The host's rentals that have not ended.
    async fn live(&self, host: &HostId) -> Result<Vec<Rental>, StoreError>;

    /// The live rentals of the host that are not suspended: that have, or may have, a container.
    async fn active(&self, host: &HostId) -> Result<Vec<Rental>, StoreError>;

    /// The host's rentals that pass the filter, newest first, at most `limit` (and [`MAX_PAGE`]) of
    /// those after `after`; none, where that one is unknown or was [forgotten](Self::forget).
    async fn list(
        &self,
        host: &HostId,
        filter: &Filter,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError>;

    /// The host's rentals that ended before a time, those that did first, at most `limit` (and [`MAX_PAGE`]) of those after
    /// `after`, or from the first on where that one is gone. Without such whose events were not all [published](Self::publish): nobody may have billed them yet.
    async fn ended_before(
        &self,
        host: &HostId,
        before: Timestamp,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError>;

    /// Deletes ended rentals of the host, with their events, also from its journal, and tells how many: those that live, are
    /// unknown, or have events that were not published stay. At most [`MAX_PAGE`] at once.
    async fn forget(&self, host: &HostId, rentals: &[RentalId]) -> Result<usize, StoreError>;

    /// What the host's live rentals hold.
    async fn held(&self, host: &HostId) -> Result<Held, StoreError>;

    /// The sums of what a renter has on the host, counted without reading it; a rental made after `since` was made
    /// [lately](crate::renter::lately).
    async fn renter_has(&self, host: &HostId, renter: &RenterId, since: Timestamp) -> Result<RenterHas, StoreError>;

    /// The last lines of a rental's output, unless they are out of date by `now`.
    async fn log_tail(&self, id: RentalId, now: Timestamp) -> Result<Option<Vec<String>>, StoreError>;

    /// A rental's sealed secrets; `None` once it has ended.
    async fn sealed(&self, id: RentalId) -> Result<Option<Sealed>, StoreError>;

    /// A rental's events after a number, at most `limit`.
    async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<Recorded>, StoreError>;

    /// Gives positions in the host's journal to events that have none yet, at most `limit`, and returns
    /// them. Only the holder of the host publishes, so positions have no gap but for what was
    /// [forgotten](Self::forget), and no reader can miss one that is committed late.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if the epoch is another.
    async fn publish(&self, host: &HostId, epoch: Epoch, limit: usize) -> Result<Vec<JournalEntry>, StoreError>;

    /// The host's journal after a position, at most `limit` (and [`MAX_PAGE`]).
    async fn journal(&self, host: &HostId, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError>;
}

//! A rental, the pure function that changes it, and the pure function that says what to do next.
//!
//! No I/O and no clock: [`Rental::apply`] is given the time, [`Rental::next`] is asked with it. Both the
//! conformance suites and a restart after a crash rest on the same property: folding the stored events
//! gives the stored rental.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::access::CredentialKind;
use crate::billing::{Bill, Segment};
use crate::clock::Moment;
use crate::event::{Claim, Event, Recorded};
use crate::gpu::Gpu;
use crate::id::{Attempt, ContainerId, HostId, InstanceName, LaunchId, RentalId, Revision, Seq};
use crate::lifecycle::{EndReason, Exit, State};
use crate::money::Quote;
use crate::port::{HostPort, PortBinding, SSH};
use crate::spec::{Environment, ImageDigest, RentalSpec};

/// One rental, from its claim to its final bill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rental {
    id: RentalId,
    host: HostId,
    name: InstanceName,
    spec: RentalSpec,
    credential: CredentialKind,
    gpus: Vec<Gpu>,
    ports: Vec<PortBinding>,
    quote: Option<Quote>,
    due: Timestamp,
    created_at: Timestamp,
    attempt: Attempt,
    revision: Revision,
    last_seq: Seq,
    state: State,
    container: Option<ContainerId>,
    gpus_attached: bool,
    started_at: Option<Timestamp>,
    paid_from: Option<Moment>,
    warned: bool,
    notified: bool,
    segments: Vec<Segment>,
    exit: Option<Exit>,
    /// What the renter was warned of no longer holds.
    #[serde(default)]
    warning_outdated: bool,
    /// The container lets in by another credential than the stored one.
    #[serde(default)]
    access_outdated: bool,
    #[serde(default)]
    pinned: Option<ImageDigest>,
    /// When it was claimed and when its container started, on both clocks: time limits hold whatever the wall
    /// clock does.
    #[serde(default)]
    claimed: Option<Moment>,
    #[serde(default)]
    started: Option<Moment>,
}

/// An event that cannot happen in the state the rental is in: late, doubled or out of order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rental that is {state} cannot be {event}")]
pub struct IllegalTransition {
    /// The event's name.
    pub event: &'static str,
    /// The state's name.
    pub state: &'static str,
}

/// Whether applying an event changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did; the event is to be stored.
    Changed,
    /// It is already so (a second cancel, a stop seen twice); nothing is to be stored.
    Unchanged,
}

/// From how much on two clocks differ because one was set.
const SET: SignedDuration = SignedDuration::from_millis(100);

impl Rental {
    /// The rental that a claim makes.
    #[must_use]
    pub fn claimed(claim: Claim, at: Timestamp) -> (Self, Recorded) {
        let recorded = Recorded { seq: Seq::new(1), at, event: Event::Claimed(Box::new(claim.clone())) };
        let rental = Self {
            id: claim.id,
            host: claim.host,
            name: claim.name,
            spec: claim.spec,
            credential: claim.credential,
            gpus: claim.gpus,
            ports: claim.ports,
            quote: claim.quote,
            due: claim.due,
            created_at: at,
            attempt: Attempt::new(1),
            revision: Revision::new(1),
            last_seq: Seq::new(1),
            state: State::Provisioning,
            container: None,
            gpus_attached: false,
            started_at: None,
            paid_from: None,
            warned: false,
            notified: false,
            segments: Vec::new(),
            exit: None,
            warning_outdated: false,
            access_outdated: false,
            pinned: None,
            claimed: claim.at,
            started: None,
        };
        (rental, recorded)
    }

    /// The rental that its events tell of; `None` unless they begin with a claim and are all legal.
    ///
    /// The result's [`revision`](Self::revision) counts from 1 again: how many writes there were is not
    /// in the events.
    #[must_use]
    pub fn folded(events: &[Recorded]) -> Option<Self> {
        let (first, rest) = events.split_first()?;
        let Event::Claimed(claim) = &first.event else { return None };
        let (mut rental, _) = Self::claimed((**claim).clone(), first.at);
        for recorded in rest {
            if recorded.seq != rental.last_seq.next() {
                return None;
            }
            match rental.apply(recorded.event.clone(), recorded.at) {
                Ok(Outcome::Changed) => {}
                Ok(Outcome::Unchanged) | Err(_) => return None,
            }
        }
        Some(rental)
    }

    /// Whether two are the same, however often they were written.
    #[cfg(feature = "testing")]
    pub(crate) fn is_same_but_for_writes(&self, other: &Self) -> bool {
        *self == Self { revision: self.revision, ..other.clone() }
    }

    /// Lets an event happen.
    ///
    /// # Errors
    /// [`IllegalTransition`], the rental unchanged: the event is late or out of order. The caller reads
    /// the rental again and decides anew.
    pub fn apply(&mut self, event: Event, at: Timestamp) -> Result<Outcome, IllegalTransition> {
        let illegal = IllegalTransition { event: event.name(), state: self.state.phase().as_str() };
        match (event, &self.state) {
            (Event::Pinned { digest }, State::Provisioning) if self.container.is_none() && self.pinned.is_none() => {
                self.pinned = Some(digest);
            }
            (Event::Created { container, gpus_attached }, State::Provisioning) if self.container.is_none() => {
                self.container = Some(container);
                self.gpus_attached = gpus_attached;
            }
            (Event::Started { started_at, started }, State::Provisioning) if self.container.is_some() => {
                self.started_at = Some(started_at);
                self.started = started;
                self.state = State::Running;
            }
            (Event::Relaunched { ports }, State::Provisioning) => {
                self.ports = ports;
                self.attempt = self.attempt.next();
                self.container = None;
                self.access_outdated = false;
            }
            (Event::Adopted(found), State::Provisioning)
                if found.attempt > self.attempt
                    || (found.attempt == self.attempt && (self.container.is_none() || found.started_at.is_some())) =>
            {
                self.attempt = found.attempt;
                self.ports = found.ports;
                self.container = Some(found.container);
                self.gpus_attached = found.gpus_attached;
                self.access_outdated = false;
                self.started_at = found.started_at;
                self.started = None;
                self.state = if found.started_at.is_some() { State::Running } else { State::Provisioning };
            }
            (Event::Verified { paid_from }, State::Running) => {
                self.segments.push(Segment { started_at: paid_from.wall, ended_at: None });
                self.paid_from = Some(paid_from);
                self.state = State::Ready;
            }
            (Event::Extended { term }, State::Provisioning | State::Running | State::Ready)
                if self.spec.term.is_shorter_than(term) =>
            {
                self.spec.term = term;
                self.warning_outdated |= std::mem::take(&mut self.warned);
                self.notified = false;
            }
            (Event::AccessChanged { credential }, State::Provisioning | State::Running | State::Ready) => {
                self.credential = credential;
                // A container that is still to be made is made with the stored credential.
                self.access_outdated = self.container.is_some();
            }
            (Event::AccessApplied, State::Running | State::Ready) if self.access_outdated => {
                self.access_outdated = false;
            }
            (Event::Warned, State::Ready) if !self.warned => {
                self.warned = true;
                self.warning_outdated = false;
            }
            (Event::WarningWithdrawn, State::Ready) if self.warning_outdated => self.warning_outdated = false,
            (Event::Notified, State::Ready) if !self.notified => self.notified = true,
            (Event::EndBegan { reason }, State::Provisioning | State::Running | State::Ready) => {
                self.state = State::Ending { reason, stopped: false };
            }
            // The first reason stays: a cancel of what already ends changes nothing.
            (Event::EndBegan { .. }, State::Ending { .. } | State::Ended { .. }) => return Ok(Outcome::Unchanged),
            (Event::Stopped { exit, ended }, State::Ending { reason, stopped: false }) => {
                let reason = reason.clone();
                self.close_segment(exit.as_ref(), ended.as_ref(), &reason, at);
                self.exit = exit;
                self.state = State::Ending { reason, stopped: true };
            }
            (Event::Stopped { .. }, State::Ending { stopped: true, .. }) => return Ok(Outcome::Unchanged),
            (Event::Ended, State::Ending { reason, stopped: true }) => {
                self.state = State::Ended { reason: reason.clone(), at };
            }
            (Event::Ended, State::Ended { .. }) => return Ok(Outcome::Unchanged),
            _ => return Err(illegal),
        }
        self.last_seq = self.last_seq.next();
        Ok(Outcome::Changed)
    }

    /// Ends the open segment at the earliest of when the container ended, when it was last seen, and the end
    /// of the paid time; never before its start. The length is that of the boot clock where both ends were
    /// read in one boot: a wall clock that is set in between neither gives time away nor sells it twice.
    fn close_segment(&mut self, exit: Option<&Exit>, ended: Option<&Moment>, reason: &EndReason, at: Timestamp) {
        let paid_until = self.expires_at();
        let paid_from = self.paid_from.as_ref();
        let Some(segment) = self.segments.last_mut().filter(|segment| segment.ended_at.is_none()) else { return };
        let by_both_clocks = paid_from.zip(ended).and_then(|(from, to)| from.wall.checked_add(to.since(from)).ok());
        let seen = match (by_both_clocks, exit, reason) {
            // Two clocks that were not set differ by what it takes to read them.
            (Some(ended), Some(exit), _) if ended.duration_since(exit.finished_at).abs() < SET => exit.finished_at,
            (Some(ended), _, _) => ended,
            (None, Some(exit), _) => exit.finished_at,
            (None, None, EndReason::Lost { last_seen }) => *last_seen,
            (None, None, _) => at,
        };
        let ended_at = paid_until.map_or(seen, |paid_until| seen.min(paid_until));
        segment.ended_at = Some(ended_at.max(segment.started_at));
    }

    /// How much paid time is left; negative past the end, `None` before the rental is ready or where its
    /// term is open.
    #[must_use]
    pub fn time_left(&self, now: &Moment) -> Option<SignedDuration> {
        let term = self.spec.term.duration()?;
        Some(term - now.since(self.paid_from.as_ref()?))
    }

    /// When the paid time ends; `None` before the rental is ready or where its term is open.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        let from = self.paid_from.as_ref()?.wall;
        from.checked_add(self.spec.term.duration()?).ok()
    }

    /// How long it may go on as it is: until it has to have started, or until its paid time is over.
    #[must_use]
    pub fn time_to_end(&self, now: &Moment) -> Option<SignedDuration> {
        match self.state {
            State::Provisioning => Some(self.time_to_start(now)),
            State::Ready => self.time_left(now),
            _ => None,
        }
    }

    /// How long it may still take to start.
    fn time_to_start(&self, now: &Moment) -> SignedDuration {
        match &self.claimed {
            Some(claimed) => self.due.duration_since(claimed.wall) - now.since(claimed),
            None => self.due.duration_since(now.wall),
        }
    }

    /// The claim that would make this rental as it is now, less what may be secret in it: its environment.
    /// What a container carries, so that a store that has lost the rental can be told of it again.
    #[must_use]
    pub fn claim(&self) -> Claim {
        Claim {
            id: self.id,
            host: self.host.clone(),
            name: self.name.clone(),
            spec: RentalSpec { environment: Environment::default(), ..self.spec.clone() },
            credential: self.credential,
            gpus: self.gpus.clone(),
            ports: self.ports.clone(),
            quote: self.quote.clone(),
            due: self.due,
            at: self.claimed.clone(),
        }
    }

    /// The bill as it stands.
    #[must_use]
    pub fn bill(&self, now: Timestamp) -> Bill {
        Bill::of(&self.segments, self.quote.as_ref(), now)
    }

    /// The revision that the next write makes; for stores and for [`Change`](crate::store::Change).
    pub(crate) fn bump_revision(&mut self) {
        self.revision = self.revision.next();
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> RentalId {
        self.id
    }

    /// The host it is on.
    #[must_use]
    pub fn host(&self) -> &HostId {
        &self.host
    }

    /// Its name, unique among the host's live rentals.
    #[must_use]
    pub fn name(&self) -> &InstanceName {
        &self.name
    }

    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &RentalSpec {
        &self.spec
    }

    /// Password or key.
    #[must_use]
    pub fn credential(&self) -> CredentialKind {
        self.credential
    }

    /// Its GPUs. Held until it has ended.
    #[must_use]
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// Its ports. Held until it has ended.
    #[must_use]
    pub fn ports(&self) -> &[PortBinding] {
        &self.ports
    }

    /// The host's port that leads to a port of the container.
    #[must_use]
    pub fn host_port(&self, container: crate::port::ContainerPort) -> Option<HostPort> {
        self.ports.iter().find(|binding| binding.container == container).map(|binding| binding.host)
    }

    /// The host's port that leads to SSH.
    #[must_use]
    pub fn ssh_port(&self) -> Option<HostPort> {
        self.host_port(SSH)
    }

    /// The price it was started at.
    #[must_use]
    pub fn quote(&self) -> Option<&Quote> {
        self.quote.as_ref()
    }

    /// The digest that its image is pinned to.
    #[must_use]
    pub fn pinned(&self) -> Option<&ImageDigest> {
        self.pinned.as_ref()
    }

    /// Whether its container still lets in by a former credential.
    #[must_use]
    pub fn access_outdated(&self) -> bool {
        self.access_outdated
    }

    /// When it was claimed.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// How many launches there were.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Its current launch.
    #[must_use]
    pub fn launch(&self) -> LaunchId {
        LaunchId { rental: self.id, attempt: self.attempt }
    }

    /// Its number of writes.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The number of its last event.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether it still holds anything.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !matches!(self.state, State::Ended { .. })
    }

    /// The engine's id of its container, once there is one.
    #[must_use]
    pub fn container(&self) -> Option<&ContainerId> {
        self.container.as_ref()
    }

    /// Whether the engine attached its GPUs; simulated ones cannot always be.
    #[must_use]
    pub fn gpus_attached(&self) -> bool {
        self.gpus_attached
    }

    /// When it was claimed, on both clocks; `None` for a rental of an older version.
    #[must_use]
    pub fn claimed_at(&self) -> Option<&Moment> {
        self.claimed.as_ref()
    }

    /// From when its paid time counts, once it is ready.
    #[must_use]
    pub fn paid_from(&self) -> Option<&Moment> {
        self.paid_from.as_ref()
    }

    /// When its container started, by our own clocks; `None` where that is not known.
    #[must_use]
    pub fn started(&self) -> Option<&Moment> {
        self.started.as_ref()
    }

    /// When its container started, by the engine's own record.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        self.started_at
    }

    /// Its usage.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// How its container ended.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        self.exit.as_ref()
    }
}

mod next;

pub use next::{Action, Next, Timing};

#[cfg(test)]
#[path = "rental_tests.rs"]
mod tests;

//! Changes of a rental: its events, one after the other, and nothing else.

use jiff::Timestamp;

use crate::id::{Attempt, Revision, Seq};
use crate::model::rental::launch::Launch;
use crate::model::{
    Adoption, Claim, EndReason, Environment, Failure, Files, RecordedEvent, Rental, RentalEvent, RentalSpec,
    RentalState, Retained, SuspendCause,
};

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
    /// The event changed something, and is to be stored.
    Changed,
    /// The rental is so already (a second cancel, a stop seen twice); nothing is to be stored.
    Unchanged,
}

/// Whether a container that was found is further than what is known of its rental, whose own end it would not
/// undo.
fn supersedes(found: &Adoption, attempt: Attempt, has_container: bool, state: &RentalState) -> bool {
    match state {
        RentalState::Provisioning if found.attempt == attempt => !has_container || found.started_at.is_some(),
        RentalState::Ending { .. } | RentalState::Ended { .. } => false,
        _ => found.attempt > attempt,
    }
}

impl Rental {
    /// The rental that a claim makes.
    #[must_use]
    pub fn from_claim(claim: Claim, at: Timestamp) -> (Self, RecordedEvent) {
        let recorded = RecordedEvent { seq: Seq::new(1), at, event: RentalEvent::Claimed(Box::new(claim.clone())) };
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
            claimed_at: claim.at,
            revision: Revision::new(1),
            last_seq: Seq::new(1),
            state: RentalState::Provisioning,
            launch: Launch::new(Attempt::new(1)),
            brought_up_as: Attempt::new(1),
            segments: Vec::new(),
            pinned: None,
            image: None,
            resumed: 0,
            retained: None,
            copied_bytes: 0,
            disk_warned_at: None,
            lost_use: claim.used,
        };
        (rental, recorded)
    }

    /// The rental that its events tell of; `None` unless they begin with a claim and are all legal.
    ///
    /// The result's [`revision`](Self::revision) is the first one again: when it was written is not in the events.
    #[must_use]
    pub fn folded(events: &[RecordedEvent]) -> Option<Self> {
        let (first, rest) = events.split_first()?;
        let RentalEvent::Claimed(claim) = &first.event else { return None };
        let (mut rental, _) = Self::from_claim((**claim).clone(), first.at);
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
    pub fn apply(&mut self, event: RentalEvent, at: Timestamp) -> Result<Outcome, IllegalTransition> {
        let illegal = IllegalTransition { event: event.name(), state: self.state.phase().as_str() };
        match (event, &self.state) {
            (RentalEvent::Pinned { digest }, RentalState::Provisioning)
                if self.launch.container.is_none() && self.pinned.is_none() =>
            {
                self.pinned = Some(digest);
            }
            (
                RentalEvent::Created { container, gpus_attached, at, image, files, copied_bytes },
                RentalState::Provisioning,
            ) if self.launch.container.is_none() => {
                if let Some(retained) = &mut self.retained {
                    // They are in this one by now, should it have to be launched again.
                    *retained = Retained {
                        attempt: self.launch.attempt,
                        container: container.clone(),
                        gpus: self.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
                        ports: self.ports.clone(),
                        bytes: retained.bytes,
                    };
                }
                self.launch.files = files;
                // One that is taken over as it is was told of when it was made.
                if image.is_some() {
                    self.image = image;
                }
                // One that is started as it is has below it what it had.
                if files != Files::Same {
                    self.copied_bytes = copied_bytes;
                }
                self.launch.container = Some(container);
                self.launch.created = at;
                self.launch.gpus_attached = gpus_attached;
            }
            (RentalEvent::Started { started_at, started }, RentalState::Provisioning)
                if self.launch.container.is_some() =>
            {
                self.launch.started_at = Some(started_at);
                self.launch.started = Some(started);
                self.state = RentalState::Running;
            }
            (RentalEvent::Relaunched { ports }, RentalState::Provisioning) => {
                self.ports = ports;
                self.launch = Launch::new(self.launch.attempt.next());
            }
            (RentalEvent::Adopted(found), state)
                if supersedes(&found, self.launch.attempt, self.launch.container.is_some(), state) =>
            {
                if found.attempt > self.launch.attempt {
                    self.merge_claim(*found.claim);
                    self.launch = Launch::new(found.attempt);
                    self.brought_up_as = found.attempt;
                }
                self.ports = found.ports;
                self.launch.container = Some(found.container);
                self.launch.gpus_attached = found.gpus_attached;
                self.launch.access_outdated = false;
                self.retained = None;
                self.launch.started_at = found.started_at;
                self.state = if found.started_at.is_some() { RentalState::Running } else { RentalState::Provisioning };
            }
            (RentalEvent::Verified { paid_from }, RentalState::Running) => {
                self.retained = None;
                self.begin_segment(paid_from);
            }
            (RentalEvent::Extended { term }, state)
                if state.end_reason().is_none() && self.spec.term.is_shorter_than(term) =>
            {
                self.spec.term = term;
                self.launch.warning_outdated |= std::mem::take(&mut self.launch.warned);
                self.launch.notified = false;
            }
            (RentalEvent::AccessChanged { credential }, state) if state.end_reason().is_none() => {
                self.credential = credential;
                // A container that is still to be made is made with the stored credential.
                self.launch.access_outdated = self.launch.container.is_some();
            }
            (RentalEvent::AccessApplied, RentalState::Running | RentalState::Ready) if self.launch.access_outdated => {
                self.launch.access_outdated = false;
            }
            (RentalEvent::Warned, RentalState::Ready) if !self.launch.warned => {
                self.launch.warned = true;
                self.launch.warning_outdated = false;
            }
            (RentalEvent::WarningWithdrawn, RentalState::Ready) if self.launch.warning_outdated => {
                self.launch.warning_outdated = false;
            }
            (RentalEvent::DiskWarned { .. }, RentalState::Ready) if !self.was_warned_of_the_disk(at) => {
                self.disk_warned_at = Some(at);
            }
            (RentalEvent::DiskWarned { .. }, RentalState::Ready) => return Ok(Outcome::Unchanged),
            (RentalEvent::ServicesUp { services }, RentalState::Ready) => {
                let before = self.launch.services.len();
                for service in services {
                    if self.silent_ports().any(|binding| binding.container == service.container) {
                        self.launch.services.push(service);
                    }
                }
                if self.launch.services.len() == before {
                    return Ok(Outcome::Unchanged);
                }
            }
            (RentalEvent::Notified, RentalState::Ready) if !self.launch.notified => self.launch.notified = true,
            (
                RentalEvent::SuspendBegan { cause },
                RentalState::Provisioning | RentalState::Running | RentalState::Ready,
            ) => {
                // A resumption that the host itself could not carry out is nobody's.
                if matches!(&cause, SuspendCause::Failed(failure) if failure.kind.is_by_the_host()) {
                    self.resumed = self.resumed.saturating_sub(1);
                }
                self.state = RentalState::Suspending { cause, stopped: false };
            }
            (RentalEvent::SuspendBegan { .. }, RentalState::Suspending { .. } | RentalState::Suspended { .. }) => {
                return Ok(Outcome::Unchanged);
            }
            (RentalEvent::Stopped { exit, ended }, RentalState::Suspending { cause, stopped: false }) => {
                let cause = cause.clone();
                let by_the_host = matches!(&cause, SuspendCause::Failed(failure) if !failure.kind.is_charged());
                self.charge_unverified(exit.as_ref(), ended.as_ref(), by_the_host);
                self.close_segment(exit.as_ref(), ended.as_ref(), None, at);
                self.launch.exit = exit;
                self.state = RentalState::Suspending { cause, stopped: true };
            }
            (RentalEvent::Stopped { .. }, RentalState::Suspending { stopped: true, .. }) => {
                return Ok(Outcome::Unchanged);
            }
            (RentalEvent::Suspended { since, retained }, RentalState::Suspending { cause, stopped: true }) => {
                let cause = cause.clone();
                self.retained = retained;
                self.launch = self.launch.put_away();
                self.gpus.clear();
                self.ports.clear();
                self.state = RentalState::Suspended { cause, since };
            }
            (RentalEvent::Suspended { .. }, RentalState::Suspended { .. }) => return Ok(Outcome::Unchanged),
            (RentalEvent::Resumed(resumption), RentalState::Suspended { .. }) => {
                self.requote(resumption.quote);
                self.gpus = resumption.gpus;
                self.ports = resumption.ports;
                self.due = resumption.due;
                self.claimed_at = resumption.at;
                self.launch = Launch::new(self.launch.attempt.next());
                self.brought_up_as = self.launch.attempt;
                self.resumed = self.resumed.saturating_add(1);
                self.state = RentalState::Provisioning;
            }
            (
                RentalEvent::EndBegan { reason },
                RentalState::Provisioning | RentalState::Running | RentalState::Ready,
            ) => {
                self.state = RentalState::Ending { reason, stopped: false };
            }
            (RentalEvent::EndBegan { reason }, RentalState::Suspending { stopped, .. }) => {
                self.state = RentalState::Ending { reason, stopped: *stopped };
            }
            (RentalEvent::EndBegan { reason }, RentalState::Suspended { .. }) => {
                self.state = RentalState::Ending { reason, stopped: true };
            }
            // The first reason stays: a cancel of what already ends changes nothing.
            (RentalEvent::EndBegan { .. }, RentalState::Ending { .. } | RentalState::Ended { .. }) => {
                return Ok(Outcome::Unchanged);
            }
            (RentalEvent::Stopped { exit, ended }, RentalState::Ending { reason, stopped: false }) => {
                let reason = reason.clone();
                self.charge_unverified(exit.as_ref(), ended.as_ref(), !reason.is_charged());
                self.close_segment(exit.as_ref(), ended.as_ref(), Some(&reason), at);
                self.launch.exit = exit;
                self.state = RentalState::Ending { reason, stopped: true };
            }
            (RentalEvent::Stopped { .. }, RentalState::Ending { stopped: true, .. }) => return Ok(Outcome::Unchanged),
            (RentalEvent::Ended, RentalState::Ending { reason, stopped: true }) => {
                self.state = RentalState::Ended { reason: reason.clone(), at };
                self.retained = None;
                // It may hold tokens, and nothing is started by it any more.
                self.spec.environment = Environment::default();
            }
            (RentalEvent::Ended, RentalState::Ended { .. }) => return Ok(Outcome::Unchanged),
            _ => return Err(illegal),
        }
        self.last_seq = self.last_seq.next();
        Ok(Outcome::Changed)
    }

    /// The event for a launch that failed: a rental that was ready once waits to be resumed, with what is left of
    /// its time; one that never was, ends.
    #[must_use]
    pub fn failure_event(&self, failure: Failure) -> RentalEvent {
        if self.has_been_ready() {
            RentalEvent::SuspendBegan { cause: SuspendCause::Failed(failure) }
        } else {
            RentalEvent::EndBegan { reason: EndReason::Failed(failure) }
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
            at: self.claimed_at.clone(),
            used: self.used_before(),
        }
    }

    /// Gives the rental the revision that a write at this time makes: a number that no other write of the rental has, also
    /// none of those that a restored store has forgotten.
    pub(crate) fn bump_revision(&mut self, at: Timestamp) {
        let by_the_clock = u64::try_from(at.as_microsecond()).map_or(Revision::ZERO, Revision::new);
        self.revision = self.revision.next().max(by_the_clock);
    }
}

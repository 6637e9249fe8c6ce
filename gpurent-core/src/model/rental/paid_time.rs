//! A rental's paid time: what was used, what is left, what it costs.
//!
//! It counts from the start of each container that became ready to that container's end, on the boot clock
//! where that can be told, and stands still while the rental is suspended.

use jiff::{SignedDuration, Timestamp};

use crate::clock::Moment;
use crate::model::{Bill, Claim, EndReason, Exit, Quote, Rental, RentalState, Segment};

/// No container that lets nobody in is charged for more: it would have been given up, had the host looked.
const MAX_UNVERIFIED: SignedDuration = SignedDuration::from_mins(10);

/// From how much on two clocks differ because one was set.
const CLOCK_STEP: SignedDuration = SignedDuration::from_millis(100);

impl Rental {
    /// The rental is ready: it is paid for from its container's start.
    pub(super) fn begin_segment(&mut self, paid_from: Moment) {
        // A wall clock that was set back while the rental was suspended must not make it pay twice.
        let earliest = self.segments.last().and_then(|before| before.ended_at);
        let started_at = earliest.map_or(paid_from.wall, |earliest| earliest.max(paid_from.wall));
        self.segments.push(Segment { started_at, ended_at: None, quote: None });
        self.launch.paid_from = Some(paid_from);
        self.state = RentalState::Ready;
    }

    /// Opens a segment for a container that ran and never let its renter in, where the host charges for that: the GPU worked
    /// all the same. Not where it was the host's doing, nor where nobody knows how long it ran.
    pub(super) fn charge_unverified(&mut self, exit: Option<&Exit>, ended: Option<&Moment>, by_the_host: bool) {
        let charges = self.quote.as_ref().is_some_and(|quote| quote.unverified) && !by_the_host;
        let (true, Some(started_at), Some(_), None) = (charges, self.launch.started_at, exit, &self.launch.paid_from)
        else {
            return;
        };
        let left = self.spec.term.duration().map(|term| term - self.used_before());
        let earliest = self.segments.last().and_then(|before| before.ended_at);
        let mut segment = Segment {
            started_at: earliest.map_or(started_at, |earliest| earliest.max(started_at)),
            ended_at: None,
            quote: None,
        };
        let ran = match (&self.launch.started, ended) {
            (Some(started), Some(ended)) => ended.since(started),
            // Over a reboot nobody can tell.
            _ => return,
        };
        let ran = ran.min(MAX_UNVERIFIED);
        segment.end_after(left.map_or(ran, |left| ran.min(left)));
        self.segments.push(segment);
    }

    /// Ends the open segment at the earliest of when the container ended, when it was last seen, and the end
    /// of the paid time; never before its start. The length is that of the boot clock where both ends were
    /// read in one boot: a wall clock that is set in between neither gives time away nor sells it twice.
    pub(super) fn close_segment(
        &mut self,
        exit: Option<&Exit>,
        ended: Option<&Moment>,
        reason: Option<&EndReason>,
        at: Timestamp,
    ) {
        let paid_until = self.expires_at();
        let paid_from = self.launch.paid_from.clone();
        let Some(segment) = self.segments.last_mut().filter(|segment| segment.ended_at.is_none()) else { return };
        let by_both_clocks =
            paid_from.as_ref().zip(ended).and_then(|(from, to)| from.wall.checked_add(to.since(from)).ok());
        let seen = match (by_both_clocks, exit, reason) {
            // Two clocks that were not set differ by what it takes to read them.
            (Some(ended), Some(exit), _) if ended.duration_since(exit.finished_at).abs() < CLOCK_STEP => {
                exit.finished_at
            }
            (Some(ended), _, _) => ended,
            (None, Some(exit), _) => exit.finished_at,
            (None, None, Some(EndReason::Lost { last_seen })) => *last_seen,
            (None, None, _) => at,
        };
        let ended_at = paid_until.map_or(seen, |paid_until| seen.min(paid_until));
        let counted_from = paid_from.map_or(segment.started_at, |from| from.wall);
        segment.end_after(ended_at.duration_since(counted_from));
    }

    /// A later launch than the known one was found, and says what the rental had become by then: the store was set
    /// back to a time before that.
    pub(super) fn merge_claim(&mut self, claim: Claim) {
        let before = self.used_before();
        if let Some(open) = self.segments.last_mut().filter(|segment| segment.ended_at.is_none()) {
            open.end_after(claim.used - before);
        }
        self.lost_use += (claim.used - self.used_before()).max(SignedDuration::ZERO);
        self.requote(claim.quote);
        if self.spec.term.is_shorter_than(claim.spec.term) {
            self.spec.term = claim.spec.term;
        }
        self.gpus = claim.gpus;
        self.due = claim.due;
        self.claimed_at = claim.at;
    }

    /// From now on it costs something else; what was used before keeps its price. A price in another currency is
    /// not taken, since a bill has one.
    pub(super) fn requote(&mut self, quote: Option<Quote>) {
        let same_currency = |old: &Quote, new: &Quote| old.currency == new.currency;
        match (&self.quote, quote) {
            (Some(old), Some(new)) if *old != new && same_currency(old, &new) => {
                for segment in &mut self.segments {
                    segment.quote.get_or_insert_with(|| old.clone());
                }
                self.quote = Some(new);
            }
            _ => {}
        }
    }

    /// Whether it was ready at any time.
    #[must_use]
    pub fn has_been_ready(&self) -> bool {
        // What has files that are kept was ready, also where the store has lost when.
        !self.segments.is_empty() || self.lost_use.is_positive() || self.retained.is_some()
    }

    /// Whether it is to become ready, and never was: suspending it ends it.
    #[must_use]
    pub fn is_on_its_first_way_up(&self) -> bool {
        matches!(self.state, RentalState::Provisioning | RentalState::Running) && !self.has_been_ready()
    }

    /// How much paid time was used by launches that are over.
    #[must_use]
    pub fn used_before(&self) -> SignedDuration {
        let closed = self.segments.iter().filter_map(|s| Some(s.ended_at?.duration_since(s.started_at)));
        closed.fold(self.lost_use, |sum, length| sum + length)
    }

    /// How much paid time is left; negative past the end, `None` before the rental is ready or where its
    /// term is open. Stands still while it is suspended.
    #[must_use]
    pub fn time_left(&self, now: &Moment) -> Option<SignedDuration> {
        let left = self.spec.term.duration()? - self.used_before();
        match &self.launch.paid_from {
            // Its segment is closed, and counted already.
            Some(_) if self.segments.last().is_some_and(|segment| segment.ended_at.is_some()) => Some(left),
            Some(from) => Some(left - now.since(from)),
            None => self.has_been_ready().then_some(left),
        }
    }

    /// When the paid time ends; `None` before the rental is ready, while it is suspended (nobody knows when it
    /// goes on), or where its term is open.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        let left = self.spec.term.duration()? - self.used_before();
        let from = match (&self.launch.paid_from, self.segments.last()?.ended_at, &self.state) {
            (_, _, RentalState::Provisioning | RentalState::Running | RentalState::Suspended { .. }) => return None,
            (Some(from), None, _) => from.wall,
            (_, ended_at, _) => ended_at?,
        };
        from.checked_add(left).ok()
    }

    /// How long it may go on as it is: until it has to have started, or until its paid time is over.
    #[must_use]
    pub fn time_to_end(&self, now: &Moment) -> Option<SignedDuration> {
        match self.state {
            RentalState::Provisioning => Some(self.time_to_start(now)),
            RentalState::Ready => self.time_left(now),
            _ => None,
        }
    }

    /// How long it may still take to start.
    pub(super) fn time_to_start(&self, now: &Moment) -> SignedDuration {
        self.due.duration_since(self.claimed_at.wall) - now.since(&self.claimed_at)
    }

    /// The bill as it stands.
    #[must_use]
    pub fn bill(&self, now: Timestamp) -> Bill {
        Bill::of(&self.segments, self.quote.as_ref(), now)
    }
}

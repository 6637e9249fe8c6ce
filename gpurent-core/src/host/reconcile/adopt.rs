//! Rentals that the store does not know, made again from what their containers carry.
use crate::error::BoxError;
use crate::host::context::HostContext;
use crate::host::reconcile::step::adopted;
use crate::id::{LaunchId, Seq};
use crate::model::{RecordedEvent, Rental, RentalEvent, SuspendCause};
use crate::store::{HostOwnership, RecoveredRental, StoreError};

/// The outcome for a container whose rental the store does not know.
pub(super) enum Found {
    /// The rental was made again, and goes on.
    Adopted(Box<Rental>),
    /// The container cannot be told what it is, or its place is taken: it is left alone, for an operator to decide.
    LeftAlone,
}

/// Makes a rental again from what its container carries. What the renter pays for begins where it began, by
/// the host's own book; one that the book does not have was never ready, or lost its book too, and its access is
/// verified now.
pub(super) async fn adopt(context: &HostContext, owner: HostOwnership, launch: LaunchId) -> Result<Found, BoxError> {
    let Some(found) = context.runtime.inspect(launch).await? else { return Ok(Found::LeftAlone) };
    if found.claim.id != launch.rental || found.claim.host != context.host {
        return Ok(Found::LeftAlone);
    }
    let now = context.clock.now();
    let claim = RentalEvent::Claimed(found.claim.clone());
    let mut events = vec![RecordedEvent { seq: Seq::new(1), at: now.wall, event: claim }];
    let mut add = |event| {
        let seq = Seq::new(events.len() as u64 + 1);
        events.push(RecordedEvent { seq, at: now.wall, event });
        Rental::folded(&events)
    };
    let Some(mut rental) = add(adopted(launch, &found)) else { return Ok(Found::LeftAlone) };
    if let Some((exit, retained)) = &found.retained {
        // It was suspended: it holds nothing but its files.
        let requested = RentalEvent::SuspendBegan { cause: SuspendCause::Requested };
        let stopped = RentalEvent::Stopped { exit: exit.clone(), ended: None };
        let suspended = RentalEvent::Suspended { since: now.clone(), retained: Some(retained.clone()) };
        let (Some(_), Some(_), Some(suspended)) = (add(requested), add(stopped), add(suspended)) else {
            return Ok(Found::LeftAlone);
        };
        rental = suspended;
    }
    let kept = context.deadlines.of(launch).await;
    let kept = kept.filter(|_| found.retained.is_none());
    if let Some(kept) = kept.as_ref().filter(|_| rental.started_at().is_some()) {
        let Some(ready) = add(RentalEvent::Verified { paid_from: kept.paid_from.clone() }) else {
            return Ok(Found::LeftAlone);
        };
        rental = ready;
    }
    if let Some(kept) = kept.filter(|kept| rental.spec().term.is_shorter_than(kept.term)) {
        let Some(extended) = add(RentalEvent::Extended { term: kept.term }) else { return Ok(Found::LeftAlone) };
        rental = extended;
    }
    // Not the first one again: a claim that the store has forgotten had that.
    rental.bump_revision(now.wall);
    let fingerprint = context.sealer.fingerprint(rental.id().to_string().as_bytes());
    context.failpoints.pass("adopted-unrecorded");
    match context.store.adopt(&RecoveredRental { rental: rental.clone(), events, fingerprint }, owner).await {
        Ok(()) => {
            context.failpoints.pass("adopted");
            tracing::warn!(%launch, "a container was adopted: the store did not know its rental");
            Ok(Found::Adopted(Box::new(rental)))
        }
        Err(StoreError::Conflict) => Ok(Found::LeftAlone),
        Err(error) => Err(Box::new(error)),
    }
}

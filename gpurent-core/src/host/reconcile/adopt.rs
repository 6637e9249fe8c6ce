//! Rentals that the store does not know, made again from what their containers carry.
use crate::error::Cause;
use crate::host::context::Shared;
use crate::host::reconcile::step::adopted;
use crate::id::{Epoch, LaunchId, Seq};
use crate::model::{Event, Recorded, Rental, SuspendCause};
use crate::store::{Foundling, StoreError};

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
pub(super) async fn adopt(shared: &Shared, epoch: Epoch, launch: LaunchId) -> Result<Found, Cause> {
    let Some(found) = shared.runtime.examine(launch).await? else { return Ok(Found::LeftAlone) };
    if found.claim.id != launch.rental || found.claim.host != shared.host {
        return Ok(Found::LeftAlone);
    }
    let now = shared.clock.now();
    let claim = Event::Claimed(found.claim.clone());
    let mut events = vec![Recorded { seq: Seq::new(1), at: now.wall, event: claim }];
    let mut add = |event| {
        let seq = Seq::new(events.len() as u64 + 1);
        events.push(Recorded { seq, at: now.wall, event });
        Rental::folded(&events)
    };
    let Some(mut rental) = add(adopted(launch, &found)) else { return Ok(Found::LeftAlone) };
    if let Some((exit, retained)) = &found.retained {
        // It was suspended: it holds nothing but its files.
        let requested = Event::SuspendBegan { cause: SuspendCause::Requested };
        let stopped = Event::Stopped { exit: exit.clone(), ended: None };
        let suspended = Event::Suspended { since: now.clone(), retained: Some(retained.clone()) };
        let (Some(_), Some(_), Some(suspended)) = (add(requested), add(stopped), add(suspended)) else {
            return Ok(Found::LeftAlone);
        };
        rental = suspended;
    }
    let kept = shared.deadlines.of(launch).await;
    let kept = kept.filter(|_| found.retained.is_none());
    if let Some(kept) = kept.as_ref().filter(|_| rental.started_at().is_some()) {
        let Some(ready) = add(Event::Verified { paid_from: kept.paid_from.clone() }) else {
            return Ok(Found::LeftAlone);
        };
        rental = ready;
    }
    if let Some(kept) = kept.filter(|kept| rental.spec().term.is_shorter_than(kept.term)) {
        let Some(extended) = add(Event::Extended { term: kept.term }) else { return Ok(Found::LeftAlone) };
        rental = extended;
    }
    // Not the first one again: a claim that the store has forgotten had that.
    rental.bump_revision(now.wall);
    let fingerprint = shared.sealer.fingerprint(rental.id().to_string().as_bytes());
    shared.failpoints.pass("adopted-unrecorded");
    match shared.store.adopt(&Foundling { rental: rental.clone(), events, fingerprint }, epoch).await {
        Ok(()) => {
            shared.failpoints.pass("adopted");
            tracing::warn!(%launch, "a container was adopted: the store did not know its rental");
            Ok(Found::Adopted(Box::new(rental)))
        }
        Err(StoreError::Conflict) => Ok(Found::LeftAlone),
        Err(error) => Err(Box::new(error)),
    }
}

//! What an operator may do when a host's engine is gone for good, and nobody is left to stop its
//! containers.

use jiff::Timestamp;

use crate::event::Event;
use crate::id::RentalId;
use crate::lifecycle::{EndReason, State};
use crate::rental::{IllegalTransition, Rental};
use crate::store::{Change, Store, StoreError};

/// Why a rental was not ended by force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForceEndError {
    /// The rental moved on meanwhile: look at it again.
    #[error("the rental changed in between")]
    Changed(#[from] IllegalTransition),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Ends a rental without asking any engine, frees its GPUs and ports, and bills it to `last_seen` at the
/// most. `None` where there is no such rental; one that has ended is given back as it is.
///
/// Only for engines that will never come back: a container that still runs somewhere goes on running.
///
/// # Errors
/// [`ForceEndError`]; nothing was written then, except perhaps after [`StoreError::Unavailable`].
pub async fn force_end(
    store: &dyn Store,
    id: RentalId,
    last_seen: Timestamp,
    now: Timestamp,
) -> Result<Option<Rental>, ForceEndError> {
    let Some(rental) = store.get(id).await? else { return Ok(None) };
    if !rental.is_live() {
        return Ok(Some(rental));
    }
    let mut change = Change::intent(rental);
    change.apply(Event::EndBegan { reason: EndReason::Lost { last_seen } }, now)?;
    let stopped = matches!(change.rental().state(), State::Ending { stopped: true, .. });
    if !stopped {
        change.apply(Event::Stopped { exit: None, ended: None }, last_seen.min(now))?;
    }
    change.apply(Event::Ended, now)?;
    store.commit(&change).await?;
    Ok(Some(change.into_rental()))
}

//! The operator's last resort when a host's engine is gone for good, and nobody is left to stop its
//! containers.

use std::time::Duration;

use jiff::Timestamp;

use crate::id::{ContainerId, RentalId};
use crate::model::{EndReason, IllegalTransition, Rental, RentalEvent, RentalState};
use crate::runtime::{ContainerRuntime, RuntimeError};
use crate::store::{Change, Store, StoreError};

/// The time after which a holder that was last noted acts no more: confirmations are noted every ten seconds, and last
/// fifteen.
const HOLDER_ACTS_FOR: Duration = Duration::from_secs(40);

/// Why a rental was not ended by force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForceEndError {
    /// An agent acts for the host: it ends the rental itself, or is to be stopped first.
    #[error("the host's agent acted {} s ago: end the rental by it, or stop it and wait a minute", .0.as_secs())]
    AgentActs(Duration),
    /// The engine is there, and shows a container of the rental: another rental would get a GPU that this one is on.
    #[error("the engine answers and shows the rental's container {0}: start the agent, which ends it")]
    ContainerThere(ContainerId),
    /// The engine answers, and does not say what it has.
    #[error("the engine does not say whether it has a container of the rental")]
    Engine(#[source] RuntimeError),
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
/// Only for engines that will never come back: a container that still runs somewhere goes on running. `engine` is the
/// one at the host's address, if any answers there; one that is not the rental's own proves nothing.
///
/// # Errors
/// [`ForceEndError`]; nothing was written then, except perhaps after [`StoreError::Unavailable`].
pub async fn force_end(
    store: &dyn Store,
    engine: Option<&dyn ContainerRuntime>,
    id: RentalId,
    last_seen: Timestamp,
    now: Timestamp,
) -> Result<Option<Rental>, ForceEndError> {
    let Some(rental) = store.get(id).await? else { return Ok(None) };
    if !rental.is_live() {
        return Ok(Some(rental));
    }
    if let Some(ago) = store.last_acted(rental.host()).await?.filter(|ago| *ago < HOLDER_ACTS_FOR) {
        return Err(ForceEndError::AgentActs(ago));
    }
    if let Some(engine) = engine {
        let seen = engine.observe(rental.host()).await.map_err(ForceEndError::Engine)?;
        if let Some(there) = seen.containers.into_iter().find(|seen| seen.launch.rental == id) {
            return Err(ForceEndError::ContainerThere(there.container));
        }
    }
    let mut change = Change::intent(rental);
    change.apply(RentalEvent::EndBegan { reason: EndReason::Lost { last_seen } }, now)?;
    let stopped = matches!(change.rental().state(), RentalState::Ending { stopped: true, .. });
    if !stopped {
        change.apply(RentalEvent::Stopped { exit: None, ended: None }, last_seen.min(now))?;
    }
    change.apply(RentalEvent::Ended, now)?;
    store.commit(&change).await?;
    Ok(Some(change.into_rental()))
}

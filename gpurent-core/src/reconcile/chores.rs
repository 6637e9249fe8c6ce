//! What the loop does for the host as a whole: take it over, observe the engine, publish what happened.

use std::error::Error;

use futures_util::future::{BoxFuture, Fuse};
use futures_util::{FutureExt, select_biased};

use super::ReconcileError;
use super::duty::backoff;
use crate::clock::Sleep;
use crate::event::JournalEntry;
use crate::host::Shared;
use crate::id::{EngineId, Epoch, LaunchId, Position};
use crate::runtime::{Observation, RuntimeError};
use crate::store::{StoreError, Tenure};

/// How many events are published at once.
pub(super) const PUBLISH_BATCH: usize = 256;

/// Becomes the one that acts for the host; `None` if `shutdown` came first.
pub(super) async fn take_over(
    shared: &Shared,
    sleep: &dyn Sleep,
    mut shutdown: &mut Fuse<BoxFuture<'_, ()>>,
) -> Result<Option<(EngineId, Tenure)>, ReconcileError> {
    let mut failures = 0;
    loop {
        let error: Box<dyn Error + Send + Sync> = match shared.runtime.engine().await {
            Ok(engine) => match shared.store.take_over(&shared.host, &engine).await {
                Ok(tenure) => {
                    tracing::info!(host = %shared.host, epoch = %tenure.epoch, "host taken over");
                    return Ok(Some((engine, tenure)));
                }
                Err(error @ StoreError::Unavailable(_)) => Box::new(error),
                Err(error) => return Err(ReconcileError::Refused(error)),
            },
            Err(error @ RuntimeError::Unavailable(_)) => Box::new(error),
            Err(error) => return Err(ReconcileError::Engine(error)),
        };
        failures += 1;
        tracing::warn!(error = &*error as &dyn Error, "host not taken over yet");
        let mut timer = sleep.sleep(backoff(failures, shared.pace.max_backoff)).fuse();
        select_biased! {
            () = shutdown => return Ok(None),
            () = timer => {}
        }
    }
}

/// Publishes what is new. An answer that was lost may have been a yes: then what it published is read
/// from the journal, so that subscribers miss nothing.
pub(super) async fn publish(
    shared: &Shared,
    epoch: Epoch,
    fed: Position,
    doubt: bool,
) -> Result<Vec<JournalEntry>, StoreError> {
    let news = shared.store.publish(&shared.host, epoch, PUBLISH_BATCH).await?;
    let gap = news.first().is_some_and(|first| first.position > fed.next());
    if gap || (doubt && news.is_empty()) {
        return shared.store.journal(&shared.host, fed, PUBLISH_BATCH).await;
    }
    Ok(news)
}

/// Looks at the engine. That a container is absent is believed only of the engine that had it.
pub(super) async fn observe(
    shared: &Shared,
    engine: &EngineId,
    expected: &[LaunchId],
) -> Result<Observation, RuntimeError> {
    let observation = shared.runtime.observe(&shared.host).await?;
    let something_lacks = expected.iter().any(|launch| observation.of(*launch).is_none());
    if something_lacks && shared.runtime.engine().await? != *engine {
        return Err(RuntimeError::Unavailable("another engine answers at this address".into()));
    }
    Ok(observation)
}

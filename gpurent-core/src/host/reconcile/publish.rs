//! The journal: what happened gets its position there.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::host::context::HostContext;
use crate::id::{Position, RentalId};
use crate::model::{JournalEntry, Rental};
use crate::store::{HostOwnership, StoreError};

/// How many events are published at once.
pub(super) const PUBLISH_BATCH: usize = 256;

/// The loop's rentals, as it knows them.
pub(super) type Known = BTreeMap<RentalId, Arc<Rental>>;

/// An event in its place in the journal, and its rental as it was then or later; `None`: the store has it no more, or only as
/// it was before, since it was set back, or nobody can read it.
pub(super) type Published = (JournalEntry, Option<Arc<Rental>>);

/// Publishes new events into the journal. If the answer to the last publish was lost, it may have committed: what it
/// published is then read from the journal, so that subscribers miss nothing.
///
/// Rentals that are not known, or not as they were then, are read once for all subscribers: new ones, those that have ended,
/// and those that another process changed.
pub(super) async fn publish(
    context: &HostContext,
    owner: HostOwnership,
    fed: Position,
    doubt: bool,
    mut known: Known,
) -> Result<Vec<Published>, StoreError> {
    let mut news = context.store.publish(&context.host, owner, PUBLISH_BATCH).await?;
    let gap = news.first().is_some_and(|first| first.position > fed.next());
    if gap || (doubt && news.is_empty()) {
        news = context.store.journal(&context.host, fed, PUBLISH_BATCH).await?;
    }
    let mut published = Vec::with_capacity(news.len());
    for entry in news {
        let (id, seq) = (entry.rental, entry.recorded.seq);
        let is_as_late = |rental: &&Arc<Rental>| rental.last_seq() >= seq;
        if known.get(&id).filter(is_as_late).is_none() {
            match context.store.get(id).await {
                Ok(Some(rental)) => {
                    known.insert(id, Arc::new(rental));
                }
                Ok(None) => {}
                // One rental that cannot be read keeps no other's events from being told.
                Err(error @ StoreError::Corrupt(_)) => {
                    tracing::error!(rental = %id, error = &error as &dyn std::error::Error, "told without its rental");
                }
                Err(error) => return Err(error),
            }
        }
        let rental = known.get(&id).filter(is_as_late).cloned();
        published.push((entry, rental));
    }
    Ok(published)
}

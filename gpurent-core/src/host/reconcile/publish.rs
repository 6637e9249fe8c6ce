//! The journal: what happened gets its position there.
use crate::host::context::HostContext;
use crate::id::Position;
use crate::model::JournalEntry;
use crate::store::{HostOwnership, StoreError};

/// How many events are published at once.
pub(super) const PUBLISH_BATCH: usize = 256;

/// Publishes new events into the journal. If the answer to the last publish was lost, it may have committed: what it
/// published is then read from the journal, so that subscribers miss nothing.
pub(super) async fn publish(
    context: &HostContext,
    owner: HostOwnership,
    fed: Position,
    doubt: bool,
) -> Result<Vec<JournalEntry>, StoreError> {
    let news = context.store.publish(&context.host, owner, PUBLISH_BATCH).await?;
    let gap = news.first().is_some_and(|first| first.position > fed.next());
    if gap || (doubt && news.is_empty()) {
        return context.store.journal(&context.host, fed, PUBLISH_BATCH).await;
    }
    Ok(news)
}

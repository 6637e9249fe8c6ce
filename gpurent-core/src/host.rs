//! What the reconciler and all handles of one host share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_listener::Event as Bell;

use crate::access::Secrets;
use crate::clock::Clock;
use crate::failpoint::Failpoints;
use crate::feed::Feed;
use crate::id::{HostId, RentalId};
use crate::placement::Placement;
use crate::reconcile::Pace;
use crate::rental::Timing;
use crate::runtime::ContainerRuntime;
use crate::seal::{SealError, Sealer};
use crate::store::{Store, StoreError};

/// Why a renter's access could not be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The sealed credential cannot be opened.
    #[error("the stored credential cannot be opened")]
    Seal(#[source] SealError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A host: its backends, its policy, and how its parts wake each other.
pub(crate) struct Shared {
    pub(crate) host: HostId,
    pub(crate) public_host: String,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) runtime: Arc<dyn ContainerRuntime>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sealer: Arc<dyn Sealer>,
    pub(crate) placement: Placement,
    pub(crate) timing: Timing,
    pub(crate) pace: Pace,
    pub(crate) feed: Arc<Feed>,
    pub(crate) failpoints: Failpoints,
    /// Rung after every intent; `intent_pending` keeps a ring that nobody was listening to.
    pub(crate) bell: Bell,
    pub(crate) intent_pending: AtomicBool,
    pub(crate) reconciling: AtomicBool,
}

impl Shared {
    pub(crate) fn nudge(&self) {
        self.intent_pending.store(true, Ordering::SeqCst);
        self.bell.notify(usize::MAX);
    }

    /// Opens a rental's secrets; `None` where the store has none any more.
    pub(crate) async fn secrets(&self, id: RentalId) -> Result<Option<Secrets>, AccessError> {
        let Some(sealed) = self.store.sealed(id).await? else { return Ok(None) };
        let plaintext = self.sealer.open(id, &sealed).map_err(AccessError::Seal)?;
        // Opened, and yet nothing that we ever sealed: another version of this program wrote it.
        Secrets::from_plaintext(&plaintext).map(Some).ok_or(AccessError::Seal(SealError::Forged))
    }
}

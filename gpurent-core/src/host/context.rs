//! The context that the reconciler and all handles of one host share.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::allocation::{Placement, RenterLimits};
use crate::clock::{BootInstant, Clock};
use crate::host::deadlines::Deadlines;
use crate::host::events::Feed;
use crate::host::failpoint::Failpoints;
use crate::host::lease::Lease;
use crate::host::notify::{Mutex, Notify};
use crate::host::pulls::Pulls;
use crate::host::readiness::ReadinessCell;
use crate::host::{EngineHealth, ReconcileConfig, Waiting};
use crate::id::{HostId, RentalId, RenterId};
use crate::model::{HostKeySource, RentalTiming, SealError, Sealer, Secrets};
use crate::runtime::{ContainerExec, ContainerRuntime};
use crate::store::{HostStore, StoreError};

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
pub(crate) struct HostContext {
    pub(crate) host: HostId,
    pub(crate) public_host: String,
    pub(crate) store: Arc<dyn HostStore>,
    pub(crate) runtime: Arc<dyn ContainerRuntime>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sealer: Arc<dyn Sealer>,
    pub(crate) placement: Placement,
    /// Limits of certain renters, in place of the usual ones.
    pub(crate) limits_of: BTreeMap<RenterId, RenterLimits>,
    pub(crate) timing: RentalTiming,
    pub(crate) config: ReconcileConfig,
    pub(crate) feed: Arc<Feed>,
    pub(crate) failpoints: Failpoints,
    /// Rung after every intent.
    pub(crate) intents: Notify,
    pub(crate) readiness: ReadinessCell,
    /// The lease of the reconciler that runs.
    pub(crate) lease: Mutex<Option<Lease>>,
    /// As of the last observation.
    pub(crate) engine_health: Mutex<EngineHealth>,
    /// Since when an observation waits for the engine, on the boot clock.
    pub(crate) asked_engine_at: Mutex<Option<BootInstant>>,
    /// The rentals whose steps failed lately and are tried again.
    pub(crate) waiting_rentals: Mutex<BTreeMap<RentalId, Waiting>>,
    pub(crate) deadlines: Deadlines,
    /// The pulls that come before claims, where the operator wants that.
    pub(crate) pulls: Option<Pulls>,
    pub(crate) inside: Option<Arc<dyn ContainerExec>>,
    pub(crate) host_keys: Arc<dyn HostKeySource>,
    /// Names new rentals; only simulations want to know them beforehand.
    pub(crate) new_id: Arc<dyn Fn() -> RentalId + Send + Sync>,
}

/// How long an engine may take to answer before it is told of as silent.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(10);

impl HostContext {
    pub(crate) fn set_lease(&self, lease: Option<Lease>) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
    }

    pub(crate) fn holds_lease(&self) -> bool {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.as_ref().is_some_and(|lease| lease.left().is_some())
    }

    pub(crate) fn engine_health(&self) -> EngineHealth {
        let asked = *self.asked_engine_at.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = asked.map_or(Duration::ZERO, |asked| self.clock.now().instant().since(asked));
        if waits > ENGINE_TIMEOUT {
            return EngineHealth::Silent;
        }
        *self.engine_health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine is asked for all containers at this time on the boot clock; `None`: it is not any more.
    pub(crate) fn asks_engine(&self, at: Option<BootInstant>) {
        *self.asked_engine_at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    pub(crate) fn set_engine_health(&self, health: EngineHealth) {
        *self.engine_health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    fn waiting_rentals(&self) -> impl std::ops::DerefMut<Target = BTreeMap<RentalId, Waiting>> {
        self.waiting_rentals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A rental's step failed, and is to be tried again.
    pub(crate) fn back_off(&self, rental: RentalId, message: String) {
        let now = self.clock.now().wall;
        let mut waiting_rentals = self.waiting_rentals();
        let waiting =
            waiting_rentals.entry(rental).or_insert(Waiting { since: now, failures: 0, message: String::new() });
        waiting.failures = waiting.failures.saturating_add(1);
        waiting.message = message;
    }

    /// A rental moved on, or there is none any more.
    pub(crate) fn gets_on(&self, rental: RentalId) {
        self.waiting_rentals().remove(&rental);
    }

    pub(crate) fn waiting(&self, rental: RentalId) -> Option<Waiting> {
        self.waiting_rentals().get(&rental).cloned()
    }

    pub(crate) fn wake_reconciler(&self) {
        self.intents.notify();
    }

    /// Opens a rental's secrets; `None` where the store has none any more.
    pub(crate) async fn secrets(&self, id: RentalId) -> Result<Option<Secrets>, AccessError> {
        let Some(sealed) = self.store.sealed(id).await? else { return Ok(None) };
        let plaintext = self.sealer.open(id, &sealed).map_err(AccessError::Seal)?;
        // Opened, and yet nothing that we ever sealed: another version of this program wrote it.
        Secrets::from_plaintext(&plaintext).map(Some).ok_or(AccessError::Seal(SealError::Forged))
    }
}

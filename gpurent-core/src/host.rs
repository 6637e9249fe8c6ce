//! What the reconciler and all handles of one host share.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use event_listener::Event as Bell;
use jiff::Timestamp;

use crate::access::{HostKeySource, Secrets};
use crate::clock::Clock;
use crate::deadline::Deadlines;
use crate::failpoint::Failpoints;
use crate::feed::Feed;
use crate::id::{HostId, RentalId, RenterId};
use crate::inside::Inside;
use crate::lease::Lease;
use crate::placement::Placement;
use crate::pulls::Pulls;
use crate::reconcile::Pace;
use crate::rental::Timing;
use crate::renter::RenterLimits;
use crate::runtime::ContainerRuntime;
use crate::seal::{SealError, Sealer};
use crate::store::{Store, StoreError};
use crate::sync::{Mutex, Nudge};

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
    /// Limits of certain renters, in place of the usual ones.
    pub(crate) limits_of: BTreeMap<RenterId, RenterLimits>,
    pub(crate) timing: Timing,
    pub(crate) pace: Pace,
    pub(crate) feed: Arc<Feed>,
    pub(crate) failpoints: Failpoints,
    /// Rung after every intent.
    pub(crate) intents: Nudge,
    pub(crate) standing: Standing,
    /// The lease of the reconciler that runs.
    pub(crate) lease: Mutex<Option<Lease>>,
    /// As of the last observation.
    pub(crate) engine_health: Mutex<EngineHealth>,
    /// Since when an observation waits for the engine, on the boot clock.
    pub(crate) asked_engine_at: Mutex<Option<i64>>,
    /// The rentals whose steps failed lately and are tried again.
    pub(crate) setbacks: Mutex<BTreeMap<RentalId, Setback>>,
    pub(crate) deadlines: Deadlines,
    /// The pulls that come before claims, where the operator wants that.
    pub(crate) pulls: Option<Pulls>,
    pub(crate) inside: Option<Arc<dyn Inside>>,
    pub(crate) host_keys: Arc<dyn HostKeySource>,
    /// Names new rentals; only simulations want to know them beforehand.
    pub(crate) new_id: Arc<dyn Fn() -> RentalId + Send + Sync>,
}

/// How long an engine may take to answer before it is told of as silent: 10 seconds.
const ENGINE_PATIENCE_MICROS: i64 = 10 * 1_000_000;

/// What holds a rental up: its next step failed, and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    /// Since when it does not get on.
    pub since: Timestamp,
    /// How often the step failed since then.
    pub failures: u32,
    /// Why it failed the last time; tells a renter nothing that is the host's own.
    pub message: String,
}

/// The engine's answer when it was last asked for all containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineHealth {
    /// How all of them are. So it is believed to be before it was asked for the first time.
    Answers,
    /// How most of them are: it hangs over so many.
    HangsOver(usize),
    /// Nothing.
    Silent,
}

/// How far the host's reconciler is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There is none.
    Absent,
    /// It takes over the host, and looks at what is there.
    TakingStock,
    /// As before, and something does not answer.
    Stuck,
    /// It acts.
    Acting,
}

/// The stage, and a bell for those who wait for the next.
pub(crate) struct Standing {
    stage: Mutex<Stage>,
    bell: Bell,
}

impl Standing {
    pub(crate) fn new() -> Self {
        Self { stage: Mutex::new(Stage::Absent), bell: Bell::new() }
    }

    pub(crate) fn get(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.bell.notify(usize::MAX);
    }

    /// Something does not answer: those who wait are told, unless the host acts already.
    pub(crate) fn stuck(&self) {
        if self.get() == Stage::TakingStock {
            self.set(Stage::Stuck);
        }
    }

    /// Waits while stock is being taken.
    pub(crate) async fn settled(&self) -> Stage {
        loop {
            // Listened to before the look, so that no change falls in between.
            let bell = self.bell.listen();
            match self.get() {
                Stage::TakingStock => bell.await,
                settled => return settled,
            }
        }
    }
}

impl Shared {
    pub(crate) fn set_lease(&self, lease: Option<Lease>) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
    }

    pub(crate) fn holds_lease(&self) -> bool {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.as_ref().is_some_and(|lease| lease.left().is_some())
    }

    pub(crate) fn engine_health(&self) -> EngineHealth {
        let asked = *self.asked_engine_at.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = asked.map_or(0, |asked| self.clock.now().boot.micros.saturating_sub(asked));
        if waits > ENGINE_PATIENCE_MICROS {
            return EngineHealth::Silent;
        }
        *self.engine_health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine is asked for all containers at this time on the boot clock; `None`: it is not any more.
    pub(crate) fn asks_engine(&self, at: Option<i64>) {
        *self.asked_engine_at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    pub(crate) fn set_engine_health(&self, health: EngineHealth) {
        *self.engine_health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    fn setbacks(&self) -> impl std::ops::DerefMut<Target = BTreeMap<RentalId, Setback>> {
        self.setbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A rental's step failed, and is to be tried again.
    pub(crate) fn set_back(&self, rental: RentalId, message: String) {
        let now = self.clock.now().wall;
        let mut setbacks = self.setbacks();
        let setback = setbacks.entry(rental).or_insert(Setback { since: now, failures: 0, message: String::new() });
        setback.failures = setback.failures.saturating_add(1);
        setback.message = message;
    }

    /// A rental moved on, or there is none any more.
    pub(crate) fn gets_on(&self, rental: RentalId) {
        self.setbacks().remove(&rental);
    }

    pub(crate) fn setback(&self, rental: RentalId) -> Option<Setback> {
        self.setbacks().get(&rental).cloned()
    }

    pub(crate) fn nudge(&self) {
        self.intents.ring();
    }

    /// Opens a rental's secrets; `None` where the store has none any more.
    pub(crate) async fn secrets(&self, id: RentalId) -> Result<Option<Secrets>, AccessError> {
        let Some(sealed) = self.store.sealed(id).await? else { return Ok(None) };
        let plaintext = self.sealer.open(id, &sealed).map_err(AccessError::Seal)?;
        // Opened, and yet nothing that we ever sealed: another version of this program wrote it.
        Secrets::from_plaintext(&plaintext).map(Some).ok_or(AccessError::Seal(SealError::Forged))
    }
}

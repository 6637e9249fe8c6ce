//! What an embedder holds: rent, get, list, cancel, subscribe.
//!
//! None of it touches the engine. A request is validated by its types, placed and written by the store,
//! and the [`Reconciler`] is nudged; everything else happens there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_listener::Event as Bell;
use jiff::SignedDuration;

use crate::access::{Credential, CredentialKind, CredentialRequest, LoginUser};
use crate::allocator::{Allocator, BestFit};
use crate::clock::{Clock, Moment, SystemClock};
use crate::event::{Event, JournalEntry, Recorded};
use crate::failpoint::{FailpointHook, Failpoints};
use crate::feed::{Feed, Subscription};
use crate::gpu::Gpu;
use crate::id::{HostId, InstanceName, Position, RentalId, Seq};
use crate::lifecycle::EndReason;
use crate::money::RateCard;
use crate::placement::{NoPlace, Placement};
use crate::port::{HostPort, PortPools, PortProbe, TrustBooks};
use crate::reconcile::{Pace, Reconciler};
use crate::rental::{Outcome, Rental, Timing};
use crate::runtime::ContainerRuntime;
use crate::seal::{SealError, Sealer};
use crate::spec::{RentalRequest, RentalSpec};
use crate::store::{Change, ClaimError, Claimed, Filter, NewRental, Store, StoreError};

/// Why a rental was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RentError {
    /// There is no place for it: the host has no such GPU, or all are rented, or a port is taken.
    #[error(transparent)]
    NoPlace(NoPlace),
    /// A live rental has this name, and was asked for in another way.
    #[error("the name {0} belongs to another rental that still runs")]
    NameTaken(InstanceName),
    /// Nobody runs the host's reconciler, so nothing would ever happen.
    #[error("no reconciler runs for this host: spawn the one that came with these rentals")]
    NotReconciled,
    /// The credential could not be sealed.
    #[error("the credential could not be sealed")]
    Seal(#[source] SealError),
    /// The store failed; nothing was done on the engine.
    #[error(transparent)]
    Store(StoreError),
}

impl From<ClaimError> for RentError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::NoPlace(why) => Self::NoPlace(why),
            ClaimError::NameTaken(name) => Self::NameTaken(name),
            ClaimError::Store(error) => Self::Store(error),
        }
    }
}

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

/// How to get into a rental.
#[derive(Clone, Debug)]
pub struct Access {
    /// The host's public name or address.
    pub host: String,
    /// The host's port that leads to SSH.
    pub port: HostPort,
    /// The login user.
    pub user: LoginUser,
    /// Password or key.
    pub kind: CredentialKind,
    /// The credential; `None` once the rental has ended.
    pub credential: Option<Credential>,
}

impl Access {
    /// The command that logs in.
    #[must_use]
    pub fn ssh_command(&self) -> String {
        format!("ssh -p {} {}@{}", self.port, self.user.as_str(), self.host)
    }
}

/// What the reconciler and all handles share.
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

    /// Opens a rental's credential; `None` where the store has none any more.
    pub(crate) async fn credential(&self, id: RentalId) -> Result<Option<Credential>, AccessError> {
        let Some(sealed) = self.store.sealed(id).await? else { return Ok(None) };
        let plaintext = self.sealer.open(id, &sealed).map_err(AccessError::Seal)?;
        Ok(Credential::from_plaintext(&plaintext))
    }
}

/// Puts a host together: the parts that have no default go into [`HostBuilder::new`].
pub struct HostBuilder {
    host: HostId,
    public_host: String,
    store: Arc<dyn Store>,
    runtime: Arc<dyn ContainerRuntime>,
    sealer: Arc<dyn Sealer>,
    clock: Arc<dyn Clock>,
    placement: Placement,
    timing: Timing,
    pace: Pace,
    failpoints: Failpoints,
}

impl HostBuilder {
    /// A host that rents `gpus`, hands out ports of `pools`, and charges nothing.
    #[must_use]
    pub fn new(
        host: HostId,
        store: Arc<dyn Store>,
        runtime: Arc<dyn ContainerRuntime>,
        sealer: Arc<dyn Sealer>,
        gpus: Vec<Gpu>,
        pools: PortPools,
    ) -> Self {
        let placement = Placement {
            gpus: gpus.into(),
            allocator: Arc::new(BestFit),
            pools,
            port_probe: Arc::new(TrustBooks),
            prices: None,
        };
        Self {
            host,
            public_host: "127.0.0.1".to_owned(),
            store,
            runtime,
            sealer,
            clock: Arc::new(SystemClock::new()),
            placement,
            timing: Timing::default(),
            pace: Pace::default(),
            failpoints: Failpoints::default(),
        }
    }

    /// The name or address that renters reach the host under; 127.0.0.1 by default.
    #[must_use]
    pub fn public_host(mut self, name: String) -> Self {
        self.public_host = name;
        self
    }

    /// Another clock than the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Another way to choose GPUs than [`BestFit`].
    #[must_use]
    pub fn allocator(mut self, allocator: Arc<dyn Allocator>) -> Self {
        self.placement.allocator = allocator;
        self
    }

    /// A way to see ports that other programs use.
    #[must_use]
    pub fn port_probe(mut self, probe: Arc<dyn PortProbe>) -> Self {
        self.placement.port_probe = probe;
        self
    }

    /// Prices; a GPU without one is then refused.
    #[must_use]
    pub fn prices(mut self, card: RateCard) -> Self {
        self.placement.prices = Some(Arc::new(card));
        self
    }

    /// Other times than the default ones for warnings and deadlines.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Another pace of looking than the default one.
    #[must_use]
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// A hook that hears every boundary between effects: for crash tests.
    #[must_use]
    pub fn failpoints(mut self, hook: FailpointHook) -> Self {
        self.failpoints = Failpoints::new(Some(hook));
        self
    }

    /// The handle for requests, and the future that makes them come true.
    #[must_use]
    pub fn build(self) -> (Rentals, Reconciler) {
        let shared = Arc::new(Shared {
            host: self.host,
            public_host: self.public_host,
            store: self.store,
            runtime: self.runtime,
            clock: self.clock,
            sealer: self.sealer,
            placement: self.placement,
            timing: self.timing,
            pace: self.pace,
            feed: Arc::new(Feed::default()),
            failpoints: self.failpoints,
            bell: Bell::new(),
            intent_pending: AtomicBool::new(false),
            reconciling: AtomicBool::new(false),
        });
        (Rentals { shared: Arc::clone(&shared) }, Reconciler::new(shared))
    }
}

/// The rentals of one host. Cheap to clone.
#[derive(Clone)]
pub struct Rentals {
    shared: Arc<Shared>,
}

impl Rentals {
    /// Claims GPUs and ports for a request. Returns as soon as that is written; the container follows.
    ///
    /// A live rental that was asked for in exactly the same way under the same name is returned instead
    /// of a second one.
    ///
    /// # Errors
    /// [`RentError`]; nothing happens on the engine then.
    pub async fn rent(&self, request: RentalRequest) -> Result<Claimed, RentError> {
        let shared = &self.shared;
        if !shared.reconciling.load(Ordering::SeqCst) {
            return Err(RentError::NotReconciled);
        }
        let id = RentalId::generate();
        let fingerprint = shared.sealer.fingerprint(&what_was_asked(&request));
        let credential = request.credential.resolve();
        let at = shared.clock.now();
        let new = NewRental {
            id,
            host: shared.host.clone(),
            name: request.spec.name.clone().unwrap_or_else(|| made_up_name(id)),
            spec: request.spec,
            credential: credential.kind(),
            sealed: shared.sealer.seal(id, &credential.to_plaintext()).map_err(RentError::Seal)?,
            fingerprint,
            due: at.wall.saturating_add(shared.timing.provisioning).unwrap_or(at.wall),
            at,
        };
        let claimed = shared.store.claim(&new, &shared.placement).await?;
        shared.failpoints.pass("claimed");
        shared.nudge();
        Ok(claimed)
    }

    /// One rental, live or ended.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn get(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        self.shared.store.get(id).await
    }

    /// Rentals, newest first, at most `limit` of those after `after`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list(
        &self,
        filter: &Filter,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        self.shared.store.list(&self.shared.host, filter, after, limit).await
    }

    /// Ends a rental before its time. Ending what already ends, or has ended, changes nothing.
    /// `None` where there is no such rental.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] it may have been recorded all the same.
    pub async fn cancel(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        // A conflict means that the rental moved on in between; it moves a bounded number of times.
        for _ in 0..16 {
            let Some(rental) = self.shared.store.get(id).await? else { return Ok(None) };
            let mut change = Change::intent(rental);
            let event = Event::EndBegan { reason: EndReason::Cancelled };
            let applied = change.apply(event, self.shared.clock.now().wall);
            if !matches!(applied, Ok(Outcome::Changed)) {
                return Ok(Some(change.into_rental()));
            }
            match self.shared.store.commit(&change).await {
                Ok(()) => {
                    self.shared.nudge();
                    return Ok(Some(change.into_rental()));
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict)
    }

    /// How to get into a rental: for its renter's eyes only.
    ///
    /// # Errors
    /// [`AccessError`]
    pub async fn access(&self, rental: &Rental) -> Result<Option<Access>, AccessError> {
        let Some(port) = rental.ssh_port() else { return Ok(None) };
        Ok(Some(Access {
            host: self.shared.public_host.clone(),
            port,
            user: rental.spec().login.clone(),
            kind: rental.credential(),
            credential: self.shared.credential(rental.id()).await?,
        }))
    }

    /// A rental's container output, at most `lines` of it.
    ///
    /// # Errors
    /// [`crate::runtime::RuntimeError`]
    pub async fn logs(&self, rental: &Rental, lines: usize) -> Result<Vec<String>, crate::runtime::RuntimeError> {
        self.shared.runtime.logs(rental.launch(), lines).await
    }

    /// A rental's events after a number, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        self.shared.store.events(id, after, limit).await
    }

    /// The host's journal after a position, at most `limit`: what a subscriber that fell behind reads.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn journal(&self, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        self.shared.store.journal(&self.shared.host, after, limit).await
    }

    /// Everything that happens from now on, live. Works in the process that runs the reconciler; others
    /// read the [`journal`](Self::journal).
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.shared.feed.subscribe()
    }

    /// The GPUs of the host.
    #[must_use]
    pub fn gpus(&self) -> &[Gpu] {
        &self.shared.placement.gpus
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &HostId {
        &self.shared.host
    }

    /// The name or address that renters reach the host under.
    #[must_use]
    pub fn public_host(&self) -> &str {
        &self.shared.public_host
    }

    /// Both clocks now.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.shared.clock.now()
    }

    /// How much paid time a rental has left.
    #[must_use]
    pub fn time_left(&self, rental: &Rental) -> Option<SignedDuration> {
        rental.time_left(&self.now())
    }

    /// Whether a reconciler runs: without one the host only looks alive.
    #[must_use]
    pub fn is_reconciled(&self) -> bool {
        self.shared.reconciling.load(Ordering::SeqCst)
    }
}

/// The bytes whose fingerprint tells one request from another. A generated credential is not part of
/// what was asked for.
fn what_was_asked(request: &RentalRequest) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Asked<'a> {
        spec: &'a RentalSpec,
        credential: Vec<u8>,
    }
    let credential = match &request.credential {
        CredentialRequest::Generate => b"g".to_vec(),
        given => given.clone().resolve().to_plaintext(),
    };
    // Structs of strings and numbers always have a JSON form.
    serde_json::to_vec(&Asked { spec: &request.spec, credential }).unwrap_or_default()
}

fn made_up_name(id: RentalId) -> InstanceName {
    // Letters, digits and a dash: always a valid name.
    let text = format!("rental-{id}");
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a valid name"))
}

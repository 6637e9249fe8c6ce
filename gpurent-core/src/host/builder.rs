//! Putting a host together.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::allocation::{Allocator, Capacity, DiskLimit, DiskProbe, Placement, PortPools, PortProbe, RenterLimits};
use crate::clock::{Clock, SystemClock};
use crate::host::context::HostContext;
use crate::host::deadlines::Deadlines;
use crate::host::events::Feed;
use crate::host::failpoint::Failpoints;
use crate::host::notify::{Mutex, Notify};
use crate::host::pulls::Pulls;
use crate::host::readiness::ReadinessCell;
use crate::host::{EngineHealth, FailpointHook, ReconcileConfig, Reconciler, Rentals};
use crate::id::{HostId, RentalId, RenterId};
use crate::memory::MemoryDeadlines;
use crate::model::{GeneratedHostKeys, Gpu, HostKeySource, RateCard, RentalTiming, Sealer};
use crate::runtime::{ContainerExec, ContainerRuntime};
use crate::store::{DeadlineBook, HostStore};

/// Puts a host together: the parts that have no default go into [`HostBuilder::new`].
pub struct HostBuilder {
    host: HostId,
    public_host: String,
    store: Arc<dyn HostStore>,
    runtime: Arc<dyn ContainerRuntime>,
    sealer: Arc<dyn Sealer>,
    clock: Arc<dyn Clock>,
    placement: Placement,
    limits_of: BTreeMap<RenterId, RenterLimits>,
    timing: RentalTiming,
    config: ReconcileConfig,
    failpoints: Failpoints,
    deadlines: Arc<dyn DeadlineBook>,
    pull_first: bool,
    inside: Option<Arc<dyn ContainerExec>>,
    host_keys: Arc<dyn HostKeySource>,
    new_id: Arc<dyn Fn() -> RentalId + Send + Sync>,
}

impl HostBuilder {
    /// A host that rents `gpus`, hands out ports of `pools`, and charges nothing.
    #[must_use]
    pub fn new(
        host: HostId,
        store: Arc<dyn HostStore>,
        runtime: Arc<dyn ContainerRuntime>,
        sealer: Arc<dyn Sealer>,
        gpus: Vec<Gpu>,
        pools: PortPools,
    ) -> Self {
        let placement = Placement { udp: runtime.publishes_udp(), ..Placement::new(gpus, pools) };
        Self {
            host,
            public_host: "127.0.0.1".to_owned(),
            store,
            runtime,
            sealer,
            clock: Arc::new(SystemClock::new()),
            placement,
            limits_of: BTreeMap::new(),
            timing: RentalTiming::default(),
            config: ReconcileConfig::default(),
            failpoints: Failpoints::default(),
            deadlines: Arc::new(MemoryDeadlines::default()),
            pull_first: false,
            inside: None,
            host_keys: Arc::new(GeneratedHostKeys),
            new_id: Arc::new(RentalId::generate),
        }
    }

    /// The name or address that renters reach the host under; 127.0.0.1 by default.
    #[must_use]
    pub fn public_host(mut self, name: String) -> Self {
        self.public_host = name;
        self
    }

    /// Other host keys than the default ones ([`GeneratedHostKeys`]).
    #[must_use]
    pub fn host_keys(mut self, source: Arc<dyn HostKeySource>) -> Self {
        self.host_keys = source;
        self
    }

    /// Pulls images before anything is claimed for them, so that no GPU waits for a registry: who rents by an image that is
    /// not here is refused with [`RentError::Pulling`](crate::host::RentError::Pulling), and asks again.
    #[must_use]
    pub fn pull_first(mut self) -> Self {
        self.pull_first = true;
        self
    }

    /// Another clock than the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Another way to choose GPUs than [`BestFit`](crate::allocation::BestFit).
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

    /// A way to see that the host's disks are almost full; nobody new is taken in then.
    #[must_use]
    pub fn disks(mut self, probe: Arc<dyn DiskProbe>) -> Self {
        self.placement.disks = probe;
        self
    }

    /// A limit to what a rental may write on the host's disks; none by default.
    #[must_use]
    pub fn limit_disk(mut self, limit: DiskLimit) -> Self {
        self.placement.disk_limit = limit;
        self
    }

    /// Gives workspaces to those who ask for one: the runtime has a place for them.
    #[must_use]
    pub fn offer_workspaces(mut self) -> Self {
        self.placement.workspaces = true;
        self
    }

    /// Rents containers without a GPU too, to those who ask for none: so many at once.
    #[must_use]
    pub fn rent_without_gpu(mut self, places: u32) -> Self {
        self.placement.without_gpu = places;
        self
    }

    /// The machine's capacity: a request for more is refused.
    #[must_use]
    pub fn capacity(mut self, capacity: Capacity) -> Self {
        self.placement.capacity = Some(capacity);
        self
    }

    /// How much one renter may have at once, where the default is not right.
    #[must_use]
    pub fn renter_limits(mut self, limits: RenterLimits) -> Self {
        self.placement.renter_limits = limits;
        self
    }

    /// How much a certain renter may have at once, where that is another amount.
    #[must_use]
    pub fn renter_limits_of(mut self, renter: RenterId, limits: RenterLimits) -> Self {
        self.limits_of.insert(renter, limits);
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
    pub fn timing(mut self, timing: RentalTiming) -> Self {
        self.timing = timing;
        self
    }

    /// Other intervals and limits of the reconciler than the default ones.
    #[must_use]
    pub fn reconcile_config(mut self, config: ReconcileConfig) -> Self {
        self.config = config;
        self
    }

    /// Where the host itself keeps until when its containers are paid for, and when they were last seen. In
    /// memory by default, which is of no use to the next process: what vanishes between the two is billed the
    /// minimum, and with the store away nobody ends what is over before it is back. A host that is to do better
    /// needs a book on disk, such as `gpurent_docker::DeadlineFile`.
    #[must_use]
    pub fn deadlines(mut self, book: Arc<dyn DeadlineBook>) -> Self {
        self.deadlines = book;
        self
    }

    /// A way into running containers, for terminals, output as it comes, and usage; none by default.
    #[must_use]
    pub fn inside(mut self, inside: Arc<dyn ContainerExec>) -> Self {
        self.inside = Some(inside);
        self
    }

    /// Ids that can be told beforehand.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn ids(mut self, new_id: Arc<dyn Fn() -> RentalId + Send + Sync>) -> Self {
        self.new_id = new_id;
        self
    }

    /// A hook that hears every boundary between effects: for crash tests.
    #[must_use]
    pub fn failpoints(mut self, hook: FailpointHook) -> Self {
        self.failpoints = Failpoints::new(Some(hook));
        self
    }

    /// The handle for requests, and the future that makes them come true.
    ///
    /// Run the [`Reconciler`]: requests to rent wait until it has found out what is there, without a limit where it is kept and
    /// never run. Drop it in a process that only reads.
    pub fn build(self) -> (Rentals, Reconciler) {
        let context = Arc::new(HostContext {
            host: self.host,
            public_host: self.public_host,
            store: self.store,
            runtime: self.runtime,
            clock: self.clock,
            sealer: self.sealer,
            placement: self.placement,
            limits_of: self.limits_of,
            timing: self.timing,
            config: self.config,
            feed: Arc::new(Feed::default()),
            failpoints: self.failpoints,
            intents: Notify::new(),
            readiness: ReadinessCell::new(),
            lease: Mutex::default(),
            engine_health: Mutex::new(EngineHealth::Answers),
            asked_engine_at: Mutex::default(),
            waiting_rentals: Mutex::default(),
            deadlines: Deadlines::new(self.deadlines),
            pulls: self.pull_first.then(Pulls::new),
            inside: self.inside,
            host_keys: self.host_keys,
            new_id: self.new_id,
        });
        (Rentals::new(Arc::clone(&context)), Reconciler::new(context))
    }
}

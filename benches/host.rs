//! A real host in the bench's own process: PostgreSQL, Docker Engine, and the reconciler between them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gpurent_core::allocation::{PortPools, RenterLimits};
use gpurent_core::clock::SleepFuture;
use gpurent_core::host::{HostBuilder, Rentals, Update};
use gpurent_core::id::{HostId, RentalId};
use gpurent_core::memory::SimulatedGpus;
use gpurent_core::model::{
    ContainerLimits, CredentialRequest, GpuRequest, Rental, RentalEvent, RentalRequest, RentalSpec, SealKey,
};
use gpurent_core::runtime::ContainerRuntime;
use gpurent_docker::{AccessDir, AccessKit, DockerRuntime};
use gpurent_store::PostgresStore;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::environment;

/// The image that all containers are made of.
pub const IMAGE: &str = "gpurent-test/busybox:1";

/// A host and its reconciler.
pub struct BenchHost {
    id: HostId,
    store: Arc<PostgresStore>,
    runtime: Arc<DockerRuntime>,
    sealer: Arc<SealKey>,
    gpus: u8,
    pools: PortPools,
    /// The handle.
    pub rentals: Rentals,
    stop: Option<oneshot::Sender<()>>,
    reconciling: JoinHandle<()>,
}

/// When a rental started and when it was ready, counted from the request.
#[derive(Clone, Copy)]
pub struct Up {
    /// Until the container had started.
    pub running: Duration,
    /// Until access was verified.
    pub ready: Duration,
    /// Which rental.
    pub id: RentalId,
}

impl BenchHost {
    /// A host with so many simulated GPUs; credentials go over the access folder, or are uploaded. `ports`
    /// are those of this host alone.
    pub async fn start(name: &str, gpus: u8, bind: bool, ports: &str) -> Self {
        let id: HostId = valid(format!("bench-{name}-{}", RentalId::generate()).parse());
        let kit = valid(AccessKit::from_host().await);
        let mut runtime = valid(DockerRuntime::connect(environment("DOCKER_HOST").as_str(), kit).await);
        if bind {
            runtime = runtime.with_access_dir(valid(AccessDir::new(Path::new("/dev/shm/gpurent-bench"))));
        }
        let store = Arc::new(valid(PostgresStore::connect(&environment("DATABASE_URL")).await));
        let pools = valid(PortPools::new(valid(ports.parse()), valid("31000-31999".parse())));
        let (runtime, sealer) = (Arc::new(runtime), Arc::new(SealKey::generate().0));
        let (rentals, stop, reconciling) = act(&id, &store, &runtime, &sealer, gpus, &pools);
        while !rentals.is_reconciled() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self { id, store, runtime, sealer, gpus, pools, rentals, stop: Some(stop), reconciling }
    }

    /// The request of every bench: little memory, so that many fit.
    pub fn request(&self, duration: &str) -> RentalRequest {
        let gpu = GpuRequest::one(valid("RTX 5090".parse()));
        let mut spec = RentalSpec::new(valid("bench".parse()), gpu, valid(IMAGE.parse()), valid(duration.parse()));
        let limits = ContainerLimits::default().with_memory_bytes(64 * 1024 * 1024);
        spec.limits = valid(limits);
        RentalRequest::new(spec, CredentialRequest::Generate)
    }

    /// Rents, and waits until the rental is ready.
    pub async fn up(&self, duration: &str) -> Up {
        self.up_with(self.request(duration)).await
    }

    /// Rents as asked, and waits until the rental is ready.
    pub async fn up_with(&self, request: RentalRequest) -> Up {
        let mut updates = self.rentals.subscribe();
        let begun = Instant::now();
        let id = valid(self.rentals.rent(request).await).rental().id();
        let mut running = Duration::ZERO;
        loop {
            let Update::Event { entry, .. } = valid(updates.next().await) else { continue };
            match &entry.recorded.event {
                _ if entry.rental != id => {}
                RentalEvent::Started { .. } => running = begun.elapsed(),
                RentalEvent::Verified { .. } => return Up { running, ready: begun.elapsed(), id },
                RentalEvent::EndBegan { reason } => panic!("the rental ends: {reason:?}"),
                _ => {}
            }
        }
    }

    /// Ends a rental, and waits until nothing of it is left.
    pub async fn down(&self, id: RentalId) {
        valid(self.rentals.cancel(id).await);
        self.ended(id).await;
    }

    /// Waits until a rental has ended.
    pub async fn ended(&self, id: RentalId) -> Rental {
        loop {
            match valid(self.rentals.get(id).await) {
                Some(rental) if !rental.is_live() => return rental,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Ends the reconciler, as a shutdown of the agent does.
    pub async fn stop(&mut self) {
        // Gone only if the reconciler has ended already.
        self.stop.take().map(|stop| stop.send(()).ok());
        valid((&mut self.reconciling).await);
    }

    /// Starts another reconciler on the same host, as a restart of the agent does.
    pub fn restart(&mut self) {
        let (rentals, stop, reconciling) =
            act(&self.id, &self.store, &self.runtime, &self.sealer, self.gpus, &self.pools);
        self.rentals = rentals;
        self.stop = Some(stop);
        self.reconciling = reconciling;
    }
}

fn act(
    id: &HostId,
    store: &Arc<PostgresStore>,
    runtime: &Arc<DockerRuntime>,
    sealer: &Arc<SealKey>,
    gpus: u8,
    pools: &PortPools,
) -> (Rentals, oneshot::Sender<()>, JoinHandle<()>) {
    let gpus = SimulatedGpus::new(id, gpus, valid("RTX 5090".parse())).gpus().to_vec();
    let runtime: Arc<dyn ContainerRuntime> = Arc::clone(runtime) as _;
    let builder =
        HostBuilder::new(id.clone(), Arc::clone(store) as _, runtime, Arc::clone(sealer) as _, gpus, pools.clone())
            .renter_limits(RenterLimits::none());
    let (rentals, reconciler) = builder.build();
    let (stop, stopped) = oneshot::channel::<()>();
    let reconciling = tokio::spawn(async move {
        let sleep = |time| Box::pin(tokio::time::sleep(time)) as SleepFuture;
        let stopped = async {
            // Told, or the bench is over: an end either way.
            drop(stopped.await);
        };
        valid(reconciler.run(sleep, stopped).await);
    });
    (rentals, stop, reconciling)
}

/// A bench that cannot run has nothing to tell.
pub fn valid<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("the bench cannot run: {error:?}"))
}

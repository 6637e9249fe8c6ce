//! A host on the fakes, for the tests of what happens to its rentals.

#![allow(dead_code, reason = "every test uses its own part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use std::sync::Arc;

use futures_executor::LocalPool;
use futures_util::task::LocalSpawnExt;
use gpurent_core::allocation::PortPools;
use gpurent_core::host::{ExtendError, HostBuilder, Rentals, TermExtension};
use gpurent_core::id::{HostId, RentalId, Seq};
use gpurent_core::memory::{ManualClock, MemoryRuntime, MemoryStore, SimulatedGpus};
use gpurent_core::model::{
    Credential, CredentialRequest, GpuRequest, GpuUuid, Password, Rental, RentalRequest, RentalSpec, SealKey, Term,
};
use jiff::SignedDuration;

/// One host on the fakes: a GPU, a clock that stands until it is moved.
pub struct World {
    pub clock: ManualClock,
    pub runtime: MemoryRuntime,
    pub store: Arc<MemoryStore>,
    pub rentals: Rentals,
    pub pool: LocalPool,
}

pub fn password(text: &str) -> Password {
    Password::new(text.to_owned()).unwrap()
}

pub fn mins(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

pub fn term(text: &str) -> Term {
    text.parse().unwrap()
}

impl World {
    pub fn new() -> Self {
        Self::with(|host| host)
    }

    /// A host that was put together otherwise.
    pub fn with(otherwise: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        Self::made(1, otherwise)
    }

    /// A host with so many GPUs.
    pub fn with_gpus(count: u8) -> Self {
        Self::made(count, |host| host)
    }

    fn made(gpus: u8, otherwise: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        let host: HostId = "host".parse().unwrap();
        let clock = ManualClock::new();
        let (runtime, store) = (MemoryRuntime::new(clock.clone()), Arc::new(MemoryStore::default()));
        let host = HostBuilder::new(
            host.clone(),
            store.clone(),
            Arc::new(runtime.clone()),
            Arc::new(SealKey::generate().0),
            SimulatedGpus::new(&host, gpus, "RTX 5090".parse().unwrap()).gpus().to_vec(),
            PortPools::new("22000-22999".parse().unwrap(), "8000-8999".parse().unwrap()).unwrap(),
        )
        .clock(Arc::new(clock.clone()));
        let (rentals, reconciler) = otherwise(host).build();
        let mut pool = LocalPool::new();
        let sleeper = clock.clone();
        pool.spawner()
            .spawn_local(async move {
                reconciler.run(move |time| sleeper.sleep(time), std::future::pending()).await.unwrap();
            })
            .unwrap();
        pool.run_until_stalled();
        Self { clock, runtime, store, rentals, pool }
    }

    /// The first GPU.
    pub fn gpu(&self) -> GpuUuid {
        SimulatedGpus::new(&"host".parse().unwrap(), 1, "RTX 5090".parse().unwrap()).gpus()[0].uuid.clone()
    }

    pub fn request(&self) -> RentalRequest {
        let gpu = GpuRequest::one("RTX 5090".parse().unwrap());
        let spec = RentalSpec::new("me".parse().unwrap(), gpu, "ubuntu:22.04".parse().unwrap(), term("1h"));
        RentalRequest::new(spec, CredentialRequest::Password(password("first-password")))
    }

    pub fn rent(&mut self) -> RentalId {
        let request = self.request();
        self.rent_so(request)
    }

    pub fn rent_so(&mut self, request: RentalRequest) -> RentalId {
        let id = self.pool.run_until(self.rentals.rent(request)).unwrap().rental().id();
        self.pool.run_until_stalled();
        id
    }

    pub fn get(&mut self, id: RentalId) -> Rental {
        self.pool.run_until(self.rentals.get(id)).unwrap().unwrap()
    }

    pub fn advance(&mut self, by: SignedDuration) {
        self.clock.advance(by);
        self.pool.run_until_stalled();
    }

    pub fn extend(&mut self, id: RentalId, extension: TermExtension) -> Result<Rental, ExtendError> {
        let extended = self.pool.run_until(self.rentals.extend(id, extension)).map(Option::unwrap);
        self.pool.run_until_stalled();
        extended
    }

    pub fn change_access(&mut self, id: RentalId, to: &str) -> Credential {
        let wanted = password(to);
        let changed = self.rentals.change_access(id, CredentialRequest::Password(wanted.clone()));
        self.pool.run_until(changed).unwrap().unwrap();
        self.pool.run_until_stalled();
        Credential::Password(wanted)
    }

    pub fn lets_in(&mut self, id: RentalId, credential: &Credential) -> bool {
        let launch = self.get(id).launch();
        self.runtime.lets_in(launch, credential)
    }

    pub fn announced(&mut self, id: RentalId) -> Vec<String> {
        let launch = self.get(id).launch();
        self.runtime.announced(launch)
    }

    pub fn events_of(&mut self, id: RentalId) -> Vec<&'static str> {
        let events = self.pool.run_until(self.rentals.events(id, Seq::ZERO, 100)).unwrap();
        assert_eq!(Rental::folded(&events).as_ref().map(Rental::state), Some(self.get(id).state()));
        events.iter().map(|event| event.event.name()).collect()
    }
}

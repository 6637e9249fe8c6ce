//! A host on the fakes, for the tests of what happens to its rentals.

#![allow(dead_code, reason = "every test uses its own part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use std::sync::Arc;

use futures_executor::LocalPool;
use gpurent_core::host::{ExtendError, HostBuilder, Rentals, TermExtension};
use gpurent_core::id::{RentalId, Seq};
use gpurent_core::memory::{ManualClock, MemoryRuntime, MemoryStore, SimulatedGpus};
use gpurent_core::model::{Credential, CredentialRequest, GpuUuid, Password, Rental, RentalRequest, Term};
use gpurent_core::testing::{TEST_GPU, TestHost};
use jiff::SignedDuration;

/// A [`TestHost`], with verbs for what happens to its rentals.
pub struct World {
    pub clock: ManualClock,
    pub runtime: MemoryRuntime,
    pub store: Arc<MemoryStore>,
    pub rentals: Rentals,
    pub pool: LocalPool,
}

impl From<TestHost> for World {
    fn from(TestHost { clock, runtime, store, rentals, pool }: TestHost) -> Self {
        Self { clock, runtime, store, rentals, pool }
    }
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
        TestHost::with(1, otherwise).into()
    }

    /// A host with so many GPUs.
    pub fn with_gpus(count: u8) -> Self {
        TestHost::with(count, |host| host).into()
    }

    /// The first GPU.
    pub fn gpu(&self) -> GpuUuid {
        SimulatedGpus::new(&"host".parse().unwrap(), 1, TEST_GPU.parse().unwrap()).gpus()[0].uuid.clone()
    }

    pub fn request(&self) -> RentalRequest {
        let first = CredentialRequest::Password(password("first-password"));
        RentalRequest { credential: first, ..TestHost::request("1h") }
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

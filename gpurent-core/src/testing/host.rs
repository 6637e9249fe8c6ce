//! A whole host on the fakes, in one line: for tests of what an application does with rentals.

use std::sync::Arc;

use futures_executor::LocalPool;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::task::LocalSpawnExt;
use jiff::SignedDuration;

use crate::allocation::PortPools;
use crate::host::{HostBuilder, ReconcileError, Rentals};
use crate::id::{HostId, RentalId};
use crate::memory::{ManualClock, MemoryRuntime, MemoryStore, SimulatedGpus};
use crate::model::{CredentialRequest, GpuRequest, Rental, RentalRequest, RentalSpec, SealKey};
use crate::testing::valid;

/// The model of a test host's GPUs.
pub const TEST_GPU: &str = "RTX 5090";

/// A whole host on the fakes, with a clock that stands until it is moved.
///
/// ```
/// use gpurent_core::Phase;
/// use gpurent_core::testing::TestHost;
///
/// let mut host = TestHost::new();
/// let id = host.rent(TestHost::request("2h"));
/// assert_eq!(host.get(id).state().phase(), Phase::Ready);
/// host.advance("PT2H".parse()?);
/// assert_eq!(host.get(id).state().phase(), Phase::Ended);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Panics where something does not go as in every test it should, as an assertion does.
pub struct TestHost {
    /// The host's clock.
    pub clock: ManualClock,
    /// The host's engine.
    pub runtime: MemoryRuntime,
    /// The host's database.
    pub store: Arc<MemoryStore>,
    /// The handle on its rentals.
    pub rentals: Rentals,
    /// The executor on which the reconciler runs, where this host has one of its own.
    pub pool: LocalPool,
}

impl Default for TestHost {
    fn default() -> Self {
        Self::new()
    }
}

impl TestHost {
    /// A host with one GPU.
    #[must_use]
    pub fn new() -> Self {
        Self::with(1, |builder| builder)
    }

    /// A host with so many GPUs, put together otherwise. It knows what is on it.
    #[must_use]
    pub fn with(gpus: u8, otherwise: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        let (mut host, reconciler) = Self::apart(gpus, otherwise);
        let run = reconciler.map(valid);
        valid(host.pool.spawner().spawn_local(run));
        host.settle();
        host
    }

    /// As [`with`](Self::with), and the future that acts for it, to be spawned on an executor of the test's own: on tokio,
    /// `tokio::spawn(reconciler)`. A test waits there with [`Rentals::wait_until`].
    #[must_use]
    pub fn apart(
        gpus: u8,
        otherwise: impl FnOnce(HostBuilder) -> HostBuilder,
    ) -> (Self, BoxFuture<'static, Result<(), ReconcileError>>) {
        let id: HostId = valid("host".parse());
        let clock = ManualClock::new();
        let (runtime, store) = (MemoryRuntime::new(clock.clone()), Arc::new(MemoryStore::default()));
        let builder = HostBuilder::new(
            id.clone(),
            store.clone(),
            Arc::new(runtime.clone()),
            Arc::new(SealKey::generate().0),
            SimulatedGpus::new(&id, gpus, valid(TEST_GPU.parse())).gpus().to_vec(),
            valid(PortPools::new(valid("22000-22999".parse()), valid("8000-8999".parse()))),
        )
        .clock(Arc::new(clock.clone()));
        let (rentals, reconciler) = otherwise(builder).build();
        let sleeper = clock.clone();
        let run = async move { reconciler.run(move |time| sleeper.sleep(time), std::future::pending()).await };
        (Self { clock, runtime, store, rentals, pool: LocalPool::new() }, run.boxed())
    }

    /// A request for one of the host's GPUs for a time, such as `2h`.
    #[must_use]
    pub fn request(term: &str) -> RentalRequest {
        let gpu = GpuRequest::one(valid(TEST_GPU.parse()));
        let spec = RentalSpec::new(valid("me".parse()), gpu, valid("ubuntu:22.04".parse()), valid(term.parse()));
        RentalRequest::new(spec, CredentialRequest::Generate)
    }

    /// Rents, and lets everything happen that follows from it.
    pub fn rent(&mut self, request: RentalRequest) -> RentalId {
        let id = valid(self.pool.run_until(self.rentals.rent(request))).rental().id();
        self.settle();
        id
    }

    /// A rental as it is now.
    pub fn get(&mut self, id: RentalId) -> Rental {
        let found = valid(self.pool.run_until(self.rentals.get(id)));
        found.unwrap_or_else(|| panic!("there is no rental {id}"))
    }

    /// Moves the clock, and lets everything happen that is due by then.
    pub fn advance(&mut self, by: SignedDuration) {
        self.clock.advance(by);
        self.settle();
    }

    /// Lets everything happen that is due now.
    pub fn settle(&mut self) {
        self.pool.run_until_stalled();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::host::TermExtension;
    use crate::model::Phase;

    #[test]
    fn a_wait_outlives_a_store_that_was_set_back() {
        let mut host = TestHost::new();
        let id = host.rent(TestHost::request("2h"));
        let backup = host.store.snapshot();
        for _ in 0..10 {
            let term = "3m".parse().unwrap();
            host.pool.run_until(host.rentals.extend(id, TermExtension::By(term))).unwrap();
        }
        host.settle();
        let rentals = host.rentals.clone();
        let mut wait = Box::pin(rentals.wait_until(id, |rental| rental.state().phase() == Phase::Ended));
        assert!(wait.as_mut().now_or_never().is_none());
        // What happens from now on has lower numbers than what was read.
        host.store.restore(backup);
        host.settle();
        host.pool.run_until(host.rentals.cancel(id)).unwrap();
        host.settle();
        let ended = wait.now_or_never().expect("its end was told");
        assert!(ended.unwrap().is_some());
    }
}

//! The cost of a rental's whole life in memory, on an executor that is not tokio. The peer makes the
//! same engine calls and store writes by hand, without a reconciler to decide them.

#![allow(clippy::unwrap_used, reason = "a bench that cannot run has nothing to tell")]

use std::sync::Arc;
use std::time::Duration;

use futures_executor::{LocalPool, block_on};
use futures_util::task::LocalSpawnExt;
use gpurent_core::allocation::{Placement, PortPools};
use gpurent_core::clock::Clock;
use gpurent_core::host::HostBuilder;
use gpurent_core::id::HostId;
use gpurent_core::memory::{ManualClock, MemoryRuntime, MemoryStore, SimulatedGpus};
use gpurent_core::model::{
    CredentialRequest, EndReason, GeneratedHostKeys, Gpu, GpuRequest, HostKeySource, Phase, RentalEvent, RentalRequest,
    RentalSpec, SealKey, Sealer, Secrets,
};
use gpurent_core::runtime::{ContainerRuntime, LaunchSpec, Progress, PullProgress};
use gpurent_core::store::{Change, HostStore, NewRental, Store};
use jiff::SignedDuration;

fn host() -> HostId {
    "bench".parse().unwrap()
}

fn gpus() -> Vec<Gpu> {
    SimulatedGpus::new(&host(), 2, "RTX 5090".parse().unwrap()).gpus().to_vec()
}

fn pools() -> PortPools {
    PortPools::new("22000-22999".parse().unwrap(), "8000-8999".parse().unwrap()).unwrap()
}

fn spec() -> RentalSpec {
    let gpu = GpuRequest::one("rtx-5090".parse().unwrap());
    RentalSpec::new("me".parse().unwrap(), gpu, "ubuntu:22.04".parse().unwrap(), "1h".parse().unwrap())
}

/// Request, claim, container, access, an hour, end, bill: by the reconciler.
fn whole_life(key: &Arc<SealKey>) {
    let clock = ManualClock::new();
    let runtime = Arc::new(MemoryRuntime::new(clock.clone()));
    let (rentals, reconciler) =
        HostBuilder::new(host(), Arc::new(MemoryStore::default()), runtime, Arc::clone(key) as _, gpus(), pools())
            .clock(Arc::new(clock.clone()))
            .build();
    let mut pool = LocalPool::new();
    let sleeper = clock.clone();
    pool.spawner()
        .spawn_local(async move {
            reconciler.run(move |time| sleeper.sleep(time), std::future::pending()).await.unwrap();
        })
        .unwrap();
    pool.run_until_stalled();
    let request = RentalRequest::new(spec(), CredentialRequest::Generate);
    let id = pool.run_until(rentals.rent(request)).unwrap().rental().id();
    pool.run_until_stalled();
    clock.advance(SignedDuration::from_hours(1));
    pool.run_until_stalled();
    let ended = pool.run_until(rentals.get(id)).unwrap().unwrap();
    assert_eq!(ended.state().phase(), Phase::Ended);
}

struct Silent;

impl PullProgress for Silent {
    fn update(&self, _progress: Progress) {}
}

/// The same calls and writes, one after the other.
fn by_hand(key: &SealKey) {
    let clock = ManualClock::new();
    let (runtime, store) = (MemoryRuntime::new(clock.clone()), MemoryStore::default());
    block_on(async {
        let owner = store.acquire_host(&host(), &runtime.engine().await.unwrap(), None).await.unwrap();
        let credential = CredentialRequest::Generate.resolve();
        let secrets = Secrets { credential, host_keys: GeneratedHostKeys.next(), registry: None };
        let id = gpurent_core::id::RentalId::generate();
        let new = NewRental {
            id,
            host: host(),
            name: "bench".parse().unwrap(),
            spec: spec(),
            credential: secrets.credential.kind(),
            sealed: key.seal(id, &secrets.to_plaintext()).unwrap(),
            fingerprint: key.fingerprint(b"bench"),
            key: None,
            due: clock.now().wall,
            at: clock.now(),
        };
        let placement = Placement {
            renter_limits: gpurent_core::allocation::RenterLimits::none(),
            udp: true,
            ..Placement::new(gpus(), pools())
        };
        let mut rental = store.claim(&new, &placement).await.unwrap().rental().clone();
        let launch = LaunchSpec::of(&rental);
        let write = async |rental, event| {
            let mut change = Change::observation(rental, owner);
            change.apply(event, clock.now().wall).unwrap();
            store.commit(&change).await.unwrap();
            change.into_rental()
        };
        runtime.prepare(&launch, None, &Silent).await.unwrap();
        let created = runtime.create(&launch, &secrets).await.unwrap();
        rental = write(
            rental,
            RentalEvent::Created {
                container: created.container,
                gpus_attached: true,
                at: None,
                image: created.image.map(Box::new),
                files: created.files,
                copied_bytes: 0,
            },
        )
        .await;
        let started_at = runtime.start(&launch).await.unwrap();
        rental = write(rental, RentalEvent::Started { started_at, started: clock.now() }).await;
        runtime.verify(&launch, Duration::from_secs(1)).await.unwrap();
        rental = write(rental, RentalEvent::Verified { paid_from: clock.now() }).await;
        clock.advance(SignedDuration::from_hours(1));
        rental = write(rental, RentalEvent::EndBegan { reason: EndReason::Expired }).await;
        let exit = runtime.stop(launch.id, Duration::ZERO).await.unwrap();
        rental = write(rental, RentalEvent::Stopped { exit, ended: None }).await;
        runtime.remove(launch.id).await.unwrap();
        rental = write(rental, RentalEvent::Ended).await;
        assert_eq!(rental.state().phase(), Phase::Ended);
    });
}

fn main() {
    let key = Arc::new(SealKey::generate().0);
    gpurent_benches::compare_plain(
        "What does a rental's whole life cost in memory, on an executor that is not tokio?",
        gpurent_benches::rounds(400),
        vec![
            ("a whole life by the reconciler", Box::new(|| whole_life(&key))),
            ("the same by hand", Box::new(|| by_hand(&key))),
            ("the same by hand, again (A/A)", Box::new(|| by_hand(&key))),
        ],
    );
}

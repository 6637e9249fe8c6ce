//! The life of a rented GPU, without any I/O.
//!
//! A renter asks for a GPU, an image and a time ([`RentalSpec`]); GPUs and ports are claimed ([`allocation`], [`store`]); a
//! container starts on those GPUs alone and its access is verified ([`runtime`]); everybody who listens hears of it
//! ([`host::Update`]); at the end of the paid time the renter is warned, and the container is stopped, removed and billed
//! ([`Rental`], [`model::billing`]), whatever crashed in between ([`Reconciler`]).
//!
//! This crate decides; adapters act. It knows no async runtime and no I/O crate: time, GPUs, containers
//! and storage come in through traits, and [`memory`] has a fake of each, with which a rental lives its
//! whole life in milliseconds:
//!
//! ```
//! use std::sync::Arc;
//! use futures_executor::LocalPool;
//! use futures_util::task::LocalSpawnExt;
//! use gpurent_core::allocation::PortPools;
//! use gpurent_core::memory::{ManualClock, MemoryRuntime, MemoryStore, SimulatedGpus};
//! use gpurent_core::{CredentialRequest, GpuRequest, HostBuilder, HostId, Phase, RentalRequest, RentalSpec, SealKey};
//!
//! let host: HostId = "my-host".parse()?;
//! let clock = ManualClock::new();
//! let gpus = SimulatedGpus::new(&host, 2, "RTX 5090".parse()?).gpus().to_vec();
//! let (rentals, reconciler) = HostBuilder::new(
//!     host,
//!     Arc::new(MemoryStore::default()),
//!     Arc::new(MemoryRuntime::new(clock.clone())),
//!     Arc::new(SealKey::generate().0),
//!     gpus,
//!     PortPools::new("22000-22999".parse()?, "8001-8999".parse()?)?,
//! )
//! .clock(Arc::new(clock.clone()))
//! .build();
//!
//! let mut pool = LocalPool::new();
//! let sleeper = clock.clone();
//! pool.spawner().spawn_local(async move {
//!     reconciler.run(move |time| sleeper.sleep(time), std::future::pending()).await.unwrap();
//! })?;
//! pool.run_until_stalled();
//!
//! let gpu = GpuRequest::one("rtx-5090".parse()?);
//! let spec = RentalSpec::new("me".parse()?, gpu, "ubuntu:22.04".parse()?, "2h".parse()?);
//! let request = RentalRequest::new(spec, CredentialRequest::Generate);
//! let id = pool.run_until(rentals.rent(request))?.rental().id();
//!
//! pool.run_until_stalled();
//! let phase = |rental: Option<gpurent_core::Rental>| rental.unwrap().state().phase();
//! assert_eq!(phase(pool.run_until(rentals.get(id))?), Phase::Ready);
//!
//! clock.advance("PT2H".parse()?);
//! pool.run_until_stalled();
//! assert_eq!(phase(pool.run_until(rentals.get(id))?), Phase::Ended);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What else a real host needs
//! An engine and the probes around it (`gpurent-docker`, whose `DockerHost` has them together), a database (`gpurent-store`), a
//! [`SealKey`] that is kept for good, the name that renters reach the host under ([`HostBuilder::public_host`]), and an API for
//! callers elsewhere (`gpurent-http`). The reconciler's future runs on your executor for as long as the host is to act.
//!
//! # Features
//! - `testing`: [`testing`](https://docs.rs/gpurent-core/latest/gpurent_core/testing/), the conformance suites for a store, an
//!   engine or a policy of your own, the simulation, and `TestHost`, a whole host in one line. Off by default.

pub mod allocation;
pub mod clock;
pub mod error;
pub mod host;
pub mod id;
pub mod memory;
pub mod model;
pub mod runtime;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub use allocation::{Allocator, BestFit, Placement, PortPools, Quarantine};
pub use clock::{Clock, Sleep, SleepFuture, SystemClock};
pub use error::ValidationError;
pub use host::{
    Follower, HostBuilder, ReconcileError, Reconciler, RentError, RentalUpdate, Rentals, Subscription, Update,
};
pub use id::{HostId, RentalId, RenterId, Seq};
pub use model::{
    Bill, Credential, CredentialRequest, EndReason, Gpu, GpuModel, GpuRequest, GpuSelector, HourlyRate, ImageRef,
    MicroUnits, Phase, RateCard, Rental, RentalEvent, RentalRequest, RentalSpec, RentalState, SealKey, Term,
};
pub use runtime::{ContainerRuntime, GpuProbe, RuntimeError};
pub use store::{DeadlineBook, HostStore, Store, StoreError};
/// Crates whose types are in the traits, so that an implementor has the same versions.
pub use {async_trait, jiff, secrecy, uuid};

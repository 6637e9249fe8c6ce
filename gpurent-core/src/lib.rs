//! The life of a rented GPU, without any I/O.
//!
//! Somebody asks for a GPU, an image and a time ([`spec`]); GPUs and ports are claimed ([`placement`],
//! [`store`]); a container starts on those GPUs alone and its access is verified ([`runtime`]); everybody
//! hears of it ([`event`], [`feed`]); at the end of the paid time it is warned, stopped, removed and
//! billed ([`rental`], [`billing`]), whatever crashed in between ([`reconcile`]).
//!
//! This crate decides; adapters act. It knows no async runtime and no I/O crate: time, GPUs, containers
//! and storage come in through traits, and [`memory`] has a fake of each, with which a rental lives its
//! whole life in milliseconds:
//!
//! ```
//! use std::sync::Arc;
//! use futures_executor::LocalPool;
//! use futures_util::task::LocalSpawnExt;
//! use gpurent_core::memory::{ManualClock, MemoryRuntime, MemoryStore, SimulatedGpus};
//! use gpurent_core::{access::CredentialRequest, gpu::GpuRequest, lifecycle::Phase, port::PortPools};
//! use gpurent_core::{builder::HostBuilder, seal::SealKey, spec::{RentalRequest, RentalSpec, Term}};
//!
//! let host: gpurent_core::id::HostId = "my-host".parse()?;
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
//! let phase = |rental: Option<gpurent_core::rental::Rental>| rental.unwrap().state().phase();
//! assert_eq!(phase(pool.run_until(rentals.get(id))?), Phase::Ready);
//!
//! clock.advance("PT2H".parse()?);
//! pool.run_until_stalled();
//! assert_eq!(phase(pool.run_until(rentals.get(id))?), Phase::Ended);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod access;
pub mod allocator;
pub mod api_key;
pub mod audit;
pub mod billing;
pub mod builder;
pub mod clock;
pub mod deadline;
pub mod disk;
pub mod division;
pub mod event;
pub mod failpoint;
pub mod feed;
pub mod follow;
pub mod gpu;
mod host;
pub mod id;
pub mod inside;
#[cfg(all(test, loom))]
mod interleavings;
pub mod invalid;
pub mod last_resort;
mod lease;
pub mod lifecycle;
pub mod machine;
pub mod memory;
pub mod money;
pub mod placement;
pub mod port;
pub mod probe;
mod pulls;
pub mod quarantine;
pub mod reconcile;
pub mod rental;
pub mod rentals;
pub mod renter;
pub mod retention;
pub mod runtime;
pub mod seal;
pub mod service;
pub mod spec;
pub mod store;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;

//! Rents GPUs out as Docker containers.
//!
//! [`DockerRuntime`] carries out what `gpurent-core` decides: it pulls the image, makes the container on
//! exactly the claimed GPUs and ports, hardens it, gives it SSH access whatever the image holds
//! ([`access_kit`]), verifies that access, and takes everything down again. [`NvmlGpus`] tells which GPUs the
//! machine has, [`EngineLock`] keeps a second agent off the same engine. Tenants are kept from the host's
//! own services, from metadata addresses and from each other by firewall rules where the agent may set
//! them ([`DockerRuntime::isolate`]).
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use gpurent_docker::{AccessKit, DockerRuntime, NvmlGpus};
//! use gpurent_core::runtime::GpuProbe;
//!
//! let gpus = NvmlGpus::all().discover().await?;
//! let runtime = DockerRuntime::connect("unix:///var/run/docker.sock", AccessKit::from_host().await?).await?;
//! # Ok(())
//! # }
//! ```

pub mod access_kit;
mod container;
mod control;
mod engine;
mod image;
mod machine;
mod network;
mod runtime;

pub use access_kit::{AccessKit, KitError};
pub use control::credential_dir::AccessDir;
pub use control::host_keys::HostKeyStock;
pub use engine::client::{EngineAddress, TlsFiles};
pub use image::PullPatience;
pub use image::registries::Registries;
pub use machine::deadline_file::DeadlineFile;
pub use machine::disk::DiskReserve;
pub use machine::engine_lock::{EngineLock, LockError};
#[cfg(feature = "nvml")]
pub use machine::gpus::NvmlGpus;
pub use machine::load::LocalMachine;
pub use machine::ports::LocalPorts;
pub use machine::workspaces::WorkspaceRoot;
pub use runtime::DockerRuntime;

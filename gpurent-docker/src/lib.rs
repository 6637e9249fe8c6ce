//! Rents GPUs out as Docker containers.
//!
//! [`DockerRuntime`] carries out what `gpurent-core` decides: it pulls the image, makes the container on
//! exactly the claimed GPUs and ports, hardens it, gives it SSH access whatever the image holds
//! ([`access_kit`]), verifies that access, and takes everything down again. [`NvmlGpus`] tells which GPUs the
//! machine has, [`EngineLock`] keeps a second agent off the same engine. Tenants are kept from the host's
//! own services, from metadata addresses and from each other by firewall rules where the agent may set
//! them ([`DockerRuntime::isolate`]).
//!
//! Without the feature `docker` there is the machine alone, for the runtime of another engine.
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

#[cfg(feature = "docker")]
pub mod access_kit;
#[cfg(feature = "docker")]
mod container;
#[cfg(feature = "docker")]
mod control;
#[cfg(feature = "docker")]
mod engine;
#[cfg(feature = "docker")]
mod image;
mod machine;
#[cfg(feature = "docker")]
mod network;
#[cfg(feature = "docker")]
mod runtime;

#[cfg(feature = "docker")]
pub use access_kit::{AccessKit, KitError};
#[cfg(feature = "docker")]
pub use control::credential_dir::AccessDir;
#[cfg(feature = "docker")]
pub use control::host_keys::HostKeyStock;
#[cfg(feature = "docker")]
pub use engine::client::{EngineAddress, TlsFiles};
#[cfg(feature = "docker")]
pub use image::PullPatience;
#[cfg(feature = "docker")]
pub use image::registries::Registries;
pub use machine::deadline_file::DeadlineFile;
pub use machine::disk::DiskReserve;
pub use machine::engine_lock::{EngineLock, LockError};
#[cfg(feature = "nvml")]
pub use machine::gpus::NvmlGpus;
pub use machine::load::LocalMachine;
pub use machine::ports::LocalPorts;
pub use machine::workspaces::{FolderMount, WorkspaceRoot};
#[cfg(feature = "docker")]
pub use runtime::DockerRuntime;

//! Rents GPUs out as Docker containers.
//!
//! [`DockerRuntime`] carries out what `gpurent-core` decides: it pulls the image, makes the container on
//! exactly the claimed GPUs and ports, hardens it, gives it SSH access whatever the image holds
//! ([`access_kit`]), verifies that access, and takes everything down again. [`NvmlGpus`] tells which GPUs the
//! machine has, [`EngineLock`] keeps a second agent off the same engine, and [`DockerHost`] puts all of it together. Tenants are kept from the host's
//! own services, from metadata addresses and from each other by firewall rules where the agent may set
//! them ([`DockerRuntime::isolate`]).
//!
//! ```no_run
//! # async fn run(
//! #     store: std::sync::Arc<dyn gpurent_core::store::HostStore>,
//! #     sealer: std::sync::Arc<dyn gpurent_core::model::Sealer>,
//! # ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use gpurent_core::allocation::PortPools;
//! use gpurent_core::runtime::GpuProbe;
//! use gpurent_docker::{DockerHost, NvmlGpus};
//!
//! let gpus = NvmlGpus::all().discover().await?;
//! let docker =
//!     DockerHost::new("unix:///var/run/docker.sock", "my-host".parse()?, "/var/lib/mine".into(), gpus).open().await?;
//! let pools = PortPools::new("22000-22999".parse()?, "8100-8999".parse()?)?;
//! let builder = docker.builder(store, sealer, pools).public_host("gpu1.example.org".to_owned());
//! let (rentals, reconciler) = builder.build();
//! # Ok(())
//! # }
//! ```
//!
//! # What else a real host needs
//! A database (`gpurent-store`), a key that seals secrets and is kept for good, the name that renters reach it under, and now and
//! then
//! [`DockerRuntime::probe_isolation`], which tells by packets whether tenants are kept apart.
//!
//! # Features
//! - `docker`, on by default: the container runtime. Without it there is the machine alone (GPUs, disks, ports, workspaces, the
//!   engine's lock, the book of deadlines), for the runtime of another engine.
//! - `nvml`, on by default: the machine's GPUs by NVIDIA's own library, which is loaded when it is asked.
//! - `tls`, on by default: engines on other machines.

#[cfg(feature = "docker")]
pub mod access_kit;
#[cfg(feature = "docker")]
mod container;
#[cfg(feature = "docker")]
mod control;
#[cfg(feature = "docker")]
mod engine;
#[cfg(feature = "docker")]
mod host;
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
pub use host::{DockerConnection, DockerHost, DockerHostBuilder, DockerHostError};
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

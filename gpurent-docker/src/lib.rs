//! Rents GPUs out as Docker containers.
//!
//! [`DockerRuntime`] carries out what `gpurent-core` decides: it pulls the image, makes the container on
//! exactly the claimed GPUs and ports, hardens it, gives it SSH access whatever the image holds
//! ([`kit`]), verifies that access, and takes everything down again. [`NvmlGpus`] tells which GPUs the
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

mod access_dir;
mod attach;
mod client;
mod container;
mod deadline_file;
mod devices;
mod disk;
mod disk_use;
mod engine_lock;
mod error;
mod exec;
mod firewall;
mod helper;
mod host_keys;
mod image;
mod images;
mod inside;
pub mod kit;
#[cfg(unix)]
mod line;
#[cfg(not(unix))]
#[path = "no_line.rs"]
mod line;
#[cfg(unix)]
mod line_session;
mod machine;
mod name_server;
mod names;
mod network;
mod nvml;
mod output;
mod ports;
mod private;
mod probe;
mod registries;
mod runtime;
mod screening;
mod services;
mod share;
mod ssh;
mod state;
mod workspace;

pub use access_dir::AccessDir;
pub use client::{EngineAddress, TlsFiles};
pub use deadline_file::DeadlineFile;
pub use disk::DiskReserve;
pub use engine_lock::{EngineLock, LockError};
pub use host_keys::HostKeyStock;
pub use image::PullPatience;
pub use kit::{AccessKit, KitError};
pub use machine::LocalMachine;
pub use nvml::NvmlGpus;
pub use ports::LocalPorts;
pub use registries::Registries;
pub use runtime::DockerRuntime;
pub use workspace::WorkspaceRoot;

//! What a machine has beside GPUs, and what is lying on it: for operators' dashboards. Nothing here is needed to
//! rent out, and no rental depends on it.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use crate::runtime::RuntimeError;
use crate::spec::ImageRef;

/// How busy a machine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MachineLoad {
    /// How busy all CPUs together are.
    pub cpu_percent: f64,
    /// How many CPUs there are.
    pub cpu_count: u32,
    /// How much of the memory is used.
    pub memory_percent: f64,
    /// Bytes.
    pub memory_total: u64,
    /// Bytes.
    pub memory_available: u64,
    /// How much of the disk is used on which images and containers lie.
    pub disk_percent: f64,
    /// Bytes.
    pub disk_total: u64,
    /// Bytes.
    pub disk_free: u64,
    /// Seconds since the machine was started.
    pub uptime_seconds: u64,
}

/// Tells how busy the machine is.
#[async_trait]
pub trait MachineProbe: Send + Sync + 'static {
    /// How busy it is now, over a moment that this call may take.
    async fn load(&self) -> MachineLoad;
}

/// An image on the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// The engine's id of it.
    pub id: String,
    /// Its names.
    pub tags: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// When it was built.
    pub created_at: Option<Timestamp>,
    /// `amd64` and the like; empty where it is not known.
    pub architecture: String,
    /// How many of the engine's containers are made of it.
    pub containers: u32,
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveImageError {
    /// There is none.
    #[error("there is no such image")]
    NotThere,
    /// A container is made of it.
    #[error("the image is in use")]
    InUse,
    /// The engine failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// The images of an engine.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// All of them, newest first, at most 1000.
    async fn images(&self) -> Result<Vec<Image>, RuntimeError>;

    /// One of them, by id or name.
    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError>;

    /// Removes one, by id or name. With `force` also where it has several names; never one of which there is a
    /// container.
    async fn remove_image(&self, name: &str, force: bool) -> Result<(), RemoveImageError>;

    /// Fetches one that is not here.
    async fn fetch(&self, image: &ImageRef) -> Result<(), RuntimeError>;
}

//! The images of an engine, for operators' dashboards.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use crate::model::ImageRef;
use crate::runtime::RuntimeError;

/// An image's own settings and history, beside what every list tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImageDetails {
    /// The layers' digests, the lowest first.
    pub layers: Vec<String>,
    /// How each layer came about, the latest first.
    pub history: Vec<ImageStep>,
    /// The image's program.
    pub entrypoint: Vec<String>,
    /// The program's arguments.
    pub command: Vec<String>,
    /// The image's variables, `NAME=VALUE`.
    pub environment: Vec<String>,
    /// Whom the program runs as; empty for root.
    pub user: String,
    /// Where the program begins.
    pub working_dir: String,
    /// Ports that it says to have, such as `80/tcp`.
    pub exposed_ports: Vec<String>,
}

/// A step of an image's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImageStep {
    /// When; `None` where that is not known.
    pub created_at: Option<Timestamp>,
    /// The command that made it.
    pub created_by: String,
    /// Bytes.
    pub size: u64,
    /// The maker's comment.
    pub comment: String,
}

/// An image on the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Image {
    /// The engine's id of it.
    pub id: String,
    /// The image's names.
    pub tags: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// When it was built.
    pub created_at: Option<Timestamp>,
    /// `amd64` and the like; empty where it is not known.
    pub architecture: String,
    /// How many of the engine's containers are made of it.
    pub containers: u32,
    /// `linux` and the like; empty where it is not known.
    pub os: String,
    /// The image that it was made of; empty where it is not known.
    pub parent: String,
    /// The maker's comment.
    pub comment: String,
    /// The image's maker.
    pub author: String,
    /// More of it, where it alone was asked for.
    #[serde(skip)]
    pub details: Option<Box<ImageDetails>>,
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
    /// The engine's images, newest first, at most 1000.
    async fn images(&self) -> Result<Vec<Image>, RuntimeError>;

    /// One of them, by id or name.
    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError>;

    /// Removes one, by id or name. With `force` also where it has several names; never one of which there is a
    /// container.
    async fn remove_image(&self, name: &str, force: bool) -> Result<(), RemoveImageError>;

    /// Fetches one that is not here.
    async fn fetch(&self, image: &ImageRef) -> Result<(), RuntimeError>;
}

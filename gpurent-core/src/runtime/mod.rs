//! The engines that run containers. The core decides, a runtime acts.
//!
//! Every step is idempotent: after a crash the same step is simply called again, and finds what the call
//! before it left. An implementation proves itself with [`runtime_suite!`](crate::runtime_suite).

pub mod error;
pub mod exec;
pub mod gpu_probe;
pub mod images;
pub mod labels;
pub mod launch_spec;
pub mod machine;
pub mod observation;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
pub use error::RuntimeError;
pub use exec::{Bytes, ContainerExec, Input, Program, Session, TerminalSize, Usage};
pub use gpu_probe::{GpuProbe, ProbeError};
pub use images::{Image, ImageDetails, ImageStep, Images, RemoveImageError};
use jiff::Timestamp;
pub use launch_spec::LaunchSpec;
pub use machine::{GpuLoad, MachineLoad, MachineProbe};
pub use observation::{ContainerStatus, InspectedContainer, Observation, ObservedContainer};
use serde::{Deserialize, Serialize};

use crate::allocation::Written;
use crate::id::{ContainerId, EngineId, HostId, LaunchId, MachineId, RenterId};
use crate::model::{
    Exit, Files, ImageDigest, PortBinding, RegistryLogin, ResolvedImage, Retained, Secrets, Service, WorkspaceFolder,
};

/// How far a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes here already.
    pub current_bytes: u64,
    /// Bytes in all, as far as known; grows while the registry tells of more layers.
    pub total_bytes: u64,
    /// The present work, for people.
    pub status: String,
}

/// Hears of a pull's progress.
pub trait PullProgress: Send + Sync {
    /// Called whenever there is news; must return at once.
    fn update(&self, progress: Progress);
}

/// The knowledge that is gained while an image is fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// The image's digest in its registry; `None` where it was never in one.
    pub digest: Option<ImageDigest>,
}

/// Whether tenants are kept away from the host's own services, the cloud's metadata, and each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Tenants are kept apart.
    Enforced,
    /// Not all of it, and why: an operator has to know.
    Degraded(String),
}

/// A container that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The engine's id of it.
    pub container: ContainerId,
    /// Whether the GPUs were attached; simulated ones cannot be where the engine has no GPU driver.
    pub gpus_attached: bool,
    /// Whether it was made by this very call, and not found.
    pub is_new: bool,
    /// The image that it was made of, where the engine tells.
    pub image: Option<ResolvedImage>,
    /// The source of its files.
    pub files: Files,
    /// The bytes of files that were copied into it, in all copies: they are on the disk below what it writes itself.
    pub copied_bytes: u64,
}

/// Makes, starts, checks, stops and removes containers on one engine.
///
/// `prepare` and `verify` may be dropped half-way; the other steps are awaited to their end, so their
/// implementations must bound their own time.
#[async_trait]
pub trait ContainerRuntime: Send + Sync + 'static {
    /// The engine's identity, stable across restarts of the engine and of this process.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] where the engine does not answer.
    async fn engine(&self) -> Result<EngineId, RuntimeError>;

    /// The engine's machine; `None` where this process cannot tell, as it is with engines elsewhere.
    async fn machine(&self) -> Option<MachineId> {
        None
    }

    /// The workspaces of a renter that were made here, whether or not a rental uses them.
    async fn workspaces_of(&self, _renter: &RenterId) -> Result<BTreeSet<WorkspaceFolder>, RuntimeError> {
        Ok(BTreeSet::new())
    }

    /// Fetches the image and whatever else a container needs. The deadline is one of progress, not of
    /// time: a large image on a slow line may take as long as bytes keep coming.
    ///
    /// An image that was fetched with a login once is not given to anybody without one: where nobody but
    /// the registry can tell who may have it, the registry is asked again. For a launch that
    /// [`asks_registry`](LaunchSpec::asks_registry), [`Prepared::digest`] is what the tag means there now, and that image is
    /// fetched; otherwise an image that is here under the name serves, however old it is.
    async fn prepare(
        &self,
        launch: &LaunchSpec,
        registry: Option<&RegistryLogin>,
        progress: &dyn PullProgress,
    ) -> Result<Prepared, RuntimeError>;

    /// Makes the container under the launch's name, or finds it made of the same spec. It lets in by the secrets'
    /// credential, and its server shows the secrets' host keys. Its workspace is made
    /// where it is not there yet, whole or not at all, and is never made anew.
    ///
    /// A launch that [`carries_files`](LaunchSpec::carries_files) has those of the rental's latest container before it: that
    /// very container, to be started again, where it was made of the same but for the number of the launch; otherwise a new
    /// one with a copy of what was written in that one. Earlier ones that were not [put away](Self::retain) are so first. Where
    /// there is none, [`Created::files`] says so.
    /// A launch that a later one of its rental has followed, or that was put away, is refused.
    async fn create(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<Created, RuntimeError>;

    /// Starts the container, or finds it started; gives the engine's own record of when.
    async fn start(&self, launch: &LaunchSpec) -> Result<Timestamp, RuntimeError>;

    /// Returns once the renter's very credential would get them a shell now, through the published port, and the
    /// container sees the claimed GPUs and no others.
    ///
    /// # Errors
    /// [`RuntimeError::WrongDevices`], [`RuntimeError::NoLogin`], [`RuntimeError::AccessTimeout`] after `within`, [`RuntimeError::Exited`] or
    /// [`RuntimeError::Missing`] as soon as the container no longer runs.
    async fn verify(&self, launch: &LaunchSpec, within: Duration) -> Result<(), RuntimeError>;

    /// Makes a running container let in by the secrets' credential and no longer by any other. Sessions that are open
    /// stay open.
    async fn replace_access(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<(), RuntimeError>;

    /// Leaves a message for the renter inside the container: in a file, and on its terminals.
    async fn message_user(&self, launch: LaunchId, message: &str) -> Result<(), RuntimeError>;

    /// Tells the renter's program to finish, without ending the container.
    async fn signal_stop(&self, launch: LaunchId) -> Result<(), RuntimeError>;

    /// Stops the container: SIGTERM, SIGKILL after `grace`. `None` where there is none or it never
    /// started; else the engine's own record of the end, however long ago that was.
    async fn stop(&self, launch: LaunchId, grace: Duration) -> Result<Option<Exit>, RuntimeError>;

    /// Puts the container of a suspended rental away, stopped and with all that lies in it: nothing that is still under way
    /// for its launch starts, stops or removes it from then on. So for every container of the rental up to this launch; the
    /// latest one is told, `None` where there is none. One that runs, by somebody else's hand, is stopped.
    ///
    /// By default, for engines that cannot keep a container without a place, it is removed: the renter is told that its files
    /// are lost.
    async fn retain(&self, launch: LaunchId) -> Result<Option<Retained>, RuntimeError> {
        self.remove(launch).await.map(|()| None)
    }

    /// Removes the container, and those of its rental's earlier launches, and returns only once they are confirmed absent.
    async fn remove(&self, launch: LaunchId) -> Result<(), RuntimeError>;

    /// Reads what a container says of itself; `None` where there is none, or it says nothing that can be understood.
    async fn inspect(&self, launch: LaunchId) -> Result<Option<InspectedContainer>, RuntimeError>;

    /// All containers of a host.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`]: then nothing may be concluded about any container.
    async fn observe(&self, host: &HostId) -> Result<Observation, RuntimeError>;

    /// The disk space that a running container and its workspace use on the host; what the image brought is not counted.
    /// Counted no further than `most`: whoever uses more is told to use at least that.
    async fn disk_use(&self, launch: &LaunchSpec, most: Written) -> Result<Written, RuntimeError>;

    /// The services that answer now on these published ports of a launch, in order of their ports. A port counts where
    /// something speaks: an engine's proxy accepts connections for programs that are not there.
    ///
    /// An engine that cannot tell has none, which is the default. Ports for UDP are never among these.
    async fn services(&self, _launch: LaunchId, _ports: &[PortBinding]) -> Result<Vec<Service>, RuntimeError> {
        Ok(Vec::new())
    }

    /// Whether containers are given ports for UDP where they are asked for. An engine that does not say so publishes TCP
    /// only, and rentals with others are refused.
    fn publishes_udp(&self) -> bool {
        false
    }

    /// How well tenants are kept apart, as far as known now.
    fn isolation(&self) -> Isolation;

    /// The container's last lines of output, at most `lines`; empty where there is none.
    async fn logs(&self, launch: LaunchId, lines: usize) -> Result<Vec<String>, RuntimeError>;
}

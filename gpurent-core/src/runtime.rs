//! What runs containers. The core decides, a runtime acts.
//!
//! Every step is idempotent: after a crash the same step is simply called again, and finds what the call
//! before it left. An implementation proves itself with [`runtime_suite!`](crate::runtime_suite).

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::access::{LoginUser, RegistryLogin, Secrets};
use crate::disk::Written;
use crate::event::Claim;
use crate::gpu::{Gpu, GpuUuid};
use crate::id::{ContainerId, EngineId, HostId, LaunchId, MachineId, RenterId};
use crate::lifecycle::{Exit, FailureKind};
use crate::port::{HostPort, PortBinding, SSH};
use crate::rental::Rental;
use crate::retention::{Files, Retained};
use crate::service::Service;
use crate::spec::{Environment, ImageDigest, ImageRef, Labels, Limits, ResolvedImage, Workspace, WorkspaceFolder};

/// Everything a container is made of, except secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// Which launch of which rental.
    pub id: LaunchId,
    /// For which host.
    pub host: HostId,
    /// The image.
    pub image: ImageRef,
    /// Exactly these GPUs and no other.
    pub gpus: Vec<Gpu>,
    /// Exactly these ports.
    pub ports: Vec<PortBinding>,
    /// The renter's variables.
    pub environment: Environment,
    /// The renter's limits.
    pub limits: Limits,
    /// Whom the renter logs in as.
    pub login: LoginUser,
    /// The renter's labels.
    pub labels: Labels,
    /// Whether the host's entry point is process 1; `None` for what the image's program looks like it expects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// The folder that outlives the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<Workspace>,
    /// Whether the files of the rental's last container are taken over. Not a part of what tells one container from
    /// another.
    #[serde(skip)]
    pub carries_files: bool,
    /// Whether the image's registry is asked what the tag means now, whatever the engine has under it. Not a part of what
    /// tells one container from another.
    #[serde(skip)]
    pub asks_registry: bool,
    /// What the container carries besides, for a store that loses its rental. Not a part of what tells one
    /// container from another: it may change during a rental.
    #[serde(skip)]
    pub claim: Option<Box<Claim>>,
}

impl LaunchSpec {
    /// What the rental's current launch is made of.
    #[must_use]
    pub fn of(rental: &Rental) -> Self {
        let spec = rental.spec();
        Self {
            id: rental.launch(),
            host: rental.host().clone(),
            image: rental.pinned().map_or_else(|| spec.image.clone(), |digest| spec.image.pinned(digest)),
            gpus: rental.gpus().to_vec(),
            ports: rental.ports().to_vec(),
            environment: spec.environment.clone(),
            limits: spec.limits.clone(),
            login: spec.login.clone(),
            labels: spec.labels.clone(),
            init: spec.init,
            workspace: spec.workspace.clone(),
            carries_files: rental.retained().is_some(),
            asks_registry: spec.pin_image && rental.pinned().is_none(),
            claim: Some(Box::new(rental.claim())),
        }
    }

    /// An image alone, to be [prepared](ContainerRuntime::prepare) before anything is claimed for it.
    #[must_use]
    pub fn of_an_image(id: LaunchId, host: HostId, image: ImageRef) -> Self {
        Self {
            id,
            host,
            image,
            gpus: Vec::new(),
            ports: Vec::new(),
            environment: Environment::default(),
            limits: Limits::default(),
            login: LoginUser::default(),
            labels: Labels::default(),
            init: None,
            workspace: None,
            carries_files: false,
            asks_registry: false,
            claim: None,
        }
    }

    /// A hash over all of it: a container found under the launch's name is ours only if it was made of
    /// the same.
    #[must_use]
    pub fn hash(&self) -> String {
        // A struct of strings and numbers always has a JSON form; were it not so, the hash of nothing
        // would merely make a container look foreign.
        let json = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(json).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The host's port that leads to SSH.
    #[must_use]
    pub fn ssh_port(&self) -> Option<HostPort> {
        self.ports.iter().find(|binding| binding.container == SSH).map(|binding| binding.host)
    }
}

/// How far a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes here already.
    pub current_bytes: u64,
    /// Bytes in all, as far as known; grows while the registry tells of more layers.
    pub total_bytes: u64,
    /// What is being done, for people.
    pub status: String,
}

/// Hears of a pull's progress.
pub trait PullProgress: Send + Sync {
    /// Called whenever there is news; must return at once.
    fn update(&self, progress: Progress);
}

/// What was found out while an image was fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// The image's digest in its registry; `None` where it was never in one.
    pub digest: Option<ImageDigest>,
}

/// Whether tenants are kept away from the host's own services, the cloud's metadata, and each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// They are.
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

/// What an engine says of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Made, never started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited(Exit),
    /// There, and the engine does not say how it is: nothing may be concluded about this one.
    Unknown,
}

/// One of our containers, as the engine showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whose launch it is, by its labels.
    pub launch: LaunchId,
    /// The engine's id of it.
    pub container: ContainerId,
    /// How it is.
    pub presence: Presence,
    /// The GPUs that it was given, by its labels.
    pub gpus: Vec<GpuUuid>,
    /// The host's ports that it was given, by its labels.
    pub ports: Vec<HostPort>,
    /// Whether it was [put away](ContainerRuntime::retain).
    pub retained: bool,
}

/// What a container says of itself, for a rental that the store has lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// The engine's id of it.
    pub container: ContainerId,
    /// The claim that it was made for.
    pub claim: Box<Claim>,
    /// Whether the engine attached its GPUs.
    pub gpus_attached: bool,
    /// When it started; `None` where it has not.
    pub started_at: Option<Timestamp>,
    /// How it ended and what is kept of it, where it was [put away](ContainerRuntime::retain).
    pub retained: Option<(Option<Exit>, Retained)>,
}

/// All of a host's containers at one time. What is not in it was absent; where the engine did not
/// answer there is no observation at all, and nothing may be concluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The containers that carry the host's label.
    pub containers: Vec<Seen>,
}

impl Observation {
    /// What was seen of one launch.
    #[must_use]
    pub fn of(&self, launch: LaunchId) -> Option<&Seen> {
        self.containers.iter().find(|seen| seen.launch == launch)
    }
}

/// A boxed cause.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The engine does not answer. Nothing is known; try again.
    #[error("the container engine does not answer")]
    Unavailable(#[source] Cause),
    /// The image does not exist or may not be pulled; the renter has to name another.
    #[error("the image {image} cannot be pulled")]
    ImageUnavailable {
        /// The image.
        image: ImageRef,
        /// What the registry said.
        #[source]
        source: Cause,
    },
    /// The image cannot be pulled at the moment, by nobody's fault who asked for it: its registry is busy or away, or the
    /// host's disk is full. Trying again may help.
    #[error("the image {image} cannot be pulled at the moment")]
    RegistryUnavailable {
        /// The image.
        image: ImageRef,
        /// Why, in words that tell a renter nothing of the host's network.
        #[source]
        source: Cause,
    },
    /// The image needs a newer NVIDIA driver than the host has: another host may do.
    #[error("the host's NVIDIA driver is too old for the image, which needs {condition}")]
    DriverTooOld {
        /// What the image asks for, such as `cuda>=12.6`.
        condition: String,
    },
    /// The pull made no progress for so long that it was given up.
    #[error("the pull of {image} made no progress for {} s", idle.as_secs())]
    PullStalled {
        /// The image.
        image: ImageRef,
        /// For how long.
        idle: Duration,
    },
    /// The engine cannot attach GPUs; the operator has to install the NVIDIA container toolkit.
    #[error("the engine has no NVIDIA runtime: install the NVIDIA container toolkit and restart the engine")]
    GpuRuntimeMissing(#[source] Cause),
    /// Somebody outside our books listens on a port.
    #[error("host port {port} is taken by another program")]
    PortTaken {
        /// The port.
        port: HostPort,
        /// What the engine said.
        #[source]
        source: Cause,
    },
    /// The engine refused an option of the container.
    #[error("the engine refused the container")]
    Refused(#[source] Cause),
    /// There is no such container.
    #[error("the container is not there")]
    Missing,
    /// The container's program ended while it was expected to run.
    #[error("the container's program ended with exit code {}{}", .0.code, if .0.out_of_memory { " (out of memory)" } else { "" })]
    Exited(Exit),
    /// The container sees other GPUs than it was given, or none: it must not be used.
    #[error("the container sees the GPU devices {found:?} instead of {claimed:?}")]
    WrongDevices {
        /// The numbers of the device nodes that it was given.
        claimed: Vec<u32>,
        /// Those that it sees.
        found: Vec<u32>,
    },
    /// The renter could not have logged in by now: nothing answered.
    #[error("SSH did not answer within {} s", .0.as_secs())]
    AccessTimeout(Duration),
    /// The renter could not log in, and would not later: the image does not let them, or the host's own server does not
    /// run in it.
    #[error("nobody could log in: {reason}")]
    NoLogin {
        /// Whether it is the image's doing; else the host's.
        by_image: bool,
        /// Why, for the renter; what an image says in it is without control characters.
        reason: String,
    },
    /// The image is for another kind of processor than this host's.
    #[error("the image {image} is for {found}, and this host has {host}: name an image for {host}")]
    WrongArchitecture {
        /// The image.
        image: ImageRef,
        /// What the image is for, such as `arm64`.
        found: String,
        /// What the host has.
        host: String,
    },
}

impl RuntimeError {
    /// The failure that this is for a rental on its way up; `None` where trying again may help.
    #[must_use]
    pub fn failure(&self) -> Option<FailureKind> {
        Some(match self {
            Self::Unavailable(_) | Self::RegistryUnavailable { .. } => return None,
            Self::DriverTooOld { .. } => FailureKind::DriverTooOld,
            Self::ImageUnavailable { .. } => FailureKind::ImageUnavailable,
            Self::PullStalled { .. } => FailureKind::PullStalled,
            Self::GpuRuntimeMissing(_) => FailureKind::GpuRuntimeMissing,
            Self::PortTaken { .. } => FailureKind::PortTaken,
            Self::Refused(_) => FailureKind::Refused,
            Self::Missing => FailureKind::Vanished,
            Self::Exited(_) => FailureKind::ExitedEarly,
            Self::WrongDevices { .. } => FailureKind::WrongDevices,
            Self::AccessTimeout(_) => FailureKind::AccessTimeout,
            Self::NoLogin { by_image: true, .. } => FailureKind::NoLogin,
            Self::NoLogin { by_image: false, .. } => FailureKind::NoServer,
            Self::WrongArchitecture { .. } => FailureKind::WrongArchitecture,
        })
    }
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
    async fn announce(&self, launch: LaunchId, message: &str) -> Result<(), RuntimeError>;

    /// Tells the renter's program to finish, without ending the container.
    async fn notify(&self, launch: LaunchId) -> Result<(), RuntimeError>;

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

    /// What a container says of itself; `None` where there is none, or it says nothing that can be understood.
    async fn examine(&self, launch: LaunchId) -> Result<Option<Examined>, RuntimeError>;

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

//! Why an engine did not do what it was asked.

use std::time::Duration;

use crate::error::BoxError;
use crate::model::{Exit, FailureKind, HostPort, ImageRef};

/// Why a runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The engine does not answer. Nothing is known; try again.
    #[error("the container engine does not answer")]
    Unavailable(#[source] BoxError),
    /// The image does not exist or may not be pulled; the renter has to name another.
    #[error("the image {image} cannot be pulled")]
    ImageUnavailable {
        /// The image.
        image: ImageRef,
        /// The registry's answer.
        #[source]
        source: BoxError,
    },
    /// The image cannot be pulled now, and the renter is not at fault: its registry is busy or away, or the
    /// host's disk is full. Trying again may help.
    #[error("the image {image} cannot be pulled at the moment")]
    RegistryUnavailable {
        /// The image.
        image: ImageRef,
        /// Why, in words that tell a renter nothing of the host's network.
        #[source]
        source: BoxError,
    },
    /// The image needs a newer NVIDIA driver than the host has: another host may do.
    #[error("the host's NVIDIA driver is too old for the image, which needs {condition}")]
    DriverTooOld {
        /// The image's condition, such as `cuda>=12.6`.
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
    GpuRuntimeMissing(#[source] BoxError),
    /// Another program listens on a port.
    #[error("host port {port} is taken by another program")]
    PortTaken {
        /// The port.
        port: HostPort,
        /// The engine's answer.
        #[source]
        source: BoxError,
    },
    /// The engine refused an option of the container.
    #[error("the engine refused the container")]
    Refused(#[source] BoxError),
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
        /// The numbers that the container sees.
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
        /// The image's architecture, such as `arm64`.
        found: String,
        /// The host's architecture.
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

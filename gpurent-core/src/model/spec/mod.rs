//! A validated request: a [`RentalSpec`] that exists is one that can be carried out.

mod environment;
mod image;
mod labels;
mod limits;
mod size;
mod term;
mod workspace;

pub use environment::Environment;
pub use image::{ImageDigest, ImageRef, ResolvedImage};
pub use labels::Labels;
pub use limits::ContainerLimits;
use serde::{Deserialize, Serialize};
pub use size::Size;
pub use term::{MAX_TERM, Term};
pub use workspace::{MountPath, Workspace, WorkspaceFolder};

use crate::id::{InstanceName, RenterId};
use crate::model::{CredentialRequest, GpuRequest, LoginUser, PortRange, PublishedPorts, RegistryLogin};

/// Everything about a rental that its renter decides, except secrets.
///
/// Every field's type checks itself, so the core never checks again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RentalSpec {
    /// Which GPUs; `None` for a container without any, which the operator has to allow.
    pub gpu: Option<GpuRequest>,
    /// Which image.
    pub image: ImageRef,
    /// For how long.
    pub term: Term,
    /// The renter.
    pub renter: RenterId,
    /// As whom the renter logs in.
    pub login: LoginUser,
    /// The renter's name for it; one is made up where there is none.
    pub name: Option<InstanceName>,
    /// Variables for the container, over the image's own.
    pub environment: Environment,
    /// Ports to reach from outside.
    pub ports: PublishedPorts,
    /// How much of the machine the container may use.
    pub limits: ContainerLimits,
    /// The renter's own marks.
    pub labels: Labels,
    /// Whether the image's registry is asked once what the tag means, and the answer is kept: an older image of that
    /// name on the engine does not serve, and what the tag comes to mean later changes nothing.
    // Left out where it is not set, so that requests of before are still the same requests.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pin_image: bool,
    /// Whether the host's own entry point is process 1 of the container, and the image's program its child, as with
    /// `docker run --init`; `None` for what the image's program looks like it expects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// A folder that outlives the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<Workspace>,
    /// Host ports that were set aside for this renter: those of [`ports`](Self::ports) may lie there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky_ports: Option<PortRange>,
}

impl RentalSpec {
    /// A spec with nothing but the necessary; the other fields are set directly.
    #[must_use]
    pub fn new(renter: RenterId, gpu: impl Into<Option<GpuRequest>>, image: ImageRef, term: Term) -> Self {
        Self {
            gpu: gpu.into(),
            image,
            term,
            renter,
            login: LoginUser::default(),
            name: None,
            environment: Environment::default(),
            ports: PublishedPorts::default(),
            limits: ContainerLimits::default(),
            labels: Labels::default(),
            pin_image: false,
            init: None,
            workspace: None,
            sticky_ports: None,
        }
    }
}

/// A spec and how the renter wants to log in: what [`Rentals::rent`](crate::host::Rentals::rent) takes.
#[derive(Clone, Debug)]
pub struct RentalRequest {
    /// The specification.
    pub spec: RentalSpec,
    /// The password or key, or that one be generated.
    pub credential: CredentialRequest,
    /// How to log in to the image's registry, where that is private.
    pub registry: Option<RegistryLogin>,
}

impl RentalRequest {
    /// A request for an image that needs no login.
    #[must_use]
    pub fn new(spec: RentalSpec, credential: CredentialRequest) -> Self {
        Self { spec, credential, registry: None }
    }
}

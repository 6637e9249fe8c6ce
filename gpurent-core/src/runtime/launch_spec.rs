//! The parts that one launch of a container is made of.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{HostId, LaunchId};
use crate::model::port::SSH;
use crate::model::{
    Claim, ContainerLimits, Environment, Gpu, HostPort, ImageRef, Labels, LoginUser, PortBinding, Rental, Workspace,
};

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
    pub limits: ContainerLimits,
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
    /// The claim that the container carries besides, for a store that loses its rental. Not a part of what tells one
    /// container from another: it may change during a rental.
    #[serde(skip)]
    pub claim: Option<Box<Claim>>,
}

impl LaunchSpec {
    /// The parts of the rental's current launch.
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

    /// An image alone, to be [prepared](crate::runtime::ContainerRuntime::prepare) before anything is claimed for it.
    #[must_use]
    pub fn of_an_image(id: LaunchId, host: HostId, image: ImageRef) -> Self {
        Self {
            id,
            host,
            image,
            gpus: Vec::new(),
            ports: Vec::new(),
            environment: Environment::default(),
            limits: ContainerLimits::default(),
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

//! The body of `POST /v1/rentals`, and its way into a validated request.

use std::collections::BTreeMap;

use gpurent_core::error::ValidationError;
use gpurent_core::id::RenterId;
use gpurent_core::model::{
    ContainerLimits, ContainerPort, CredentialRequest, GpuRequest, HostPort, LoginUser, Password, PublicKey,
    PublicKeys, PublishedPort, RegistryLogin, RentalRequest, RentalSpec, Size, Term, Transport, Workspace,
    WorkspaceFolder,
};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::v1::view::TransportSchema;

/// A renter's request. Unknown fields are refused: a misspelt limit must not be no limit.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"gpu": "RTX 5090", "image": "ubuntu:22.04", "duration": "2h"}))]
pub(crate) struct CreateRental {
    /// A model, or a GPU's UUID. Left out for a container without a GPU, where the host rents those.
    gpu: Option<String>,
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 16)]
    gpu_count: u8,
    image: String,
    /// "90s", "2h", an ISO 8601 duration, or a number of seconds; at most 366 days.
    duration: Duration,
    auth: Option<Auth>,
    user: Option<String>,
    name: Option<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    ports: Vec<Port>,
    #[serde(default)]
    limits: LimitsBody,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// How to log in to the image's registry, where that is private.
    registry: Option<Registry>,
    /// Whether the image's digest is looked up once and kept.
    #[serde(default)]
    pin_image: bool,
    /// Whether the host's entry point is process 1 and the image's program its child, as with `docker run --init`; left
    /// out, what the image's program looks like it expects.
    init: Option<bool>,
    /// A folder that outlives the container, where the host has a place for those.
    workspace: Option<WorkspaceBody>,
}

/// Which folder; the renter's one where no name is given.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct WorkspaceBody {
    /// One of several folders of the renter.
    name: Option<String>,
    /// Where the container sees it: /workspace by default.
    mount: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Registry {
    username: String,
    password: String,
}

fn one() -> u8 {
    1
}

/// A password, or up to sixteen public keys; with neither, a password is made up.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Auth {
    password: Option<String>,
    /// One key, or several, a line each.
    ssh_key: Option<String>,
    /// Several keys.
    #[serde(default)]
    #[schema(max_items = 16)]
    ssh_keys: Vec<String>,
}

/// A container port, also as text (`9000/udp`, `9000:30000`), or one with the host port it is to have.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(untagged, deny_unknown_fields)]
enum Port {
    Any(u16),
    Text(String),
    Certain {
        container: u16,
        host: Option<u16>,
        #[serde(default)]
        #[schema(value_type = TransportSchema)]
        transport: Transport,
    },
}

/// A duration in words, or in seconds.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Duration {
    Seconds(i64),
    Words(String),
}

impl Duration {
    pub(super) fn term(&self) -> Result<Term, ValidationError> {
        match self {
            Self::Seconds(seconds) => seconds.to_string().parse(),
            Self::Words(words) => words.parse(),
        }
    }
}

/// An amount in bytes, or in words such as "512m", "1.5g" and "4Gi", whose units are powers of 1024.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(untagged)]
enum Amount {
    Bytes(u64),
    Words(String),
}

impl Amount {
    fn bytes(&self, field: &'static str) -> Result<u64, ValidationError> {
        match self {
            Self::Bytes(bytes) => Ok(*bytes),
            Self::Words(words) => words.parse().map(Size::bytes).map_err(|error: ValidationError| error.named(field)),
        }
    }
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LimitsBody {
    milli_cpus: Option<u32>,
    memory_bytes: Option<Amount>,
    shm_bytes: Option<Amount>,
    processes: Option<u32>,
}

impl CreateRental {
    pub(crate) fn into_request(self, renter: RenterId, reserved: &[&str]) -> Result<RentalRequest, ValidationError> {
        let gpu = match &self.gpu {
            Some(gpu) => Some(GpuRequest::new(gpu.parse()?, self.gpu_count)?),
            None => None,
        };
        let mut spec = RentalSpec::new(renter, gpu, self.image.parse()?, self.duration.term()?);
        spec.login = self.user.map(LoginUser::try_from).transpose()?.unwrap_or_default();
        spec.name =
            self.name.map(|name| name.parse()).transpose().map_err(|error: ValidationError| error.named("name"))?;
        spec.environment = self.environment.try_into()?;
        spec.ports = self.ports.into_iter().map(published).collect::<Result<Vec<_>, _>>()?.try_into()?;
        spec.limits = limits(&self.limits)?;
        // These say by which protocol a rental was made, and what it asked for there.
        if self.labels.keys().any(|name| reserved.iter().any(|mark| name.starts_with(mark))) {
            return Err(ValidationError::new("labels", format!("names under {} are the host's", reserved.join(", "))));
        }
        spec.labels = self.labels.try_into()?;
        spec.pin_image = self.pin_image;
        spec.init = self.init;
        spec.workspace = self.workspace.map(|body| workspace(&spec.renter, body)).transpose()?;
        let registry = self.registry.map(|login| RegistryLogin::new(login.username, login.password)).transpose()?;
        Ok(RentalRequest { spec, credential: credential(self.auth.unwrap_or_default())?, registry })
    }
}

fn workspace(renter: &RenterId, body: WorkspaceBody) -> Result<Workspace, ValidationError> {
    let named = |error: ValidationError| error.named("workspace.name");
    let folder = match body.name {
        Some(name) => WorkspaceFolder::named(renter, &name.parse().map_err(named)?),
        None => WorkspaceFolder::of(renter),
    };
    let mount = body.mount.map(|mount| mount.parse()).transpose();
    let mount = mount.map_err(|error: ValidationError| error.named("workspace.mount"))?;
    Ok(Workspace { folder, mount: mount.unwrap_or_default() })
}

fn published(port: Port) -> Result<PublishedPort, ValidationError> {
    let (container, transport, host) = match port {
        Port::Text(text) => return text.trim().parse(),
        Port::Any(container) => (container, Transport::Tcp, None),
        Port::Certain { container, host, transport } => (container, transport, host),
    };
    let host = host.map(HostPort::try_from).transpose()?;
    Ok(PublishedPort { container: ContainerPort::try_from(container)?, transport, host })
}

fn limits(body: &LimitsBody) -> Result<ContainerLimits, ValidationError> {
    let mut limits = ContainerLimits::default();
    if let Some(milli_cpus) = body.milli_cpus {
        limits = limits.with_milli_cpus(milli_cpus)?;
    }
    if let Some(amount) = &body.memory_bytes {
        limits = limits.with_memory_bytes(amount.bytes("limits.memory_bytes")?)?;
    }
    if let Some(amount) = &body.shm_bytes {
        limits = limits.with_shm_bytes(amount.bytes("limits.shm_bytes")?)?;
    }
    if let Some(processes) = body.processes {
        limits = limits.with_processes(processes)?;
    }
    Ok(limits)
}

pub(super) fn credential(auth: Auth) -> Result<CredentialRequest, ValidationError> {
    let Auth { password, ssh_key, ssh_keys } = auth;
    match (password, ssh_key.is_none() && ssh_keys.is_empty()) {
        (None, true) => Ok(CredentialRequest::Generate),
        (Some(password), true) => {
            let password = Password::new(password).map_err(|error| error.named("auth.password"))?;
            Ok(CredentialRequest::Password(password))
        }
        (None, false) => {
            let named = |error: ValidationError, field: &'static str| error.named(field);
            let mut keys: Vec<PublicKey> = Vec::new();
            if let Some(lines) = ssh_key {
                let lines: PublicKeys = lines.parse().map_err(|error| named(error, "auth.ssh_key"))?;
                keys.extend(lines.iter().cloned());
            }
            for key in ssh_keys {
                keys.push(key.parse().map_err(|error| named(error, "auth.ssh_keys"))?);
            }
            let keys = PublicKeys::new(keys).map_err(|error| named(error, "auth.ssh_keys"))?;
            Ok(CredentialRequest::PublicKeys(keys))
        }
        (Some(_), false) => Err(ValidationError::new("auth", "must be either a password or public keys")),
    }
}

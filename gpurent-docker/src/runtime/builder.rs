//! Connecting to an engine, and what an operator may set.
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use gpurent_core::allocation::{Capacity, Division};
use gpurent_core::id::{LaunchId, MachineId};
use gpurent_core::runtime::{Isolation, RuntimeError};
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, Semaphore};

use crate::access_kit::AccessKit;
use crate::access_kit::volume::KitVolume;
use crate::container::gpu_support::Attaching;
use crate::container::names::Names;
use crate::container::screening::Screening;
use crate::container::share::{for_renters, processes_for_renters};
use crate::control::credential_dir::AccessDir;
use crate::control::exec::Execs;
use crate::control::socket::Lines;
use crate::engine::client;
use crate::engine::client::EngineAddress;
use crate::engine::error::unavailable;
use crate::image::PullPatience;
use crate::image::registries::Registries;
use crate::machine::engine_lock::EngineLock;
use crate::machine::workspaces::WorkspaceRoot;
use crate::network;
use crate::network::firewall::Firewall;
use crate::network::isolation_probe;
use crate::runtime::DockerRuntime;

const CONCURRENT_PULLS: usize = 16;

/// The machine's identity, which does not tell its id, a secret (machine-id(5)). `None` in a container, which has none or
/// another one.
pub(super) fn local_machine() -> Option<MachineId> {
    let in_kubernetes = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if in_kubernetes || ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists()) {
        return None;
    }
    // A machine without one cannot be told from others.
    let id = std::fs::read_to_string("/etc/machine-id").ok().filter(|id| id.trim().len() >= 32)?;
    let hash = Sha256::new().chain_update("gpurent").chain_update(id.trim()).finalize();
    MachineId::try_from(hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()).ok()
}

impl DockerRuntime {
    /// Connects to an engine, such as `unix:///var/run/docker.sock`; see [`EngineAddress`].
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] where it does not answer.
    pub async fn connect(address: impl Into<EngineAddress>, kit: AccessKit) -> Result<Self, RuntimeError> {
        let address = address.into();
        let docker = client::connect(&address).await?;
        let info = docker.info().await.map_err(unavailable)?;
        let execs = Arc::new(Execs::new(docker.clone()));
        Ok(Self {
            machine: (info.ncpu.unwrap_or(1), info.mem_total.unwrap_or(0)),
            division: Division::default(),
            docker,
            kit: KitVolume::new(kit),
            // Another machine's rules are not ours to set.
            firewall: if address.is_local() { Firewall::new() } else { Firewall::elsewhere() },
            access_dir: None,
            workspaces: None,
            binds_access: OnceCell::new(),
            patience: PullPatience::default(),
            registries: Registries::default(),
            by_proxy: info.https_proxy.as_ref().is_some_and(|proxy| !proxy.is_empty()),
            any_machine: false,
            is_local: address.is_local(),
            reach: address.host().to_owned(),
            attaching: Attaching::default(),
            never_started: Mutex::default(),
            being_made: Mutex::default(),
            copying: Arc::default(),
            tokens: Mutex::default(),
            lines: Lines::default(),
            names: Names::default(),
            name_servers: Arc::default(),
            execs,
            screening: Screening::default(),
            sudo: false,
            architecture: info.architecture.unwrap_or_default(),
            pulls: Semaphore::new(CONCURRENT_PULLS),
            _lock: None,
        })
    }

    /// Holds the engine's lock for as long as this runtime lives.
    pub(crate) fn holding(self, lock: EngineLock) -> Self {
        Self { _lock: Some(lock), ..self }
    }

    /// Divides the machine: what a rental gets that asks for no CPU and memory.
    #[must_use]
    pub fn with_division(mut self, division: Division) -> Self {
        self.division = division;
        self
    }

    /// The machine's capacity for renters.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        let (cpus, memory) = self.machine;
        Capacity {
            milli_cpus: u32::try_from(cpus).unwrap_or(1).saturating_mul(1000),
            memory_bytes: u64::try_from(for_renters(memory)).unwrap_or(0),
            processes: u32::try_from(processes_for_renters()).unwrap_or(u32::MAX),
            divided: true,
        }
    }

    /// Where the engine keeps images and containers, on its own machine.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] where the engine does not answer.
    pub async fn data_folder(&self) -> Result<Option<PathBuf>, RuntimeError> {
        let info = self.docker.info().await.map_err(unavailable)?;
        Ok(info.docker_root_dir.map(PathBuf::from))
    }

    /// Another patience with pulls that make no progress.
    #[must_use]
    pub fn with_pull_patience(mut self, patience: PullPatience) -> Self {
        self.patience = patience;
        self
    }

    /// Pulls from other registries than all [public](Registries::Public) ones.
    #[must_use]
    pub fn with_registries(mut self, registries: Registries) -> Self {
        self.registries = registries;
        self
    }

    /// Hands credentials over in this folder instead of uploading them into each container, which takes
    /// most of a twentieth of a second. Where the engine turns out not to see it, they are uploaded all the same.
    #[must_use]
    pub fn with_access_dir(mut self, directory: AccessDir) -> Self {
        self.access_dir = Some(directory);
        self
    }

    /// Gives containers that ask for one a folder that outlives them. The engine has to see the root under the same
    /// path.
    #[must_use]
    pub fn with_workspaces(mut self, root: WorkspaceRoot) -> Self {
        self.workspaces = Some(root);
        self
    }

    /// Lets renters who log in under another name than root become root by `sudo`, where their image has it. That takes
    /// one lock off their containers (`no-new-privileges`): set-user-ID programs then work in them.
    #[must_use]
    pub fn with_sudo(mut self) -> Self {
        self.sudo = true;
        self
    }

    /// Lets tenants reach private networks (RFC 1918, RFC 6598) beyond this host. By default they do not: those are the
    /// operator's own, as a rule.
    #[must_use]
    pub fn with_private_networks(mut self) -> Self {
        self.firewall.allow_private_networks();
        self
    }

    /// Does not tell which machine the engine is on: for a machine that has another id than before (machine-id(5)), and is
    /// still the one that the host is pinned to.
    #[must_use]
    pub fn on_any_machine(mut self) -> Self {
        self.any_machine = true;
        self
    }

    /// Sets no firewall rules: tenants then reach the host's own services and the metadata address.
    #[must_use]
    pub fn without_firewall(mut self) -> Self {
        self.firewall = Firewall::off();
        self
    }

    /// Makes the tenants' network and keeps tenants from what they must not reach, before the first of
    /// them is there; so that an operator hears at once how well that went.
    ///
    /// # Errors
    /// [`RuntimeError`] where the network cannot be made. Rules that cannot be set are no error, but
    /// [`Isolation::Degraded`].
    pub async fn isolate(&self) -> Result<Isolation, RuntimeError> {
        network::ensure(&self.docker).await?;
        self.firewall.ensure().await;
        Ok(self.firewall.isolation())
    }

    /// Keeps a container from taking the engine's name server for itself.
    pub(super) fn limit_name_server(&self, launch: LaunchId, container: &str) {
        if self.firewall.is_on() {
            self.name_servers.set_soon(&self.docker, launch, container);
        }
    }

    /// Finds out by packets whether tenants are kept apart: two containers of the host's own are on their network for about a
    /// second. To be called now and then, such as every ten minutes; what is found shows in
    /// [`isolation`](gpurent_core::runtime::ContainerRuntime::isolation). Where rules are not set from here nothing is tried.
    ///
    /// # Errors
    /// [`RuntimeError`] where it could not be found out.
    pub async fn probe_isolation(&self) -> Result<Isolation, RuntimeError> {
        if !self.firewall.is_on() {
            return Ok(self.firewall.isolation());
        }
        self.isolate().await?;
        self.kit.ensure(&self.docker).await?;
        let reached = isolation_probe::probe(&self.docker, &self.kit.kit, &self.firewall).await?;
        self.firewall.probed(match (reached.neighbour, reached.host) {
            (false, false) => None,
            (true, false) => Some("a probe reached its neighbour over the tenants' network".to_owned()),
            (false, true) => Some("a probe reached the host's own services from the tenants' network".to_owned()),
            (true, true) => Some("a probe reached its neighbour and the host from the tenants' network".to_owned()),
        });
        Ok(self.firewall.isolation())
    }

    /// Another address than the engine's to reach published ports from here.
    #[must_use]
    pub fn reached_at(mut self, address: String) -> Self {
        self.reach = address;
        self
    }
}

//! [`ContainerRuntime`] on Docker Engine: each step's calls. What a container is made of is in
//! `container`, what the engine says of one in `state`, the kit's volume in `access_kit::volume`, how it is told of its
//! renter and asked for something in `credentials`, what becomes of it while its rental is suspended in `retention`.

pub(crate) mod credentials;
pub(crate) mod exec;
pub(crate) mod images;
pub(crate) mod retention;
pub(crate) mod services;
#[cfg(unix)]
pub(crate) mod socket_session;
pub(crate) mod ssh_probe;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, Mount};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, LogsOptionsBuilder, StopContainerOptionsBuilder,
};
use credentials::access_folder;
use futures_util::{StreamExt, TryStreamExt, stream};
use gpurent_access::paths::KIT;
use gpurent_access::spec::Tokens;
use gpurent_access::wire::{Request, Verdict};
use gpurent_core::allocation::{Capacity, Division, Written};
use gpurent_core::id::{EngineId, HostId, LaunchId, MachineId, RenterId};
use gpurent_core::model::{
    Exit, Files, HostPort, ImageRef, PortBinding, RegistryLogin, Retained, Secrets, Service, WorkspaceFolder,
};
use gpurent_core::runtime::{
    ContainerRuntime, Created, Examined, Isolation, LaunchSpec, Observation, Prepared, Presence, PullProgress,
    RuntimeError, Seen,
};
use jiff::Timestamp;
use retention::Copy;
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, Semaphore};

use crate::access_kit::volume::KitVolume;
use crate::access_kit::{AccessKit, credential, former};
use crate::container::gpu_support::Attaching;
use crate::container::names::{Named, Names, Standing};
use crate::container::screening::Screening;
use crate::container::share::{Share, for_renters, processes_for_renters};
use crate::container::{
    LABEL_GPUS, LABEL_HASH, LABEL_HOST, LABEL_IMAGE, body, claim_of, device_check, disk_use, expect_ordinary_volumes,
    launch_of, names,
};
use crate::control::credential_dir::AccessDir;
use crate::control::exec::Execs;
use crate::control::output;
use crate::control::socket::Lines;
use crate::engine::client::EngineAddress;
use crate::engine::error::{classify, is_missing, is_without_kit, refusal, unavailable};
use crate::engine::state::{container_id, exit, is_running, presence, remove_by_name, time};
use crate::engine::{client, helper_image};
use crate::image::PullPatience;
use crate::image::registries::Registries;
use crate::machine::workspaces::WorkspaceRoot;
use crate::network::firewall::Firewall;
use crate::network::isolation_probe;
use crate::network::name_server::NameServerLimits;
use crate::runtime::ssh_probe::Heard;
use crate::{access_kit, image, network};

const CONCURRENT_PULLS: usize = 16;
/// How long an engine may take to hand over a container's last lines, and how much of them is read.
const LOG_PATIENCE: Duration = Duration::from_secs(10);
const MOST_LOG_BYTES: usize = 1024 * 1024;
/// How often a container that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// How often a container's SSH is knocked at, and after how many knocks the engine is asked about it.
const KNOCK_EVERY: Duration = Duration::from_millis(10);
const LOOKS_AT_THE_ENGINE: u32 = 8;
/// How many containers are looked at at once, and how long one look may take.
const LOOKS_AT_ONCE: usize = 16;
const LOOK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a removal or a kill may take to show.
const SETTLE: Duration = Duration::from_secs(30);
/// How long a container may take to hear that it ends, before the engine ends it.
const TELL_OF_THE_END: Duration = Duration::from_millis(500);

/// Rents GPUs out as containers of one Docker Engine.
pub struct DockerRuntime {
    docker: Docker,
    kit: KitVolume,
    firewall: Firewall,
    access_dir: Option<AccessDir>,
    workspaces: Option<WorkspaceRoot>,
    /// Whether the engine sees the access folder, once that was tried.
    binds_access: OnceCell<bool>,
    /// The machine's CPUs and bytes of memory.
    machine: (i64, i64),
    division: Division,
    patience: PullPatience,
    registries: Registries,
    /// Whether the engine asks registries by way of a proxy.
    by_proxy: bool,
    /// Whether it does not matter on which machine the engine is.
    any_machine: bool,
    /// Whether the engine's folders are this machine's.
    is_local: bool,
    /// Where published ports are reached from here.
    reach: String,
    attaching: Attaching,
    /// Containers that this process made and has not started yet.
    never_started: Mutex<BTreeSet<LaunchId>>,
    /// Containers that the engine was asked to make, and may still be making.
    being_made: Mutex<BTreeSet<LaunchId>>,
    /// Launches whose files are being copied.
    copying: Arc<Mutex<BTreeSet<LaunchId>>>,
    /// How containers that this process made are asked whether their renter would get in.
    tokens: Mutex<HashMap<LaunchId, Tokens>>,
    lines: Lines,
    names: Names,
    name_servers: Arc<NameServerLimits>,
    execs: Arc<Execs>,
    screening: Screening,
    /// Whether named users may become root.
    sudo: bool,
    /// The engine's kind of processor, as uname(1) calls it.
    architecture: String,
    /// Pulls at once: more would only share the same line.
    pulls: Semaphore,
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
        })
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

    fn workspace_root(&self) -> Result<&WorkspaceRoot, RuntimeError> {
        self.workspaces.as_ref().ok_or_else(|| RuntimeError::Refused("this host has no place for workspaces".into()))
    }

    /// What a launch's container sees of the host. Its workspace was made when it was prepared, and never goes.
    fn workspace_mounts(&self, launch: &LaunchSpec) -> Result<Vec<Mount>, RuntimeError> {
        let Some(workspace) = &launch.workspace else { return Ok(Vec::new()) };
        let root = self.workspace_root()?;
        match root.is_there(&workspace.folder) {
            Ok(true) => Ok(root.mounts(workspace)),
            Ok(false) => Err(RuntimeError::Unavailable("the workspace is not made yet".into())),
            Err(error) => Err(not_made(error)),
        }
    }

    pub(crate) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The source of images.
    pub(crate) fn images(&self) -> image::Source<'_> {
        image::Source {
            docker: &self.docker,
            pulls: &self.pulls,
            patience: self.patience,
            architecture: &self.architecture,
            registries: &self.registries,
            by_proxy: self.by_proxy,
        }
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
    fn limit_name_server(&self, launch: LaunchId, container: &str) {
        if self.firewall.is_on() {
            self.name_servers.set_soon(&self.docker, launch, container);
        }
    }

    /// Finds out by packets whether tenants are kept apart: two containers of the host's own are on their network for about a
    /// second. To be called now and then, such as every ten minutes; what is found shows in
    /// [`isolation`](ContainerRuntime::isolation). Where rules are not set from here nothing is tried.
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

    /// Makes a minimal image under this name from a static busybox of this machine.
    ///
    /// # Errors
    /// [`RuntimeError::Refused`] where there is no such program or the engine does not take the image.
    pub async fn import_minimal_image(&self, name: &ImageRef) -> Result<(), RuntimeError> {
        let busybox = access_kit::busybox().await.map_err(|error| RuntimeError::Refused(Box::new(error)))?;
        image::import_busybox(&self.docker, busybox, name).await
    }

    /// The name of a launch's container, whether or not there is one.
    pub(crate) async fn name(&self, launch: LaunchId) -> Result<String, RuntimeError> {
        self.names.of(&self.docker, launch).await
    }

    /// A launch's container, whatever it is named by now, and how it stands.
    async fn find(&self, launch: LaunchId) -> Result<Option<(Standing, ContainerInspectResponse)>, RuntimeError> {
        if let Some(found) = self.inspect(&self.name(launch).await?).await? {
            return Ok(Some((Standing::Current, found)));
        }
        for standing in [Standing::TakenUp, Standing::Retained] {
            if let Some(mut found) = self.inspect(&standing.name(launch)).await? {
                if standing == Standing::TakenUp {
                    found.state = found.state.map(as_of_this_launch);
                }
                return Ok(Some((standing, found)));
            }
        }
        Ok(None)
    }

    pub(crate) fn execs(&self) -> &Arc<Execs> {
        &self.execs
    }

    async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        match self.docker.inspect_container(name, None).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The state of a launch's container that was not put away.
    async fn state(&self, launch: LaunchId) -> Result<Option<ContainerState>, RuntimeError> {
        let found = self.find(launch).await?.filter(|(standing, _)| *standing != Standing::Retained);
        Ok(found.map(|(_, container)| container.state.unwrap_or_default()))
    }

    /// Forgets what is known of a launch's container.
    async fn forget(&self, launch: LaunchId) {
        if let Ok(name) = self.name(launch).await {
            self.execs.forget(&name);
        }
        self.never_started().remove(&launch);
        self.known_tokens().remove(&launch);
        self.lines.close(launch);
        self.name_servers.forget(launch);
    }

    /// Starts a container, once more where its kit was not there: between the look at the kit and the making of the container
    /// another host on this engine may have removed it as one that nobody uses, and the engine then makes an empty volume.
    async fn start_container(&self, name: &str, launch: &LaunchSpec) -> Result<(), RuntimeError> {
        let started = match self.docker.start_container(name, None).await {
            Err(error) if is_without_kit(&error) => {
                self.kit.ensure_anew(&self.docker).await?;
                self.docker.start_container(name, None).await
            }
            started => started,
        };
        started.map_err(|error| classify(error, &ports(launch)))
    }

    fn being_made(&self) -> MutexGuard<'_, BTreeSet<LaunchId>> {
        self.being_made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the engine is not still making a container whose making did not come back: it has its name from the
    /// beginning, and shows only in the end. An image with a large volume can keep it busy for minutes.
    async fn expect_not_being_made(&self, launch: LaunchId, name: &str) -> Result<(), RuntimeError> {
        if !self.being_made().contains(&launch) {
            return Ok(());
        }
        helper_image::ensure(&self.docker).await?;
        let body = ContainerCreateBody {
            image: Some(helper_image::image()),
            entrypoint: Some(vec!["/none".to_owned()]),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        match self.docker.create_container(Some(options), body).await {
            Ok(_) => {
                remove_by_name(&self.docker, name).await?;
                self.being_made().remove(&launch);
                Ok(())
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    fn never_started(&self) -> MutexGuard<'_, BTreeSet<LaunchId>> {
        self.never_started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn expect_running(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let state = self.state(launch).await?.ok_or(RuntimeError::Missing)?;
        if is_running(&state) {
            return Ok(());
        }
        Err(exit(&state).map_or(RuntimeError::Missing, RuntimeError::Exited))
    }

    async fn pulled_image(&self, launch: &LaunchSpec) -> Result<bollard::models::ImageInspect, RuntimeError> {
        match image::inspect(&self.docker, &launch.image).await? {
            Some(image) => Ok(image),
            // By the operator, or so says an engine that is out of files: it is looked for again.
            None => Err(RuntimeError::Unavailable("the image is gone again".into())),
        }
    }

    /// The sight of one listed container; `None` where it is gone by now.
    async fn see(&self, named: Named) -> Result<Option<Seen>, RuntimeError> {
        let Named { launch, standing, listed, .. } = named;
        let Some(id) = listed.id else { return Ok(None) };
        let running =
            listed.state.is_some_and(|state| state.to_string() == ContainerStateStatusEnum::RUNNING.to_string());
        let presence = if running {
            // Listened to again after a start of this process, and limited where its start was not ours.
            self.line(launch);
            self.limit_name_server(launch, &id);
            Presence::Running
        } else if standing == Standing::TakenUp {
            Presence::Created
        } else {
            // The list does not tell when it ended. An engine that hangs over one container knows the others.
            match tokio::time::timeout(LOOK_PATIENCE, self.docker.inspect_container(&id, None)).await {
                Ok(Ok(found)) => presence(&found.state.unwrap_or_default()),
                Ok(Err(error)) if is_missing(&error) => return Ok(None),
                // It is asked no more than this one can answer for.
                Ok(Err(error)) if refusal(&error).is_none() => return Err(unavailable(error)),
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(%launch, "the engine does not say how this container is");
                    Presence::Unknown
                }
            }
        };
        let labels = listed.labels.unwrap_or_default();
        let (gpus, ports) = claim_of(&labels).map(|claim| (claim.gpus, claim.ports)).unwrap_or_default();
        Ok(Some(Seen {
            launch,
            container: container_id(id)?,
            presence,
            gpus: gpus.into_iter().map(|gpu| gpu.uuid).collect(),
            ports: ports.iter().map(|binding| binding.host).collect(),
            retained: standing == Standing::Retained,
        }))
    }

    /// Looks again and again until `done`, for at most [`SETTLE`].
    async fn settled(
        &self,
        launch: LaunchId,
        done: impl Fn(Option<&ContainerState>) -> bool,
    ) -> Result<Option<ContainerState>, RuntimeError> {
        let begun = Instant::now();
        loop {
            let state = self.state(launch).await?;
            if done(state.as_ref()) {
                return Ok(state);
            }
            if begun.elapsed() > SETTLE {
                return Err(RuntimeError::Unavailable("the engine has not done in 30 s what it said it would".into()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Finds the container that already has the launch's name; it is ours if it was made of the same.
    async fn adopt(
        &self,
        launch: &LaunchSpec,
        source: bollard::errors::Error,
    ) -> Result<(Created, Option<PathBuf>), RuntimeError> {
        let Some(found) = self.inspect(&self.name(launch.id).await?).await? else {
            // Gone again: the next try makes it.
            return Err(unavailable(source));
        };
        let folder = access_folder(&found);
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        let made_for = launch_of(&labels).unwrap_or(launch.id);
        if labels.get(LABEL_HASH) != Some(&LaunchSpec { id: made_for, ..launch.clone() }.hash()) {
            return Err(RuntimeError::Refused(
                "the name belongs to a container that was made of something else".into(),
            ));
        }
        let created = Created {
            container: container_id(found.id.unwrap_or_default())?,
            gpus_attached: gpus_attached(&labels),
            is_new: false,
            image: None,
            copied_bytes: 0,
            files: match launch.carries_files {
                _ if labels.contains_key(LABEL_IMAGE) => Files::Copied,
                _ if made_for != launch.id => Files::Same,
                true => Files::Lost,
                false => Files::New,
            },
        };
        Ok((created, folder))
    }
}

/// This machine, without telling its own id, which is a secret (machine-id(5)). `None` in a container, which has none or
/// another one.
fn local_machine() -> Option<MachineId> {
    let in_kubernetes = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if in_kubernetes || ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists()) {
        return None;
    }
    // A machine without one cannot be told from others.
    let id = std::fs::read_to_string("/etc/machine-id").ok().filter(|id| id.trim().len() >= 32)?;
    let hash = Sha256::new().chain_update("gpurent").chain_update(id.trim()).finalize();
    MachineId::try_from(hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()).ok()
}

/// Why a workspace cannot be made: some of it passes, a name or a right does not.
fn not_made(error: std::io::Error) -> RuntimeError {
    use std::io::ErrorKind::{
        InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    match error.kind() {
        InvalidFilename | InvalidInput | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem => {
            RuntimeError::Refused(Box::new(error))
        }
        _ => RuntimeError::Unavailable(Box::new(error)),
    }
}

/// A container's name, which the engine writes with a slash before it.
fn name_of(container: &ContainerInspectResponse) -> String {
    container.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned()
}

/// The state of a container that was taken over from an earlier launch: what it did then is over.
fn as_of_this_launch(state: ContainerState) -> ContainerState {
    if is_running(&state) { state } else { ContainerState::default() }
}

fn gpus_attached(labels: &HashMap<String, String>) -> bool {
    labels.get(LABEL_GPUS).is_some_and(|value| value == "true")
}

fn ports(launch: &LaunchSpec) -> Vec<HostPort> {
    launch.ports.iter().map(|binding| binding.host).collect()
}

#[async_trait]
impl ContainerRuntime for DockerRuntime {
    async fn engine(&self) -> Result<EngineId, RuntimeError> {
        let info = self.docker.info().await.map_err(unavailable)?;
        let id = info.id.unwrap_or_default();
        EngineId::try_from(id).map_err(|error| RuntimeError::Refused(Box::new(error)))
    }

    async fn machine(&self) -> Option<MachineId> {
        local_machine().filter(|_| self.is_local && !self.any_machine)
    }

    async fn workspaces_of(&self, renter: &RenterId) -> Result<BTreeSet<WorkspaceFolder>, RuntimeError> {
        let Some(root) = &self.workspaces else { return Ok(BTreeSet::new()) };
        root.of(renter).await.map_err(|error| RuntimeError::Unavailable(Box::new(error)))
    }

    async fn prepare(
        &self,
        launch: &LaunchSpec,
        registry: Option<&RegistryLogin>,
        progress: &dyn PullProgress,
    ) -> Result<Prepared, RuntimeError> {
        let docker = &self.docker;
        let images = self.images();
        let image = async {
            if launch.carries_files && self.prepare_files(launch, progress).await? {
                return Ok(Prepared::default());
            }
            if launch.asks_registry {
                return images.ensure_current(&launch.image, registry, progress).await;
            }
            images.ensure(&launch.image, registry, progress).await
        };
        let (prepared, _isolation) = tokio::try_join!(image, self.isolate())?;
        self.kit.ensure(docker).await?;
        self.attaching.attaches(docker, &self.kit.kit, launch).await?;
        self.access_dir().await;
        // Here it may take its time.
        if let Some(workspace) = &launch.workspace {
            self.workspace_root()?.ensure(workspace).await.map_err(not_made)?;
        }
        Ok(prepared)
    }

    async fn create(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<Created, RuntimeError> {
        if launch.carries_files
            && let Some(created) = self.take_up(launch, secrets).await?
        {
            return Ok(created);
        }
        let attach = self.attaching.attaches(&self.docker, &self.kit.kit, launch).await?;
        let copy = self.copy_for(launch).await?;
        let image = async {
            match &copy {
                Some(copy) => Ok(copy.original.clone()),
                None => self.pulled_image(launch).await,
            }
        };
        let (image, ()) = tokio::try_join!(image, self.kit.ensure_still(&self.docker))?;
        let resolved = image::resolved(&image, &launch.image);
        let config = image.config.unwrap_or_default();
        expect_ordinary_volumes(&config)?;
        let workspace = launch.workspace.as_ref().map(|workspace| &workspace.mount);
        let made_of = copy.as_ref().map_or(&image.id, |copy| &copy.image.id).clone().unwrap_or_default();
        self.screening.expect_harmless(&self.docker, &made_of, workspace).await?;
        let spec = credential::spec_of(launch, secrets, &config, self.sudo).await?;
        let files = credential::file(&spec);
        let directory = self.access_dir().await;
        let folder = directory.map(|directory| directory.folder(launch.id));
        let name = self.name(launch.id).await?;
        if let Some(folder) = &folder {
            // The engine refuses a bind of what is not there.
            self.hand_over(&name, &files, Some(folder)).await?;
            // Before the container calls.
            self.line(launch.id);
        }
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let mut mounts = self.workspace_mounts(launch)?;
        mounts.extend(directory.map(|directory| directory.mount(launch.id)));
        let (cpus, memory) = self.machine;
        let share = Share::of(cpus, memory, self.division.part(launch.gpus.len()));
        mounts.extend(copy.iter().flat_map(|copy| copy.volumes.clone()));
        let mut body = body(launch, &config, &self.kit.kit, share, attach, self.sudo, mounts);
        let copied_bytes = copy.as_ref().map_or(0, Copy::bytes);
        let files_from = match &copy {
            Some(copy) => {
                body.image = Some(made_of);
                let original = copy.original.id.clone().unwrap_or_default();
                body.labels.get_or_insert_default().insert(LABEL_IMAGE.to_owned(), original);
                Files::Copied
            }
            None if launch.carries_files => Files::Lost,
            None => Files::New,
        };
        self.being_made().insert(launch.id);
        let made = self.docker.create_container(Some(options), body).await;
        if made.is_ok() || made.as_ref().is_err_and(|error| refusal(error).is_some_and(|(status, _)| status != 409)) {
            self.being_made().remove(&launch.id);
        }
        let (mut created, sees) = match made {
            Ok(made) => {
                self.never_started().insert(launch.id);
                (
                    Created {
                        container: container_id(made.id)?,
                        gpus_attached: attach,
                        is_new: true,
                        image: Some(resolved),
                        files: files_from,
                        copied_bytes,
                    },
                    folder.clone(),
                )
            }
            Err(error) if matches!(refusal(&error), Some((409, _))) => {
                let (created, sees) = self.adopt(launch, error).await?;
                (Created { image: Some(resolved), ..created }, sees)
            }
            Err(error) => return Err(classify(error, &ports(launch))),
        };
        self.being_made().remove(&launch.id);
        if created.files == Files::Copied {
            created.copied_bytes = copied_bytes;
        }
        if sees.is_none() || sees != folder {
            // Also into a container that was found: the crash may have come before the credentials.
            self.hand_over(&name, &files, sees.as_deref()).await?;
        }
        self.known_tokens().insert(launch.id, spec.tokens);
        Ok(created)
    }

    async fn start(&self, launch: &LaunchSpec) -> Result<Timestamp, RuntimeError> {
        // Starting what runs already is fine with Docker (304), but what ended must not run again: unless it
        // was made a moment ago, and so never ran, it is looked at first.
        let runs = if self.never_started().remove(&launch.id) {
            false
        } else if launch.carries_files && self.start_taken_up(launch).await? {
            true
        } else {
            let found = self.inspect(&self.name(launch.id).await?).await?.ok_or(RuntimeError::Missing)?;
            let before = found.state.unwrap_or_default();
            if let Some(exit) = exit(&before) {
                return Err(RuntimeError::Exited(exit));
            }
            // It may have been made by a version that did not look.
            if !is_running(&before) {
                let (image, workspace) = (found.image.unwrap_or_default(), launch.workspace.as_ref());
                let workspace = workspace.map(|workspace| &workspace.mount);
                self.screening.expect_harmless(&self.docker, &image, workspace).await?;
            }
            is_running(&before)
        };
        if !runs {
            let name = self.name(launch.id).await?;
            self.start_container(&name, launch).await?;
            self.firewall.isolate_new().await;
        }
        let state = self.state(launch.id).await?.ok_or(RuntimeError::Missing)?;
        self.limit_name_server(launch.id, &self.name(launch.id).await?);
        time(state.started_at.as_deref())
            .ok_or_else(|| RuntimeError::Unavailable("the engine does not tell when the container started".into()))
    }

    async fn verify(&self, launch: &LaunchSpec, within: Duration) -> Result<(), RuntimeError> {
        let port = launch.ssh_port().ok_or_else(|| RuntimeError::Refused("no SSH port".into()))?;
        let tokens = self.tokens_of(launch.id).await?;
        let address = (self.reach.as_str(), port.get());
        let begun = Instant::now();
        let mut heard = Heard::Nothing;
        for look in 0u32.. {
            // The port alone proves nothing: the engine's proxy may listen for a container that has ended.
            // It was just started, as a rule, so that is not asked first.
            if look % LOOKS_AT_THE_ENGINE == 1 {
                self.expect_running(launch.id).await?;
            }
            heard = match &tokens {
                Some(tokens) => ssh_probe::ask(address, tokens).await,
                None if ssh_probe::greets(address).await => return self.expect_running(launch.id).await,
                None => Heard::Nothing,
            };
            match heard {
                Heard::Verdict(Verdict::Ready(devices)) => {
                    self.expect_running(launch.id).await?;
                    return device_check::check(launch, &devices);
                }
                Heard::Verdict(Verdict::Image(reason)) => return Err(RuntimeError::NoLogin { by_image: true, reason }),
                // Of the moment, perhaps: a credential that is just being replaced, a machine that is out of memory.
                Heard::Verdict(Verdict::Host(_)) | Heard::Stranger | Heard::Nothing => {}
            }
            if begun.elapsed() >= within {
                break;
            }
            tokio::time::sleep(KNOCK_EVERY).await;
        }
        Err(match heard {
            Heard::Verdict(Verdict::Host(reason)) => RuntimeError::NoLogin { by_image: false, reason },
            Heard::Stranger => {
                let reason = "another program of the image answers in the place of the host's SSH server".to_owned();
                RuntimeError::NoLogin { by_image: true, reason }
            }
            _ => RuntimeError::AccessTimeout(within),
        })
    }

    async fn replace_access(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<(), RuntimeError> {
        let name = self.name(launch.id).await?;
        let found = self.inspect(&name).await?.ok_or(RuntimeError::Missing)?;
        let folder = access_folder(&found);
        if folder.as_ref().is_some_and(|folder| !folder.exists()) {
            return Err(RuntimeError::Refused("the folder that the container has its credentials from is gone".into()));
        }
        let has_former_kit = former::has_kit(&found);
        // By its id: its name may lead elsewhere by now, or nowhere.
        let config = self.original(&found).await?.config.unwrap_or_default();
        let state = found.state.unwrap_or_default();
        if !is_running(&state) {
            return Err(exit(&state).map_or(RuntimeError::Missing, RuntimeError::Exited));
        }
        if has_former_kit {
            let hashed = credential::hashed(&secrets.credential).await?;
            let files = former::access_files(launch.login.as_str(), &hashed, &config);
            self.hand_over(&name, &files, folder.as_deref()).await?;
            return self.execs.run(&name, vec![format!("{KIT}/let-in")]).await.map(|_| ());
        }
        let spec = credential::spec_of(launch, secrets, &config, self.sudo).await?;
        self.hand_over(&name, &credential::file(&spec), folder.as_deref()).await?;
        self.known_tokens().insert(launch.id, spec.tokens);
        self.ask(launch.id, &Request::Reload, &["let-in"]).await.map(|_| ())
    }

    async fn announce(&self, launch: LaunchId, message: &str) -> Result<(), RuntimeError> {
        let request = Request::Message(message.to_owned());
        self.ask(launch, &request, &["announce", message]).await.map(|_| ())
    }

    async fn notify(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let found = self.inspect(&self.name(launch).await?).await?.ok_or(RuntimeError::Missing)?;
        if !former::has_kit(&found) {
            return self.ask(launch, &Request::Notify, &["notify"]).await.map(|_| ());
        }
        // The former kit's entry point passes it on as SIGTERM to the renter's program, and stays.
        let options = KillContainerOptionsBuilder::default().signal("SIGUSR1").build();
        match self.docker.kill_container(&self.name(launch).await?, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) => match self.state(launch).await?.as_ref().map(presence) {
                None => Err(RuntimeError::Missing),
                Some(Presence::Exited(exit)) => Err(RuntimeError::Exited(exit)),
                Some(_) => Err(classify(error, &[])),
            },
        }
    }

    async fn stop(&self, launch: LaunchId, grace: Duration) -> Result<Option<Exit>, RuntimeError> {
        let Some((standing, found)) = self.find(launch).await? else { return Ok(None) };
        // By its name: under its id it may be another launch's by the time that the engine hears of this.
        let name = name_of(&found);
        let state = found.state.unwrap_or_default();
        if standing == Standing::Retained || !is_running(&state) {
            return Ok(exit(&state));
        }
        if let Some(line) = self.line(launch).filter(|_| !grace.is_zero()) {
            // Everything else in the container hears of it too, where the image's program is the first process and the
            // engine's signal goes to that alone. A container that does not hear is stopped all the same.
            let told = tokio::time::timeout(TELL_OF_THE_END, line.ask(&Request::Terminate)).await;
            if !matches!(told, Ok(Ok(_))) {
                tracing::debug!(%launch, "the container was not told that it ends");
            }
        }
        let result = if grace.is_zero() {
            let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
            self.docker.kill_container(&name, Some(options)).await
        } else {
            let seconds = i32::try_from(grace.as_secs().max(1)).unwrap_or(i32::MAX);
            let options = StopContainerOptionsBuilder::default().t(seconds).build();
            // The engine answers when the container has ended.
            self.docker.clone().with_timeout(grace + SETTLE).stop_container(&name, Some(options)).await
        };
        if let Err(error) = result {
            // It may have ended by itself in between; what counts is whether it runs.
            let still_runs = self.state(launch).await?.as_ref().is_some_and(is_running);
            if still_runs {
                return Err(classify(error, &[]));
            }
        }
        let state = self.settled(launch, |state| !state.is_some_and(is_running)).await?;
        Ok(state.as_ref().and_then(exit))
    }

    async fn retain(&self, launch: LaunchId) -> Result<Option<Retained>, RuntimeError> {
        self.put_away(launch).await
    }

    async fn remove(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let name = self.name(launch).await?;
        self.remove_up_to(launch).await?;
        // Also one that the list does not show yet.
        remove_by_name(&self.docker, &name).await?;
        self.forget(launch).await;
        self.settled(launch, |state| state.is_none()).await?;
        self.expect_not_being_made(launch, &name).await?;
        if let Some(directory) = &self.access_dir {
            let removed = directory.remove_up_to(launch).await;
            removed.map_err(|error| RuntimeError::Unavailable(Box::new(error)))?;
            // An observation that began before may have opened it again.
            self.lines.close(launch);
        }
        Ok(())
    }

    async fn examine(&self, launch: LaunchId) -> Result<Option<Examined>, RuntimeError> {
        let Some((standing, found)) = self.find(launch).await? else { return Ok(None) };
        let retained = match standing {
            Standing::Retained => Some((found.state.as_ref().and_then(exit), self.retention(launch, &found).await?)),
            Standing::Current | Standing::TakenUp => None,
        };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        let is_its = launch_of(&labels).is_some_and(|made_for| made_for.rental == launch.rental);
        let Some(claim) = claim_of(&labels).filter(|_| is_its) else { return Ok(None) };
        Ok(Some(Examined {
            container: container_id(found.id.unwrap_or_default())?,
            claim,
            gpus_attached: gpus_attached(&labels),
            started_at: time(found.state.unwrap_or_default().started_at.as_deref()),
            retained,
        }))
    }

    async fn observe(&self, host: &HostId) -> Result<Observation, RuntimeError> {
        let listed = names::list(&self.docker, format!("{LABEL_HOST}={host}")).await?;
        if !listed.is_empty() {
            // Others reload firewalls while tenants run.
            self.firewall.ensure().await;
        }
        let seen = listed.into_iter().filter_map(Named::of).map(|named| self.see(named));
        let containers: Vec<Option<Seen>> = stream::iter(seen).buffered(LOOKS_AT_ONCE).try_collect().await?;
        let containers = containers.into_iter().flatten().collect();
        Ok(Observation { containers })
    }

    async fn disk_use(&self, launch: &LaunchSpec, most: Written) -> Result<Written, RuntimeError> {
        disk_use::of(&self.docker, &self.name(launch.id).await?, self.is_local, most).await
    }

    async fn services(&self, _launch: LaunchId, ports: &[PortBinding]) -> Result<Vec<Service>, RuntimeError> {
        Ok(services::look(&self.reach, ports).await)
    }

    fn publishes_udp(&self) -> bool {
        true
    }

    fn isolation(&self) -> Isolation {
        self.firewall.isolation()
    }

    async fn logs(&self, launch: LaunchId, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let Some((_, found)) = self.find(launch).await? else { return Ok(Vec::new()) };
        let mut stream = self.docker.logs(&name_of(&found), Some(options));
        let mut text = String::new();
        let read = async {
            while let Some(chunk) = stream.next().await {
                match chunk {
                    Ok(chunk) => text.push_str(&String::from_utf8_lossy(&chunk.into_bytes())),
                    Err(error) if is_missing(&error) => return Ok(()),
                    Err(error) => return Err(unavailable(error)),
                }
                if text.len() > MOST_LOG_BYTES {
                    return Ok(());
                }
            }
            Ok(())
        };
        tokio::time::timeout(LOG_PATIENCE, read).await.map_err(|late| RuntimeError::Unavailable(Box::new(late)))??;
        let shown: Vec<_> = text.lines().map(output::plain).collect();
        Ok(shown[shown.len().saturating_sub(lines)..].to_vec())
    }
}

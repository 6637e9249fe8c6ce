//! [`ContainerRuntime`] on Docker Engine: each step's calls. What a container is made of is in
//! `container`, what the engine says of one in `state`, the kit's volume in `access_kit::volume`, how it is told of its
//! renter and asked for something in `credentials`, what becomes of it while its rental is suspended in `retention`.

mod builder;
pub(crate) mod credentials;
pub(crate) mod exec;
pub(crate) mod images;
mod inspect;
pub(crate) mod retention;
pub(crate) mod services;
#[cfg(unix)]
pub(crate) mod socket_session;
pub(crate) mod ssh_probe;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::{ContainerInspectResponse, ContainerState, Mount};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, LogsOptionsBuilder, StopContainerOptionsBuilder,
};
use credentials::access_folder;
use futures_util::{StreamExt, TryStreamExt, stream};
use gpurent_access::paths::KIT;
use gpurent_access::spec::Tokens;
use gpurent_access::wire::{Request, Verdict};
use gpurent_core::allocation::{Division, Written};
use gpurent_core::id::{EngineId, HostId, LaunchId, MachineId, RenterId};
use gpurent_core::model::{
    Exit, Files, HostPort, ImageRef, PortBinding, RegistryLogin, Retained, Secrets, Service, WorkspaceFolder,
};
use gpurent_core::runtime::{
    ContainerRuntime, ContainerStatus, Created, InspectedContainer, Isolation, LaunchSpec, Observation,
    ObservedContainer, Prepared, PullProgress, RuntimeError, labels,
};
use jiff::Timestamp;
use retention::Copy;
use tokio::sync::{OnceCell, Semaphore};

use crate::access_kit::volume::KitVolume;
use crate::access_kit::{credential, former};
use crate::container::gpu_support::Attaching;
use crate::container::mounts::bind;
use crate::container::names::{Named, Names, Standing};
use crate::container::screening::Screening;
use crate::container::share::Share;
use crate::container::{LABEL_IMAGE, body, device_check, disk_use, expect_ordinary_volumes, names};
use crate::control::credential_dir::AccessDir;
use crate::control::exec::Execs;
use crate::control::output;
use crate::control::socket::Lines;
use crate::engine::error::{classify, is_missing, is_without_kit, refusal, unavailable};
use crate::engine::state::{container_id, exit, is_running, presence, remove_by_name, time};
use crate::image::PullPatience;
use crate::image::registries::Registries;
use crate::machine::engine_lock::EngineLock;
use crate::machine::workspaces::WorkspaceRoot;
use crate::network::firewall::Firewall;
use crate::network::name_server::NameServerLimits;
use crate::runtime::ssh_probe::Heard;
use crate::{access_kit, image};

/// How long an engine may take to hand over a container's last lines, and how much of them is read.
const LOG_TIMEOUT: Duration = Duration::from_secs(10);

const MOST_LOG_BYTES: usize = 1024 * 1024;

/// How often a container that is waited for is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(40);

/// How often a container's SSH is knocked at, and after how many knocks the engine is asked about it.
const SSH_RETRY_DELAY: Duration = Duration::from_millis(10);

const LOOKS_AT_THE_ENGINE: u32 = 8;

/// How many containers are looked at at once, and how long one look may take.
const LOOKS_AT_ONCE: usize = 16;

const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a removal or a kill may take to show.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a container may take to hear that it ends, before the engine ends it.
const END_MESSAGE_TIMEOUT: Duration = Duration::from_millis(500);

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
    /// The lock that makes this process the engine's only agent, where it was taken for this runtime.
    _lock: Option<EngineLock>,
}

impl DockerRuntime {
    fn workspace_root(&self) -> Result<&WorkspaceRoot, RuntimeError> {
        self.workspaces.as_ref().ok_or_else(|| RuntimeError::Refused("this host has no place for workspaces".into()))
    }

    /// The mounts by which a launch's container sees the host. Its workspace was made when it was prepared, and never goes.
    fn workspace_mounts(&self, launch: &LaunchSpec) -> Result<Vec<Mount>, RuntimeError> {
        let Some(workspace) = &launch.workspace else { return Ok(Vec::new()) };
        let root = self.workspace_root()?;
        match root.is_there(&workspace.folder) {
            Ok(true) => {
                let folders = root.mounts(workspace).into_iter();
                Ok(folders.map(|seen| bind(&seen.folder, seen.target.as_str(), seen.read_only)).collect())
            }
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

    /// Makes a minimal image under this name from a static busybox of this machine.
    ///
    /// # Errors
    /// [`RuntimeError::Refused`] where there is no such program or the engine does not take the image.
    pub async fn import_minimal_image(&self, name: &ImageRef) -> Result<(), RuntimeError> {
        let busybox = access_kit::busybox().await.map_err(|error| RuntimeError::Refused(Box::new(error)))?;
        image::import_busybox(&self.docker, busybox, name).await
    }

    pub(crate) fn execs(&self) -> &Arc<Execs> {
        &self.execs
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
        builder::local_machine().filter(|_| self.is_local && !self.any_machine)
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
                let (created, sees) = self.reuse_existing(launch, error).await?;
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
            tokio::time::sleep(SSH_RETRY_DELAY).await;
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

    async fn message_user(&self, launch: LaunchId, message: &str) -> Result<(), RuntimeError> {
        let request = Request::Message(message.to_owned());
        self.ask(launch, &request, &["announce", message]).await.map(|_| ())
    }

    async fn signal_stop(&self, launch: LaunchId) -> Result<(), RuntimeError> {
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
                Some(ContainerStatus::Exited(exit)) => Err(RuntimeError::Exited(exit)),
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
            let told = tokio::time::timeout(END_MESSAGE_TIMEOUT, line.ask(&Request::Terminate)).await;
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
            self.docker.clone().with_timeout(grace + REMOVAL_TIMEOUT).stop_container(&name, Some(options)).await
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

    async fn inspect(&self, launch: LaunchId) -> Result<Option<InspectedContainer>, RuntimeError> {
        let Some((standing, found)) = self.find(launch).await? else { return Ok(None) };
        let retained = match standing {
            Standing::Retained => Some((found.state.as_ref().and_then(exit), self.retention(launch, &found).await?)),
            Standing::Current | Standing::TakenUp => None,
        };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        let is_its = labels::launch_of(&labels).is_some_and(|made_for| made_for.rental == launch.rental);
        let Some(claim) = labels::claim_of(&labels).filter(|_| is_its) else { return Ok(None) };
        Ok(Some(InspectedContainer {
            container: container_id(found.id.unwrap_or_default())?,
            claim,
            gpus_attached: labels::gpus_attached(&labels),
            started_at: time(found.state.unwrap_or_default().started_at.as_deref()),
            retained,
        }))
    }

    async fn observe(&self, host: &HostId) -> Result<Observation, RuntimeError> {
        let listed = names::list(&self.docker, format!("{}={host}", labels::HOST)).await?;
        if !listed.is_empty() {
            // Others reload firewalls while tenants run.
            self.firewall.ensure().await;
        }
        let seen = listed.into_iter().filter_map(Named::of).map(|named| self.see(named));
        let containers: Vec<Option<ObservedContainer>> =
            stream::iter(seen).buffered(LOOKS_AT_ONCE).try_collect().await?;
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
        tokio::time::timeout(LOG_TIMEOUT, read).await.map_err(|late| RuntimeError::Unavailable(Box::new(late)))??;
        let shown: Vec<_> = text.lines().map(output::plain).collect();
        Ok(shown[shown.len().saturating_sub(lines)..].to_vec())
    }
}

//! [`ContainerRuntime`] on Docker Engine.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, HostConfig,
    VolumeCreateRequest,
};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use futures_util::StreamExt;
use gpurent_core::access::Credential;
use gpurent_core::id::{ContainerId, EngineId, HostId, LaunchId};
use gpurent_core::lifecycle::Exit;
use gpurent_core::placement::Capacity;
use gpurent_core::port::HostPort;
use gpurent_core::runtime::{
    ContainerRuntime, Created, LaunchSpec, Observation, Presence, PullProgress, RuntimeError, Seen,
};
use gpurent_core::spec::ImageRef;
use jiff::Timestamp;
use tokio::sync::{Mutex, Semaphore};

use crate::container::{LABEL_GPUS, LABEL_HASH, LABEL_HOST, Share, body, kit_mount, launch_of, trial};
use crate::error::{classify, is_missing, refusal, unavailable};
use crate::image::{self, PullPatience};
use crate::kit::{AccessKit, MARKER, MOUNT, access_archive};
use crate::{client, devices, kit, network, ssh};

const CONCURRENT_PULLS: usize = 16;
/// How long an engine may take to hand over a container's last lines, and how much of them is read.
const LOG_PATIENCE: Duration = Duration::from_secs(10);
const MOST_LOG_BYTES: usize = 4 * 1024 * 1024;
/// How often a container that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// How long a removal or a kill may take to show.
const SETTLE: Duration = Duration::from_secs(30);

/// Rents GPUs out as containers of one Docker Engine.
pub struct DockerRuntime {
    docker: Docker,
    kit: AccessKit,
    share: Share,
    patience: PullPatience,
    /// Where published ports are reached from here.
    reach: String,
    /// Held while the kit's volume is looked at or filled.
    kit_is_there: Mutex<bool>,
    /// Whether the engine takes device requests for GPUs that exist as names only, once that is known.
    attaches_simulated: Mutex<Option<bool>>,
    /// Pulls at once: more would only share the same line.
    pulls: Semaphore,
}

impl DockerRuntime {
    /// Connects to an engine: `unix:///var/run/docker.sock`.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] where it does not answer.
    pub async fn connect(address: &str, kit: AccessKit) -> Result<Self, RuntimeError> {
        let docker = client::connect(address).await?;
        let info = docker.info().await.map_err(unavailable)?;
        Ok(Self {
            share: Share::of(info.ncpu.unwrap_or(1), info.mem_total.unwrap_or(0), 1),
            docker,
            kit,
            patience: PullPatience::default(),
            reach: "127.0.0.1".to_owned(),
            kit_is_there: Mutex::new(false),
            attaches_simulated: Mutex::new(None),
            pulls: Semaphore::new(CONCURRENT_PULLS),
        })
    }

    /// Divides the machine among so many GPUs: what a rental gets that asks for no CPU and memory.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] where the engine does not answer.
    pub async fn with_slots(mut self, slots: usize) -> Result<Self, RuntimeError> {
        let info = self.docker.info().await.map_err(unavailable)?;
        let slots = i64::try_from(slots).unwrap_or(i64::MAX);
        self.share = Share::of(info.ncpu.unwrap_or(1), info.mem_total.unwrap_or(0), slots);
        Ok(self)
    }

    /// What the machine has, so that nobody is promised more.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] where the engine does not answer.
    pub async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        let info = self.docker.info().await.map_err(unavailable)?;
        Ok(Capacity {
            milli_cpus: u32::try_from(info.ncpu.unwrap_or(1)).unwrap_or(1).saturating_mul(1000),
            memory_bytes: u64::try_from(info.mem_total.unwrap_or(0)).unwrap_or(0),
        })
    }

    /// Another patience with pulls that make no progress.
    #[must_use]
    pub fn with_pull_patience(mut self, patience: PullPatience) -> Self {
        self.patience = patience;
        self
    }

    /// Another address than 127.0.0.1 to reach published ports from here: for an engine elsewhere.
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
        let busybox = kit::busybox().await.map_err(|error| RuntimeError::Refused(Box::new(error)))?;
        image::import_busybox(&self.docker, busybox, name).await
    }

    async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        match self.docker.inspect_container(name, None).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn state(&self, launch: LaunchId) -> Result<Option<ContainerState>, RuntimeError> {
        let found = self.inspect(&launch.container_name()).await?;
        Ok(found.map(|container| container.state.unwrap_or_default()))
    }

    /// Puts the kit into its volume unless it is there. The volume is filled through a container that is
    /// made, never started, and removed; its name keeps others from filling the volume at the same time.
    async fn ensure_kit(&self, image: &str) -> Result<(), RuntimeError> {
        let mut is_there = self.kit_is_there.lock().await;
        if *is_there {
            return Ok(());
        }
        let volume = VolumeCreateRequest { name: Some(self.kit.volume()), ..VolumeCreateRequest::default() };
        self.docker.create_volume(volume).await.map_err(|error| classify(error, &[]))?;
        let filler = format!("{}-fill", self.kit.volume());
        let begun = Instant::now();
        loop {
            match self.create_filler(&filler, image).await {
                Ok(_) => break,
                Err(error) if !matches!(refusal(&error), Some((409, _))) => return Err(classify(error, &[])),
                Err(_) if self.has_kit(&filler).await => {
                    *is_there = true;
                    return Ok(());
                }
                // Whoever made it died over it.
                Err(_) if begun.elapsed() > SETTLE => remove_by_name(&self.docker, &filler).await?,
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        let filled = self.fill_kit(&filler).await;
        remove_by_name(&self.docker, &filler).await?;
        filled?;
        *is_there = true;
        Ok(())
    }

    async fn create_filler(&self, name: &str, image: &str) -> Result<(), bollard::errors::Error> {
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // Never run; an image without a command needs one to be accepted.
            entrypoint: Some(vec!["/none".to_owned()]),
            host_config: Some(HostConfig { mounts: Some(vec![kit_mount(&self.kit, false)]), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.docker.create_container(Some(options), body).await.map(|_| ())
    }

    /// Whether the kit is complete, as seen through the filler: its last file is there.
    async fn has_kit(&self, filler: &str) -> bool {
        let marker = ContainerArchiveInfoOptionsBuilder::default().path(MARKER).build();
        self.docker.get_container_archive_info(filler, Some(marker)).await.is_ok()
    }

    async fn fill_kit(&self, filler: &str) -> Result<(), RuntimeError> {
        if self.has_kit(filler).await {
            return Ok(());
        }
        let options = UploadToContainerOptionsBuilder::default().path(MOUNT).build();
        let archive = bollard::body_full(self.kit.archive().into());
        self.docker.upload_to_container(filler, Some(options), archive).await.map_err(|error| classify(error, &[]))
    }

    /// Whether the launch's GPUs are asked of the engine. Real ones always are; simulated ones where the
    /// engine has a driver that lets them pass, which is tried out once.
    async fn attaches(&self, launch: &LaunchSpec) -> Result<bool, RuntimeError> {
        if launch.gpus.is_empty() || !launch.gpus.iter().all(|gpu| gpu.simulated) {
            return Ok(!launch.gpus.is_empty());
        }
        let mut known = self.attaches_simulated.lock().await;
        if let Some(attaches) = *known {
            return Ok(attaches);
        }
        // On a task of its own: a pull that is cancelled now must not leave the trial's container behind.
        let (docker, body) = (self.docker.clone(), trial(launch, &self.kit));
        let name = format!("gpurent-gpu-trial-{}", launch.id.rental);
        let started = tokio::spawn(async move { try_out(&docker, &name, body).await }).await;
        let started = started.map_err(|panic| RuntimeError::Unavailable(Box::new(panic)))?;
        match started {
            Ok(()) => *known = Some(true),
            Err(RuntimeError::GpuRuntimeMissing(_)) => {
                tracing::warn!("the engine has no NVIDIA runtime: simulated GPUs are left off");
                *known = Some(false);
            }
            Err(error @ RuntimeError::Unavailable(_)) => return Err(error),
            // A real driver that does not know such GPUs, or something of the moment: asked again next time.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the engine does not take simulated GPUs");
                return Ok(false);
            }
        }
        Ok(*known == Some(true))
    }

    async fn image_config(&self, launch: &LaunchSpec) -> Result<bollard::models::ImageConfig, RuntimeError> {
        match image::inspect(&self.docker, &launch.image).await? {
            Some(image) => Ok(image.config.unwrap_or_default()),
            None => Err(RuntimeError::ImageUnavailable {
                image: launch.image.clone(),
                source: "it was removed from the engine after it had been pulled".into(),
            }),
        }
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
    async fn adopt(&self, launch: &LaunchSpec, source: bollard::errors::Error) -> Result<Created, RuntimeError> {
        let Some(found) = self.inspect(&launch.id.container_name()).await? else {
            // Gone again: the next try makes it.
            return Err(unavailable(source));
        };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        if labels.get(LABEL_HASH) != Some(&launch.hash()) {
            return Err(RuntimeError::Refused(
                "the name belongs to a container that was made of something else".into(),
            ));
        }
        Ok(Created {
            container: container_id(found.id.unwrap_or_default())?,
            gpus_attached: labels.get(LABEL_GPUS).is_some_and(|value| value == "true"),
        })
    }
}

async fn remove_by_name(docker: &Docker, name: &str) -> Result<(), RuntimeError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match docker.remove_container(name, Some(options)).await {
        Ok(()) => Ok(()),
        // Gone already, or somebody removes it already.
        Err(error) if matches!(refusal(&error), Some((404 | 409, _))) => Ok(()),
        Err(error) => Err(classify(error, &[])),
    }
}

/// Makes, starts and removes a container.
async fn try_out(docker: &Docker, name: &str, body: ContainerCreateBody) -> Result<(), RuntimeError> {
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    docker.create_container(Some(options), body).await.map_err(|error| classify(error, &[]))?;
    let started = docker.start_container(name, None).await.map_err(|error| classify(error, &[]));
    remove_by_name(docker, name).await?;
    started
}

fn container_id(id: String) -> Result<ContainerId, RuntimeError> {
    ContainerId::try_from(id).map_err(|error| RuntimeError::Refused(Box::new(error)))
}

fn ports(launch: &LaunchSpec) -> Vec<HostPort> {
    launch.ports.iter().map(|binding| binding.host).collect()
}

/// A time as Docker writes it; its zero means "never".
fn time(text: Option<&str>) -> Option<Timestamp> {
    text.filter(|text| !text.starts_with("0001-"))?.parse().ok()
}

fn is_running(state: &ContainerState) -> bool {
    state.running.unwrap_or(false)
}

/// The engine's record of an end; `None` for a container that never ran or still does.
fn exit(state: &ContainerState) -> Option<Exit> {
    if is_running(state) {
        return None;
    }
    let started_at = time(state.started_at.as_deref())?;
    Some(Exit {
        // An engine that was killed may have no record of the end: then it is the start.
        finished_at: time(state.finished_at.as_deref()).unwrap_or(started_at),
        code: state.exit_code.unwrap_or(-1),
        out_of_memory: state.oom_killed.unwrap_or(false),
    })
}

fn presence(state: &ContainerState) -> Presence {
    match exit(state) {
        Some(exit) => Presence::Exited(exit),
        None if is_running(state) => Presence::Running,
        None => Presence::Created,
    }
}

#[async_trait]
impl ContainerRuntime for DockerRuntime {
    async fn engine(&self) -> Result<EngineId, RuntimeError> {
        let info = self.docker.info().await.map_err(unavailable)?;
        let id = info.id.unwrap_or_default();
        EngineId::try_from(id).map_err(|error| RuntimeError::Refused(Box::new(error)))
    }

    async fn prepare(&self, launch: &LaunchSpec, progress: &dyn PullProgress) -> Result<(), RuntimeError> {
        image::ensure(&self.docker, &self.pulls, &launch.image, self.patience, progress).await?;
        network::ensure(&self.docker).await?;
        self.ensure_kit(launch.image.as_str()).await?;
        self.attaches(launch).await?;
        Ok(())
    }

    async fn create(&self, launch: &LaunchSpec, credential: &Credential) -> Result<Created, RuntimeError> {
        let attach = self.attaches(launch).await?;
        let config = self.image_config(launch).await?;
        let access = access_archive(&launch.login, credential, &config)
            .await
            .map_err(|error| RuntimeError::Refused(Box::new(error)))?;
        let name = launch.id.container_name();
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let body = body(launch, &config, &self.kit, self.share, attach);
        let created = match self.docker.create_container(Some(options), body).await {
            Ok(made) => Created { container: container_id(made.id)?, gpus_attached: attach },
            Err(error) if matches!(refusal(&error), Some((409, _))) => self.adopt(launch, error).await?,
            Err(error) => return Err(classify(error, &ports(launch))),
        };
        if !self.has_kit(&name).await {
            // Somebody pruned the volume while no tenant ran; the engine has made an empty one.
            *self.kit_is_there.lock().await = false;
            self.ensure_kit(launch.image.as_str()).await?;
        }
        // Also into a container that was found: the crash may have come before the credentials.
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        let uploaded = self.docker.upload_to_container(&name, Some(options), bollard::body_full(access.into())).await;
        uploaded.map_err(|error| classify(error, &[]))?;
        Ok(created)
    }

    async fn start(&self, launch: &LaunchSpec) -> Result<Timestamp, RuntimeError> {
        // Starting what runs already is fine with Docker (304), but what ended must not run again.
        let before = self.state(launch.id).await?.ok_or(RuntimeError::Missing)?;
        if let Some(exit) = exit(&before) {
            return Err(RuntimeError::Exited(exit));
        }
        if !is_running(&before) {
            let name = launch.id.container_name();
            self.docker.start_container(&name, None).await.map_err(|error| classify(error, &ports(launch)))?;
        }
        let state = self.state(launch.id).await?.ok_or(RuntimeError::Missing)?;
        time(state.started_at.as_deref())
            .ok_or_else(|| RuntimeError::Unavailable("the engine does not tell when the container started".into()))
    }

    async fn verify(&self, launch: &LaunchSpec, within: Duration) -> Result<(), RuntimeError> {
        let port = launch.ssh_port().ok_or_else(|| RuntimeError::Refused("no SSH port".into()))?;
        let begun = Instant::now();
        loop {
            let state = self.state(launch.id).await?.ok_or(RuntimeError::Missing)?;
            if !is_running(&state) {
                return Err(exit(&state).map_or(RuntimeError::Missing, RuntimeError::Exited));
            }
            if ssh::greets((&self.reach, port.get())).await {
                return devices::check(&self.docker, launch).await;
            }
            if begun.elapsed() >= within {
                return Err(RuntimeError::AccessTimeout(within));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn notify(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        // The kit's entry point passes it on as SIGTERM to the renter's program, and stays.
        let options = KillContainerOptionsBuilder::default().signal("SIGUSR1").build();
        match self.docker.kill_container(&launch.container_name(), Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) => match self.state(launch).await?.as_ref().map(presence) {
                None => Err(RuntimeError::Missing),
                Some(Presence::Exited(exit)) => Err(RuntimeError::Exited(exit)),
                Some(_) => Err(classify(error, &[])),
            },
        }
    }

    async fn stop(&self, launch: LaunchId, grace: Duration) -> Result<Option<Exit>, RuntimeError> {
        let Some(state) = self.state(launch).await? else { return Ok(None) };
        if !is_running(&state) {
            return Ok(exit(&state));
        }
        let name = launch.container_name();
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

    async fn remove(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        remove_by_name(&self.docker, &launch.container_name()).await?;
        self.settled(launch, |state| state.is_none()).await.map(|_| ())
    }

    async fn observe(&self, host: &HostId) -> Result<Observation, RuntimeError> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{LABEL_HOST}={host}")])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = self.docker.list_containers(Some(options)).await.map_err(unavailable)?;
        let mut containers = Vec::with_capacity(listed.len());
        for listed in listed {
            let (Some(id), Some(launch)) = (listed.id, launch_of(&listed.labels.unwrap_or_default())) else { continue };
            let running =
                listed.state.is_some_and(|state| state.to_string() == ContainerStateStatusEnum::RUNNING.to_string());
            let presence = if running {
                Presence::Running
            } else {
                // The list does not tell when it ended.
                match self.inspect(&id).await? {
                    Some(found) => presence(&found.state.unwrap_or_default()),
                    None => continue,
                }
            };
            containers.push(Seen { launch, container: container_id(id)?, presence });
        }
        Ok(Observation { containers })
    }

    async fn logs(&self, launch: LaunchId, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let mut stream = self.docker.logs(&launch.container_name(), Some(options));
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
        Ok(text.lines().map(str::to_owned).collect())
    }
}

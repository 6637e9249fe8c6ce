//! A container engine in memory, which can be told to fail, to hang and to lose containers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::allocation::Written;
use crate::clock::Clock;
use crate::id::{ContainerId, EngineId, HostId, LaunchId, RenterId};
use crate::memory::ManualClock;
use crate::model::{
    Credential, DiskUse, Exit, Files, GpuUuid, ImageDigest, ImageRef, PortBinding, Protocol, RegistryLogin,
    ResolvedImage, Retained, Secrets, Service, WorkspaceFolder,
};
use crate::runtime::{
    ContainerRuntime, ContainerStatus, Created, InspectedContainer, Isolation, LaunchSpec, Observation,
    ObservedContainer, Prepared, Progress, PullProgress, RuntimeError,
};

/// A step of a [`MemoryRuntime`] that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuntimeStep {
    /// [`ContainerRuntime::prepare`]
    Prepare,
    /// [`ContainerRuntime::create`]
    Create,
    /// [`ContainerRuntime::start`]
    Start,
    /// [`ContainerRuntime::verify`]
    Verify,
    /// [`ContainerRuntime::replace_access`]
    ReplaceAccess,
    /// [`ContainerRuntime::message_user`]
    Announce,
    /// [`ContainerRuntime::stop`]
    Stop,
    /// [`ContainerRuntime::retain`]
    Retain,
    /// [`ContainerRuntime::remove`]
    Remove,
    /// [`ContainerRuntime::inspect`]
    Examine,
    /// [`ContainerRuntime::observe`]
    Observe,
    /// [`ContainerRuntime::disk_use`]
    DiskUse,
    /// [`ContainerRuntime::services`]
    Services,
}

/// A fault that is injected.
pub enum InjectedFault {
    /// The step fails before it has done anything.
    Before(RuntimeError),
    /// The step does its work, and then seems to fail.
    After(RuntimeError),
    /// The step never ends, and has done nothing.
    Hang,
    /// The step panics.
    Panic,
}

/// An engine for tests. Its copies are the same engine.
#[derive(Clone)]
pub struct MemoryRuntime {
    clock: Arc<dyn Clock>,
    engine: Arc<Mutex<Engine>>,
}

#[derive(Default)]
pub(super) struct Engine {
    away: bool,
    replaced: bool,
    pub(super) containers: BTreeMap<LaunchId, Container>,
    faults: BTreeMap<RuntimeStep, VecDeque<InjectedFault>>,
    made: u64,
    /// The disk space that a new container finds in use.
    found: DiskUse,
    /// Whether programs answer on their published ports.
    serves: bool,
    /// Folders that outlive containers, and as how manieth thing each was made.
    workspaces: BTreeMap<WorkspaceFolder, u64>,
}

pub(super) struct Container {
    spec: LaunchSpec,
    id: ContainerId,
    started_at: Option<Timestamp>,
    exit: Option<Exit>,
    lets_in: Vec<u8>,
    retained: bool,
    /// The launches that left files in it.
    files_of: BTreeSet<LaunchId>,
    announced: Vec<String>,
    pub(super) output: Vec<String>,
    written: DiskUse,
    /// Bytes a second that are written besides, and since when on the boot clock.
    fills: Option<(u64, i64)>,
}

/// See [`MemoryRuntime::snapshot`].
#[cfg(feature = "testing")]
pub(crate) struct ContainerSnapshot {
    pub(crate) launch: LaunchId,
    pub(crate) workspace: Option<WorkspaceFolder>,
    pub(crate) status: ContainerStatus,
    pub(crate) gpus: Vec<GpuUuid>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) retained: bool,
    pub(crate) files_of: BTreeSet<LaunchId>,
}

impl Container {
    pub(super) fn presence(&self) -> ContainerStatus {
        match (&self.exit, self.started_at) {
            (Some(exit), _) => ContainerStatus::Exited(exit.clone()),
            (None, Some(_)) => ContainerStatus::Running,
            (None, None) => ContainerStatus::Created,
        }
    }

    fn end(&mut self, exit: Exit, now: i64) {
        self.written = self.has_written(now);
        self.fills = None;
        self.exit = Some(exit);
    }

    fn retention(&self, launch: LaunchId) -> Retained {
        Retained {
            attempt: launch.attempt,
            container: self.id.clone(),
            gpus: self.spec.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
            ports: self.spec.ports.clone(),
            bytes: Some(self.written.bytes),
        }
    }

    fn has_written(&self, now: i64) -> DiskUse {
        let filled = self.fills.map_or(0, |(bytes_per_second, since)| {
            let seconds = u64::try_from(now.saturating_sub(since)).unwrap_or(0) / 1_000_000;
            bytes_per_second.saturating_mul(seconds)
        });
        self.written.plus(DiskUse { bytes: filled, files: 0 })
    }
}

impl Engine {
    fn retain(&mut self, launch: LaunchId, now: Timestamp, boot: i64) -> Option<Retained> {
        let up_to_it = |other: &LaunchId| other.rental == launch.rental && other.attempt <= launch.attempt;
        let mut latest = None;
        for (launch, container) in self.containers.iter_mut().filter(|(other, _)| up_to_it(other)) {
            if container.presence() == ContainerStatus::Running {
                container.end(Exit { finished_at: now, code: 137, out_of_memory: false }, boot);
            }
            container.retained = true;
            latest = Some(container.retention(*launch));
        }
        latest
    }

    /// Whether a container was made of the same as another launch of its rental.
    fn is_made_of(&self, launch: LaunchId, spec: &LaunchSpec) -> bool {
        let made_of = |found: &LaunchSpec| LaunchSpec { id: spec.id, ..found.clone() }.hash() == spec.hash();
        self.containers.get(&launch).is_some_and(|container| made_of(&container.spec))
    }
}

impl MemoryRuntime {
    /// An engine whose containers start and end by this clock.
    #[must_use]
    pub fn new(clock: ManualClock) -> Self {
        Self::with_clock(Arc::new(clock))
    }

    /// An engine on any clock.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, engine: Arc::default() }
    }

    pub(super) fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next call of `step` go wrong; several faults are used one after the other.
    pub fn fail_next(&self, step: RuntimeStep, fault: InjectedFault) {
        self.engine().faults.entry(step).or_default().push_back(fault);
    }

    /// Lets the engine answer, or not.
    pub fn set_available(&self, available: bool) {
        self.engine().away = !available;
    }

    /// As after a restart of the engine with another disk: other identity, no containers.
    pub fn become_another_engine(&self) {
        let mut engine = self.engine();
        engine.containers.clear();
        engine.replaced = true;
    }

    /// Ends a container's program.
    pub fn exit(&self, launch: LaunchId, code: i64, out_of_memory: bool) {
        let now = self.clock.now();
        if let Some(container) = self.engine().containers.get_mut(&launch) {
            container.end(Exit { finished_at: now.wall, code, out_of_memory }, now.boot.micros);
        }
    }

    /// Lets containers that are made from now on find so much on the disk, as in a workspace that outlives others.
    pub fn find_written(&self, found: DiskUse) {
        self.engine().found = found;
    }

    /// Lets a container's program have so much on the disk.
    pub fn write(&self, launch: LaunchId, written: DiskUse) {
        if let Some(container) = self.engine().containers.get_mut(&launch) {
            container.written = written;
        }
    }

    /// Lets a container's program write so many bytes a second from now on, for as long as it runs.
    pub fn fill(&self, launch: LaunchId, bytes_per_second: u64) {
        let since = self.clock.now().boot.micros;
        if let Some(container) = self.engine().containers.get_mut(&launch) {
            container.fills = Some((bytes_per_second, since));
        }
    }

    /// Lets the program of every container answer with HTTP on all its published ports, or on none.
    pub fn serve(&self, serves: bool) {
        self.engine().serves = serves;
    }

    /// Lets a container's program print a line.
    pub fn print(&self, launch: LaunchId, line: &str) {
        if let Some(container) = self.engine().containers.get_mut(&launch) {
            container.output.push(line.to_owned());
        }
    }

    /// Whether a container lets in by this credential.
    #[must_use]
    pub fn lets_in(&self, launch: LaunchId, credential: &Credential) -> bool {
        self.engine().containers.get(&launch).is_some_and(|container| container.lets_in == credential.to_plaintext())
    }

    /// The messages that the renter was shown inside a container.
    #[must_use]
    pub fn announced(&self, launch: LaunchId) -> Vec<String> {
        self.engine().containers.get(&launch).map(|container| container.announced.clone()).unwrap_or_default()
    }

    /// Removes a container behind everybody's back.
    pub fn lose(&self, launch: LaunchId) {
        self.engine().containers.remove(&launch);
    }

    /// Which launches run on a GPU at this moment: never more than one.
    #[must_use]
    pub fn running_on(&self, gpu: &GpuUuid) -> Vec<LaunchId> {
        let runs_there = |container: &Container| {
            container.presence() == ContainerStatus::Running && container.spec.gpus.iter().any(|held| held.uuid == *gpu)
        };
        self.engine().containers.iter().filter(|(_, c)| runs_there(c)).map(|(launch, _)| *launch).collect()
    }

    /// All containers, as they are at this moment, whether or not the engine answers.
    #[cfg(feature = "testing")]
    pub(crate) fn snapshot(&self) -> Vec<ContainerSnapshot> {
        let engine = self.engine();
        let snapshot = |(launch, container): (&LaunchId, &Container)| ContainerSnapshot {
            launch: *launch,
            workspace: container.spec.workspace.as_ref().map(|workspace| workspace.folder.clone()),
            status: container.presence(),
            gpus: container.spec.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
            started_at: container.started_at,
            retained: container.retained,
            files_of: container.files_of.clone(),
        };
        engine.containers.iter().map(snapshot).collect()
    }

    /// The folders that outlive containers, each with a number that it keeps as long as it is the same.
    #[must_use]
    pub fn workspaces(&self) -> BTreeMap<WorkspaceFolder, u64> {
        self.engine().workspaces.clone()
    }

    /// All containers.
    #[must_use]
    pub fn containers(&self) -> Vec<LaunchId> {
        self.engine().containers.keys().copied().collect()
    }

    /// Does a step's work under the fault that is scripted for it, if any.
    async fn step<T>(
        &self,
        step: RuntimeStep,
        work: impl FnOnce(&mut Engine, Timestamp) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        let fault = {
            let mut engine = self.engine();
            if engine.away {
                return Err(RuntimeError::Unavailable("the engine is away".into()));
            }
            engine.faults.get_mut(&step).and_then(VecDeque::pop_front)
        };
        let now = self.clock.now().wall;
        match fault {
            Some(InjectedFault::Before(error)) => Err(error),
            Some(InjectedFault::Hang) => std::future::pending().await,
            Some(InjectedFault::Panic) => panic!("scripted panic in {step:?}"),
            Some(InjectedFault::After(error)) => work(&mut self.engine(), now).and(Err(error)),
            None => work(&mut self.engine(), now),
        }
    }
}

/// Any digest will do, as long as one name always has the same.
fn digest_of(image: &ImageRef) -> Option<ImageDigest> {
    ImageDigest::try_from(format!("sha256:{:0>64}", format!("{:x}", image.name().len()))).ok()
}

#[async_trait]
impl ContainerRuntime for MemoryRuntime {
    async fn engine(&self) -> Result<EngineId, RuntimeError> {
        let engine = self.engine();
        if engine.away {
            return Err(RuntimeError::Unavailable("the engine is away".into()));
        }
        let name = if engine.replaced { "another" } else { "memory" };
        Ok(name.parse().unwrap_or_else(|_| unreachable!("a plain word")))
    }

    async fn workspaces_of(&self, renter: &RenterId) -> Result<BTreeSet<WorkspaceFolder>, RuntimeError> {
        Ok(self.engine().workspaces.keys().filter(|folder| folder.is_of(renter)).cloned().collect())
    }

    async fn prepare(
        &self,
        launch: &LaunchSpec,
        _registry: Option<&RegistryLogin>,
        progress: &dyn PullProgress,
    ) -> Result<Prepared, RuntimeError> {
        let total = 64 * 1024 * 1024;
        progress.update(Progress { current_bytes: total, total_bytes: total, status: "simulated pull".to_owned() });
        let digest = digest_of(&launch.image);
        self.step(RuntimeStep::Prepare, |_, _| Ok(Prepared { digest })).await
    }

    async fn create(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<Created, RuntimeError> {
        let (spec, lets_in) = (launch.clone(), secrets.credential.to_plaintext());
        let resolved = Some(ResolvedImage { digest: digest_of(&spec.image), ..ResolvedImage::default() });
        let boot = self.clock.now().boot.micros;
        self.step(RuntimeStep::Create, move |engine, now| {
            let is_over = |launch: &LaunchId, container: &Container| {
                launch.rental == spec.id.rental
                    && (launch.attempt > spec.id.attempt || (*launch == spec.id && container.retained))
            };
            if engine.containers.iter().any(|(launch, container)| is_over(launch, container)) {
                return Err(RuntimeError::Unavailable("the launch is over".into()));
            }
            if let Some(found) = engine.containers.get_mut(&spec.id) {
                if found.spec.hash() != spec.hash() {
                    return Err(RuntimeError::Refused("the name belongs to another container".into()));
                }
                found.lets_in = lets_in;
                // It may have been found with what it has by now.
                let files = if spec.carries_files { Files::Same } else { Files::New };
                return Ok(Created {
                    container: found.id.clone(),
                    gpus_attached: true,
                    is_new: false,
                    image: resolved,
                    files,
                    copied_bytes: 0,
                });
            }
            let before = |launch: &LaunchId| launch.rental == spec.id.rental && launch.attempt < spec.id.attempt;
            let last = engine.containers.keys().filter(|launch| before(launch)).max().copied();
            let last = last.filter(|_| spec.carries_files);
            if let Some(last) = last {
                engine.retain(last, now, boot);
            }
            if let Some(mut last) =
                last.filter(|last| engine.is_made_of(*last, &spec)).and_then(|last| engine.containers.remove(&last))
            {
                let container = last.id.clone();
                last = Container { started_at: None, exit: None, retained: false, lets_in, spec, ..last };
                engine.containers.insert(last.spec.id, last);
                return Ok(Created {
                    container,
                    gpus_attached: true,
                    is_new: true,
                    image: None,
                    files: Files::Same,
                    copied_bytes: 0,
                });
            }
            let (files, files_of, written) = match last.and_then(|last| engine.containers.get(&last)) {
                Some(last) => (Files::Copied, last.files_of.clone(), last.written),
                None if spec.carries_files => (Files::Lost, BTreeSet::new(), engine.found),
                None => (Files::New, BTreeSet::new(), engine.found),
            };
            if let Some(workspace) = &spec.workspace {
                let next = engine.workspaces.len() as u64 + 1;
                engine.workspaces.entry(workspace.folder.clone()).or_insert(next);
            }
            engine.made += 1;
            let id: ContainerId =
                format!("memory{:06}", engine.made).parse().map_err(|error| RuntimeError::Refused(Box::new(error)))?;
            let container = Container {
                id: id.clone(),
                started_at: None,
                exit: None,
                spec,
                lets_in,
                retained: false,
                files_of,
                announced: Vec::new(),
                output: Vec::new(),
                written,
                fills: None,
            };
            engine.containers.insert(container.spec.id, container);
            Ok(Created { container: id, gpus_attached: true, is_new: true, image: resolved, files, copied_bytes: 0 })
        })
        .await
    }

    async fn start(&self, launch: &LaunchSpec) -> Result<Timestamp, RuntimeError> {
        let id = launch.id;
        self.step(RuntimeStep::Start, move |engine, now| {
            let container = engine.containers.get_mut(&id).filter(|container| !container.retained);
            let container = container.ok_or(RuntimeError::Missing)?;
            container.files_of.insert(id);
            Ok(*container.started_at.get_or_insert(now))
        })
        .await
    }

    async fn verify(&self, launch: &LaunchSpec, _within: Duration) -> Result<(), RuntimeError> {
        let id = launch.id;
        self.step(RuntimeStep::Verify, move |engine, _| {
            match engine.containers.get(&id).ok_or(RuntimeError::Missing)?.presence() {
                ContainerStatus::Running => Ok(()),
                ContainerStatus::Exited(exit) => Err(RuntimeError::Exited(exit)),
                ContainerStatus::Created | ContainerStatus::Unknown => Err(RuntimeError::Missing),
            }
        })
        .await
    }

    async fn replace_access(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<(), RuntimeError> {
        let (id, lets_in) = (launch.id, secrets.credential.to_plaintext());
        self.step(RuntimeStep::ReplaceAccess, move |engine, _| {
            engine.containers.get_mut(&id).ok_or(RuntimeError::Missing)?.lets_in = lets_in;
            Ok(())
        })
        .await
    }

    async fn message_user(&self, launch: LaunchId, message: &str) -> Result<(), RuntimeError> {
        let message = message.to_owned();
        self.step(RuntimeStep::Announce, move |engine, _| {
            engine.containers.get_mut(&launch).ok_or(RuntimeError::Missing)?.announced.push(message);
            Ok(())
        })
        .await
    }

    async fn signal_stop(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let engine = self.engine();
        engine.containers.get(&launch).map(|_| ()).ok_or(RuntimeError::Missing)
    }

    async fn stop(&self, launch: LaunchId, _grace: Duration) -> Result<Option<Exit>, RuntimeError> {
        let boot = self.clock.now().boot.micros;
        self.step(RuntimeStep::Stop, move |engine, now| {
            let Some(container) = engine.containers.get_mut(&launch) else { return Ok(None) };
            if container.started_at.is_none() {
                return Ok(None);
            }
            if container.exit.is_none() {
                container.end(Exit { finished_at: now, code: 137, out_of_memory: false }, boot);
            }
            Ok(container.exit.clone())
        })
        .await
    }

    async fn retain(&self, launch: LaunchId) -> Result<Option<Retained>, RuntimeError> {
        let boot = self.clock.now().boot.micros;
        self.step(RuntimeStep::Retain, move |engine, now| Ok(engine.retain(launch, now, boot))).await
    }

    async fn remove(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        self.step(RuntimeStep::Remove, move |engine, _| {
            engine.containers.retain(|other, _| other.rental != launch.rental || other.attempt > launch.attempt);
            Ok(())
        })
        .await
    }

    async fn inspect(&self, launch: LaunchId) -> Result<Option<InspectedContainer>, RuntimeError> {
        self.step(RuntimeStep::Examine, |engine, _| {
            Ok(engine.containers.get(&launch).and_then(|container| {
                Some(InspectedContainer {
                    container: container.id.clone(),
                    claim: container.spec.claim.clone()?,
                    gpus_attached: true,
                    started_at: container.started_at,
                    retained: container.retained.then(|| (container.exit.clone(), container.retention(launch))),
                })
            }))
        })
        .await
    }

    async fn observe(&self, host: &HostId) -> Result<Observation, RuntimeError> {
        self.step(RuntimeStep::Observe, |engine, _| {
            let ours = engine.containers.iter().filter(|(_, container)| container.spec.host == *host);
            Ok(Observation {
                containers: ours
                    .map(|(launch, container)| ObservedContainer {
                        launch: *launch,
                        container: container.id.clone(),
                        status: container.presence(),
                        gpus: container.spec.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
                        ports: container.spec.ports.iter().map(|binding| binding.host).collect(),
                        retained: container.retained,
                    })
                    .collect(),
            })
        })
        .await
    }

    async fn disk_use(&self, launch: &LaunchSpec, _most: Written) -> Result<Written, RuntimeError> {
        let (launch, now) = (launch.id, self.clock.now().boot.micros);
        let written = move |engine: &mut Engine, _| {
            let found = engine.containers.get(&launch).map(|container| container.has_written(now));
            found.map(|container| Written { container, ..Written::default() }).ok_or(RuntimeError::Missing)
        };
        self.step(RuntimeStep::DiskUse, written).await
    }

    async fn services(&self, launch: LaunchId, ports: &[PortBinding]) -> Result<Vec<Service>, RuntimeError> {
        let ports = ports.to_vec();
        self.step(RuntimeStep::Services, move |engine, _| {
            let runs = |container: &Container| container.presence() == ContainerStatus::Running;
            let answers = engine.serves && engine.containers.get(&launch).is_some_and(runs);
            let service =
                |at: PortBinding| Service { container: at.container, host: at.host, protocol: Protocol::Http };
            Ok(if answers { ports.into_iter().map(service).collect() } else { Vec::new() })
        })
        .await
    }

    fn publishes_udp(&self) -> bool {
        true
    }

    fn isolation(&self) -> Isolation {
        Isolation::Enforced
    }

    async fn logs(&self, launch: LaunchId, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let engine = self.engine();
        let output = engine.containers.get(&launch).map(|container| container.output.as_slice()).unwrap_or_default();
        Ok(output[output.len().saturating_sub(lines)..].to_vec())
    }
}

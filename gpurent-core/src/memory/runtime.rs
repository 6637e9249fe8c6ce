//! A container engine in memory, which can be told to fail, to hang and to lose containers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::ManualClock;
use crate::access::Credential;
use crate::clock::Clock;
use crate::gpu::GpuUuid;
use crate::id::{ContainerId, EngineId, HostId, LaunchId};
use crate::lifecycle::Exit;
use crate::runtime::{
    ContainerRuntime, Created, LaunchSpec, Observation, Presence, Progress, PullProgress, RuntimeError, Seen,
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
    /// [`ContainerRuntime::stop`]
    Stop,
    /// [`ContainerRuntime::remove`]
    Remove,
    /// [`ContainerRuntime::observe`]
    Observe,
}

/// What goes wrong.
pub enum Fault {
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
struct Engine {
    away: bool,
    replaced: bool,
    containers: BTreeMap<LaunchId, Container>,
    faults: BTreeMap<RuntimeStep, VecDeque<Fault>>,
    made: u64,
}

struct Container {
    spec: LaunchSpec,
    id: ContainerId,
    started_at: Option<Timestamp>,
    exit: Option<Exit>,
}

impl Container {
    fn presence(&self) -> Presence {
        match (&self.exit, self.started_at) {
            (Some(exit), _) => Presence::Exited(exit.clone()),
            (None, Some(_)) => Presence::Running,
            (None, None) => Presence::Created,
        }
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

    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next call of `step` go wrong; several faults are used one after the other.
    pub fn fail_next(&self, step: RuntimeStep, fault: Fault) {
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
        let finished_at = self.clock.now().wall;
        if let Some(container) = self.engine().containers.get_mut(&launch) {
            container.exit = Some(Exit { finished_at, code, out_of_memory });
        }
    }

    /// Removes a container behind everybody's back.
    pub fn lose(&self, launch: LaunchId) {
        self.engine().containers.remove(&launch);
    }

    /// Which launches run on a GPU at this moment: never more than one.
    #[must_use]
    pub fn running_on(&self, gpu: &GpuUuid) -> Vec<LaunchId> {
        let runs_there = |container: &Container| {
            container.presence() == Presence::Running && container.spec.gpus.iter().any(|held| held.uuid == *gpu)
        };
        self.engine().containers.iter().filter(|(_, c)| runs_there(c)).map(|(launch, _)| *launch).collect()
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
            Some(Fault::Before(error)) => Err(error),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Panic) => panic!("scripted panic in {step:?}"),
            Some(Fault::After(error)) => work(&mut self.engine(), now).and(Err(error)),
            None => work(&mut self.engine(), now),
        }
    }
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

    async fn prepare(&self, _launch: &LaunchSpec, progress: &dyn PullProgress) -> Result<(), RuntimeError> {
        let total = 64 * 1024 * 1024;
        progress.update(Progress { current_bytes: total, total_bytes: total, status: "simulated pull".to_owned() });
        self.step(RuntimeStep::Prepare, |_, _| Ok(())).await
    }

    async fn create(&self, launch: &LaunchSpec, _credential: &Credential) -> Result<Created, RuntimeError> {
        let spec = launch.clone();
        self.step(RuntimeStep::Create, move |engine, _| {
            if let Some(found) = engine.containers.get(&spec.id) {
                if found.spec.hash() != spec.hash() {
                    return Err(RuntimeError::Refused("the name belongs to another container".into()));
                }
                return Ok(Created { container: found.id.clone(), gpus_attached: true });
            }
            engine.made += 1;
            let id: ContainerId =
                format!("memory{:06}", engine.made).parse().map_err(|error| RuntimeError::Refused(Box::new(error)))?;
            let container = Container { id: id.clone(), started_at: None, exit: None, spec };
            engine.containers.insert(container.spec.id, container);
            Ok(Created { container: id, gpus_attached: true })
        })
        .await
    }

    async fn start(&self, launch: &LaunchSpec) -> Result<Timestamp, RuntimeError> {
        let id = launch.id;
        self.step(RuntimeStep::Start, move |engine, now| {
            let container = engine.containers.get_mut(&id).ok_or(RuntimeError::Missing)?;
            Ok(*container.started_at.get_or_insert(now))
        })
        .await
    }

    async fn verify(&self, launch: &LaunchSpec, _within: Duration) -> Result<(), RuntimeError> {
        let id = launch.id;
        self.step(RuntimeStep::Verify, move |engine, _| {
            match engine.containers.get(&id).ok_or(RuntimeError::Missing)?.presence() {
                Presence::Running => Ok(()),
                Presence::Exited(exit) => Err(RuntimeError::Exited(exit)),
                Presence::Created => Err(RuntimeError::Missing),
            }
        })
        .await
    }

    async fn notify(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let engine = self.engine();
        engine.containers.get(&launch).map(|_| ()).ok_or(RuntimeError::Missing)
    }

    async fn stop(&self, launch: LaunchId, _grace: Duration) -> Result<Option<Exit>, RuntimeError> {
        self.step(RuntimeStep::Stop, move |engine, now| {
            let Some(container) = engine.containers.get_mut(&launch) else { return Ok(None) };
            if container.started_at.is_none() {
                return Ok(None);
            }
            let killed = Exit { finished_at: now, code: 137, out_of_memory: false };
            Ok(Some(container.exit.get_or_insert(killed).clone()))
        })
        .await
    }

    async fn remove(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        self.step(RuntimeStep::Remove, move |engine, _| {
            engine.containers.remove(&launch);
            Ok(())
        })
        .await
    }

    async fn observe(&self, host: &HostId) -> Result<Observation, RuntimeError> {
        self.step(RuntimeStep::Observe, |engine, _| {
            let ours = engine.containers.iter().filter(|(_, container)| container.spec.host == *host);
            Ok(Observation {
                containers: ours
                    .map(|(launch, container)| Seen {
                        launch: *launch,
                        container: container.id.clone(),
                        presence: container.presence(),
                    })
                    .collect(),
            })
        })
        .await
    }

    async fn logs(&self, _launch: LaunchId, _lines: usize) -> Result<Vec<String>, RuntimeError> {
        Ok(Vec::new())
    }
}

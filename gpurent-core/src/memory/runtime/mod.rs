//! A container engine in memory, which can be told to fail, to hang and to lose containers.

mod engine;
#[cfg(feature = "testing")]
mod snapshot;
mod steps;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::clock::Clock;
use crate::id::LaunchId;
use crate::memory::ManualClock;
use crate::memory::runtime::engine::{Container, Engine};
#[cfg(feature = "testing")]
pub(crate) use crate::memory::runtime::snapshot::ContainerSnapshot;
use crate::model::{Credential, DiskUse, Exit, GpuUuid, ImageDigest, ImageRef, WorkspaceFolder};
use crate::runtime::{ContainerStatus, RuntimeError};

/// A step of a [`MemoryRuntime`] that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuntimeStep {
    /// [`ContainerRuntime::prepare`](crate::runtime::ContainerRuntime::prepare)
    Prepare,
    /// [`ContainerRuntime::create`](crate::runtime::ContainerRuntime::create)
    Create,
    /// [`ContainerRuntime::start`](crate::runtime::ContainerRuntime::start)
    Start,
    /// [`ContainerRuntime::verify`](crate::runtime::ContainerRuntime::verify)
    Verify,
    /// [`ContainerRuntime::replace_access`](crate::runtime::ContainerRuntime::replace_access)
    ReplaceAccess,
    /// [`ContainerRuntime::message_user`](crate::runtime::ContainerRuntime::message_user)
    MessageUser,
    /// [`ContainerRuntime::stop`](crate::runtime::ContainerRuntime::stop)
    Stop,
    /// [`ContainerRuntime::retain`](crate::runtime::ContainerRuntime::retain)
    Retain,
    /// [`ContainerRuntime::remove`](crate::runtime::ContainerRuntime::remove)
    Remove,
    /// [`ContainerRuntime::inspect`](crate::runtime::ContainerRuntime::inspect)
    Inspect,
    /// [`ContainerRuntime::observe`](crate::runtime::ContainerRuntime::observe)
    Observe,
    /// [`ContainerRuntime::disk_use`](crate::runtime::ContainerRuntime::disk_use)
    DiskUse,
    /// [`ContainerRuntime::services`](crate::runtime::ContainerRuntime::services)
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

    pub(in crate::memory) fn engine(&self) -> MutexGuard<'_, Engine> {
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

    /// Whether a container's program finished, as it does when it is told to.
    #[must_use]
    pub fn has_finished(&self, launch: LaunchId) -> bool {
        self.engine().containers.get(&launch).is_some_and(|container| container.has_finished)
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

//! The steps of a runtime on the fake engine.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::allocation::Written;
use crate::id::{ContainerId, EngineId, HostId, LaunchId, RenterId};
use crate::memory::runtime::engine::{Container, Engine};
use crate::memory::runtime::{MemoryRuntime, RuntimeStep, digest_of};
use crate::model::{
    Exit, Files, PortBinding, Protocol, RegistryLogin, ResolvedImage, Retained, Secrets, Service, WorkspaceFolder,
};
use crate::runtime::{
    ContainerRuntime, ContainerStatus, Created, InspectedContainer, Isolation, LaunchSpec, Observation,
    ObservedContainer, Prepared, Progress, PullProgress, RuntimeError,
};

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
                has_finished: false,
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
        self.step(RuntimeStep::MessageUser, move |engine, _| {
            engine.containers.get_mut(&launch).ok_or(RuntimeError::Missing)?.announced.push(message);
            Ok(())
        })
        .await
    }

    async fn signal_stop(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let mut engine = self.engine();
        engine.containers.get_mut(&launch).ok_or(RuntimeError::Missing)?.has_finished = true;
        Ok(())
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
        self.step(RuntimeStep::Inspect, |engine, _| {
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

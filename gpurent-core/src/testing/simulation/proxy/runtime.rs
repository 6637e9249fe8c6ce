//! The engine behind a faulty line.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::allocation::Written;
use crate::id::{EngineId, HostId, LaunchId};
use crate::memory::MemoryRuntime;
use crate::model::{Exit, PortBinding, RegistryLogin, Retained, Secrets, Service};
use crate::runtime::{
    ContainerRuntime, ContainerStatus, Created, InspectedContainer, Isolation, LaunchSpec, Observation, Prepared,
    Progress, PullProgress, RuntimeError,
};
use crate::testing::simulation::environment::{About, at_once};
use crate::testing::simulation::fault_point::FaultPoint;
use crate::testing::simulation::proxy::FaultProxy;

/// The engine behind a line.
pub(in crate::testing::simulation) struct FaultyRuntime {
    pub(in crate::testing::simulation) proxy: FaultProxy,
    pub(in crate::testing::simulation) engine: MemoryRuntime,
}

struct Silent;

impl PullProgress for Silent {
    fn update(&self, _progress: Progress) {}
}

/// The observation of an engine that answers for running containers alone.
fn half_blind(mut observation: Observation) -> Observation {
    for seen in &mut observation.containers {
        if seen.status != ContainerStatus::Running {
            seen.status = ContainerStatus::Unknown;
        }
    }
    observation
}

fn gone(what: &'static str) -> RuntimeError {
    RuntimeError::Unavailable(what.into())
}

impl FaultyRuntime {
    async fn ask<T: Send + 'static>(
        &self,
        point: FaultPoint,
        about: About,
        effect: impl FnMut(&MemoryRuntime) -> Result<T, RuntimeError> + Send + 'static,
        refused: impl FnOnce() -> RuntimeError,
    ) -> Result<T, RuntimeError> {
        let (engine, mut effect) = (self.engine.clone(), effect);
        let (oracle, host) = (Arc::clone(&self.proxy.oracle), self.proxy.host);
        let reboots = move || oracle.lock().unwrap_or_else(PoisonError::into_inner).hosts[host].reboots;
        let before = reboots();
        // What was under way when the machine went down is gone with it.
        let effect = move || if reboots() == before { effect(&engine) } else { Err(gone("the machine went down")) };
        self.proxy.call(point, about, effect, |what| Err(gone(what)), || Err(refused())).await
    }

    /// Something is about to be changed on the engine.
    fn acts(&self, point: FaultPoint, launch: LaunchId) -> About {
        self.proxy.oracle().acts(self.proxy.process, self.proxy.host, point, launch);
        self.proxy.about(launch.rental, || format!("attempt {}", launch.attempt))
    }
}

#[async_trait]
impl ContainerRuntime for FaultyRuntime {
    async fn engine(&self) -> Result<EngineId, RuntimeError> {
        let about = self.proxy.about_host();
        self.ask(FaultPoint::Engine, about, |engine| at_once(engine.engine()), || gone("refused")).await
    }

    async fn prepare(
        &self,
        launch: &LaunchSpec,
        _registry: Option<&RegistryLogin>,
        _progress: &dyn PullProgress,
    ) -> Result<Prepared, RuntimeError> {
        let about = self.proxy.about(launch.id.rental, String::new);
        let image = launch.image.clone();
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.prepare(&launch, None, &Silent));
        self.ask(FaultPoint::Prepare, about, effect, || RuntimeError::ImageUnavailable { image, source: "no".into() })
            .await
    }

    async fn create(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<Created, RuntimeError> {
        let about = self.acts(FaultPoint::Create, launch.id);
        let (launch, secrets) = (launch.clone(), secrets.clone());
        let effect = move |engine: &MemoryRuntime| at_once(engine.create(&launch, &secrets));
        self.ask(FaultPoint::Create, about, effect, || RuntimeError::Refused("no".into())).await
    }

    async fn start(&self, launch: &LaunchSpec) -> Result<Timestamp, RuntimeError> {
        let about = self.acts(FaultPoint::Start, launch.id);
        let port = launch.ports[0].host;
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.start(&launch));
        self.ask(FaultPoint::Start, about, effect, || RuntimeError::PortTaken { port, source: "no".into() }).await
    }

    async fn verify(&self, launch: &LaunchSpec, within: Duration) -> Result<(), RuntimeError> {
        let about = self.proxy.about(launch.id.rental, String::new);
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.verify(&launch, within));
        self.ask(FaultPoint::Verify, about, effect, || RuntimeError::AccessTimeout(within)).await
    }

    async fn replace_access(&self, launch: &LaunchSpec, secrets: &Secrets) -> Result<(), RuntimeError> {
        let about = self.acts(FaultPoint::ReplaceAccess, launch.id);
        let (launch, secrets) = (launch.clone(), secrets.clone());
        let effect = move |engine: &MemoryRuntime| at_once(engine.replace_access(&launch, &secrets));
        self.ask(FaultPoint::ReplaceAccess, about, effect, || gone("refused")).await
    }

    async fn message_user(&self, launch: LaunchId, message: &str) -> Result<(), RuntimeError> {
        let about = self.acts(FaultPoint::Announce, launch);
        let message = message.to_owned();
        let effect = move |engine: &MemoryRuntime| at_once(engine.message_user(launch, &message));
        self.ask(FaultPoint::Announce, about, effect, || gone("refused")).await
    }

    async fn signal_stop(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let about = self.acts(FaultPoint::Notify, launch);
        self.ask(FaultPoint::Notify, about, move |engine| at_once(engine.signal_stop(launch)), || gone("refused")).await
    }

    async fn stop(&self, launch: LaunchId, grace: Duration) -> Result<Option<Exit>, RuntimeError> {
        let about = self.acts(FaultPoint::Stop, launch);
        let (oracle, environment, host) =
            (Arc::clone(&self.proxy.oracle), self.proxy.environment.clone(), self.proxy.host);
        let effect = move |engine: &MemoryRuntime| {
            oracle.lock().unwrap_or_else(PoisonError::into_inner).stops(&environment, host, launch);
            at_once(engine.stop(launch, grace))
        };
        self.ask(FaultPoint::Stop, about, effect, || gone("refused")).await
    }

    async fn retain(&self, launch: LaunchId) -> Result<Option<Retained>, RuntimeError> {
        let about = self.acts(FaultPoint::Retain, launch);
        let (oracle, environment, host) =
            (Arc::clone(&self.proxy.oracle), self.proxy.environment.clone(), self.proxy.host);
        let effect = move |engine: &MemoryRuntime| {
            oracle.lock().unwrap_or_else(PoisonError::into_inner).retains(environment.now(), host, launch);
            at_once(engine.retain(launch))
        };
        self.ask(FaultPoint::Retain, about, effect, || gone("refused")).await
    }

    async fn remove(&self, launch: LaunchId) -> Result<(), RuntimeError> {
        let about = self.acts(FaultPoint::Remove, launch);
        let (oracle, environment, host) =
            (Arc::clone(&self.proxy.oracle), self.proxy.environment.clone(), self.proxy.host);
        let effect = move |engine: &MemoryRuntime| {
            oracle.lock().unwrap_or_else(PoisonError::into_inner).removes(environment.now(), host, launch);
            at_once(engine.remove(launch))
        };
        self.ask(FaultPoint::Remove, about, effect, || gone("refused")).await
    }

    async fn inspect(&self, launch: LaunchId) -> Result<Option<InspectedContainer>, RuntimeError> {
        let about = About { phases: Vec::new(), ..self.proxy.about(launch.rental, String::new) };
        self.ask(FaultPoint::Examine, about, move |engine| at_once(engine.inspect(launch)), || gone("refused")).await
    }

    async fn observe(&self, host: &HostId) -> Result<Observation, RuntimeError> {
        let about = self.proxy.about_host();
        let (engine, host) = (self.engine.clone(), host.clone());
        let observe = move || at_once(engine.observe(&host));
        let half_blind = {
            let observe = observe.clone();
            move || observe().map(half_blind)
        };
        self.proxy.call(FaultPoint::Observe, about, observe, |what| Err(gone(what)), half_blind).await
    }

    async fn disk_use(&self, launch: &LaunchSpec, most: Written) -> Result<Written, RuntimeError> {
        let about = self.proxy.about(launch.id.rental, String::new);
        let launch = launch.clone();
        let effect = move |engine: &MemoryRuntime| at_once(engine.disk_use(&launch, most));
        self.ask(FaultPoint::DiskUse, about, effect, || gone("refused")).await
    }

    async fn services(&self, launch: LaunchId, ports: &[PortBinding]) -> Result<Vec<Service>, RuntimeError> {
        let about = self.proxy.about(launch.rental, String::new);
        let ports = ports.to_vec();
        let effect = move |engine: &MemoryRuntime| at_once(engine.services(launch, &ports));
        self.ask(FaultPoint::Services, about, effect, || gone("refused")).await
    }

    fn publishes_udp(&self) -> bool {
        self.engine.publishes_udp()
    }

    fn isolation(&self) -> Isolation {
        self.engine.isolation()
    }

    async fn logs(&self, launch: LaunchId, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let about = self.proxy.about(launch.rental, String::new);
        self.ask(FaultPoint::Logs, about, move |engine| at_once(engine.logs(launch, lines)), || gone("refused")).await
    }
}

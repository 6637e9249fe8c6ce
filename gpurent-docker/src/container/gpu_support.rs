//! Whether this engine attaches a launch's GPUs.

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use gpurent_core::runtime::{LaunchSpec, RuntimeError};
use tokio::sync::Mutex;

use crate::access_kit::AccessKit;
use crate::container::trial;
use crate::engine::error::classify;
use crate::engine::state::remove_by_name;

/// The engine's GPU support, as far as it is known.
#[derive(Default)]
pub(crate) struct Attaching {
    /// Whether the engine takes device requests for simulated GPUs, once that is known.
    simulated: Mutex<Option<bool>>,
}

impl Attaching {
    /// Whether the launch's GPUs are asked of the engine. Real ones always are; simulated ones where the
    /// engine has a driver that lets them pass, which is tried out once.
    pub(crate) async fn attaches(
        &self,
        docker: &Docker,
        kit: &AccessKit,
        launch: &LaunchSpec,
    ) -> Result<bool, RuntimeError> {
        if launch.gpus.is_empty() || !launch.gpus.iter().all(|gpu| gpu.simulated) {
            return Ok(!launch.gpus.is_empty());
        }
        let mut known = self.simulated.lock().await;
        if let Some(attaches) = *known {
            return Ok(attaches);
        }
        // On a task of its own: a pull that is cancelled now must not leave the trial's container behind.
        let (docker, body) = (docker.clone(), trial(launch, kit));
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
}

/// Makes, starts and removes a container.
async fn try_out(docker: &Docker, name: &str, body: ContainerCreateBody) -> Result<(), RuntimeError> {
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    docker.create_container(Some(options), body).await.map_err(|error| classify(error, &[]))?;
    let started = docker.start_container(name, None).await.map_err(|error| classify(error, &[]));
    remove_by_name(docker, name).await?;
    started
}

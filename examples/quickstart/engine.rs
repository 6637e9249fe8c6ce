//! The parts that the quickstart runs on: Docker and real GPUs where they are, else stand-ins, always said.

use std::sync::Arc;

use gpurent_core::clock::SystemClock;
use gpurent_core::id::HostId;
use gpurent_core::memory::{MemoryRuntime, SimulatedGpus};
use gpurent_core::model::Gpu;
use gpurent_core::runtime::{ContainerRuntime, GpuProbe};
use gpurent_docker::{AccessKit, DockerRuntime, NvmlGpus};

use crate::Failure;
use crate::telling::Telling;

/// An engine and the GPUs to rent on it.
pub struct Engine {
    /// The engine that runs the containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// The same, where it is Docker.
    pub docker: Option<Arc<DockerRuntime>>,
    /// The GPUs that are rented.
    pub gpus: Vec<Gpu>,
}

/// Finds the best engine there is, and says what is simulated.
pub async fn find(address: &str, host: &HostId, telling: &mut Telling) -> Result<Engine, Failure> {
    let docker = match connect(address).await {
        Ok(docker) => {
            telling.note(&format!("containers: Docker at {address}"));
            Some(Arc::new(docker))
        }
        Err(error) => {
            let causes = std::iter::successors(error.source(), |&cause| cause.source()).last();
            let why = causes.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
            telling.note(&format!("containers: SIMULATED in memory, SSH included ({why})"));
            None
        }
    };
    let gpus = match NvmlGpus::all().discover().await {
        Ok(gpus) if !gpus.is_empty() && docker.is_some() => {
            telling.note("GPUs: this machine's");
            gpus
        }
        _ => {
            telling.note("GPUs: SIMULATED");
            SimulatedGpus::new(host, 1, "NVIDIA GeForce RTX 5090".parse()?).gpus().to_vec()
        }
    };
    let runtime: Arc<dyn ContainerRuntime> = match &docker {
        Some(docker) => docker.clone(),
        None => Arc::new(MemoryRuntime::with_clock(Arc::new(SystemClock::new()))),
    };
    Ok(Engine { runtime, docker, gpus })
}

async fn connect(address: &str) -> Result<DockerRuntime, Failure> {
    let kit = AccessKit::from_host().await?;
    Ok(DockerRuntime::connect(address, kit).await?)
}

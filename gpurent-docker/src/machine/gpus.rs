//! Which NVIDIA GPUs this machine has, asked of the driver's own library (NVML).

use std::collections::BTreeSet;

use async_trait::async_trait;
use gpurent_core::model::{Gpu, GpuUuid};
use gpurent_core::runtime::{GpuLoad, GpuProbe, ProbeError};
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;

/// The machine's GPUs, or some of them.
#[derive(Clone, Debug)]
pub struct NvmlGpus {
    only: Option<BTreeSet<GpuUuid>>,
}

impl NvmlGpus {
    /// All GPUs.
    #[must_use]
    pub fn all() -> Self {
        Self { only: None }
    }

    /// Only these GPUs; one that is not there is an error.
    #[must_use]
    pub fn only(uuids: impl IntoIterator<Item = GpuUuid>) -> Self {
        Self { only: Some(uuids.into_iter().collect()) }
    }
}

#[async_trait]
impl GpuProbe for NvmlGpus {
    async fn discover(&self) -> Result<Vec<Gpu>, ProbeError> {
        // NVML blocks, sometimes for seconds after a driver reset.
        let gpus = tokio::task::spawn_blocking(read).await.map_err(|panic| ProbeError::Unusable(panic.into()))??;
        let Some(only) = &self.only else { return Ok(gpus) };
        let found: Vec<Gpu> = gpus.into_iter().filter(|gpu| only.contains(&gpu.uuid)).collect();
        match only.iter().find(|uuid| !found.iter().any(|gpu| gpu.uuid == **uuid)) {
            Some(missing) => Err(ProbeError::Missing(missing.clone())),
            None => Ok(found),
        }
    }
}

fn read() -> Result<Vec<Gpu>, ProbeError> {
    let nvml = Nvml::init().map_err(|error| ProbeError::NoDriver(error.into()))?;
    let count = nvml.device_count().map_err(|error| ProbeError::Unusable(error.into()))?;
    (0..count).map(|index| describe(&nvml, index).map_err(ProbeError::Unusable)).collect()
}

/// How busy each GPU is. A card that does not tell something (`[N/A]` in nvidia-smi) tells the rest.
pub(crate) fn loads() -> Result<Vec<GpuLoad>, ProbeError> {
    let nvml = Nvml::init().map_err(|error| ProbeError::NoDriver(error.into()))?;
    let count = nvml.device_count().map_err(|error| ProbeError::Unusable(error.into()))?;
    let load = |index| -> Result<GpuLoad, Box<dyn std::error::Error + Send + Sync>> {
        let device = nvml.device_by_index(index)?;
        let watts = |milliwatts: u32| f64::from(milliwatts) / 1000.0;
        Ok(GpuLoad {
            uuid: device.uuid()?.parse()?,
            utilization_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
            memory_used_mib: device.memory_info().ok().map(|memory| memory.used / (1024 * 1024)),
            temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
            power_watts: device.power_usage().ok().map(watts),
            power_limit_watts: device.enforced_power_limit().ok().map(watts),
        })
    };
    (0..count).map(|index| load(index).map_err(ProbeError::Unusable)).collect()
}

fn describe(nvml: &Nvml, index: u32) -> Result<Gpu, Box<dyn std::error::Error + Send + Sync>> {
    let device = nvml.device_by_index(index)?;
    Ok(Gpu {
        uuid: device.uuid()?.parse()?,
        index,
        model: device.name()?.parse()?,
        memory_mib: device.memory_info()?.total / (1024 * 1024),
        // WSL2 has no device nodes, and NVML says so.
        device_node: device_node(&device),
        simulated: false,
    })
}

/// The `<n>` of `/dev/nvidia<n>`; a driver without device nodes has none.
#[cfg(target_os = "linux")]
fn device_node(device: &nvml_wrapper::Device<'_>) -> Option<u32> {
    device.minor_number().ok()
}

#[cfg(not(target_os = "linux"))]
fn device_node(_device: &nvml_wrapper::Device<'_>) -> Option<u32> {
    None
}

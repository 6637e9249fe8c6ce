//! The load of a machine and of its GPUs, for operators' dashboards. No rental depends on it.

use async_trait::async_trait;
use serde::Serialize;

use crate::model::GpuUuid;
use crate::runtime::ProbeError;

/// How busy a machine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MachineLoad {
    /// How busy all CPUs together are.
    pub cpu_percent: f64,
    /// How many CPUs there are.
    pub cpu_count: u32,
    /// How much of the memory is used.
    pub memory_percent: f64,
    /// Bytes.
    pub memory_total: u64,
    /// Bytes.
    pub memory_available: u64,
    /// How much of the disk is used on which images and containers lie.
    pub disk_percent: f64,
    /// Bytes.
    pub disk_total: u64,
    /// Bytes.
    pub disk_free: u64,
    /// Seconds since the machine was started.
    pub uptime_seconds: u64,
}

/// How busy a GPU is; what its driver does not tell is `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GpuLoad {
    /// Which.
    pub uuid: GpuUuid,
    /// How much of the time a program ran on it.
    pub utilization_percent: Option<u32>,
    /// MiB of its memory that are used.
    pub memory_used_mib: Option<u64>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<u32>,
    /// Watts that it draws.
    pub power_watts: Option<f64>,
    /// Watts that it may draw.
    pub power_limit_watts: Option<f64>,
}

/// Tells how busy the machine is.
#[async_trait]
pub trait MachineProbe: Send + Sync + 'static {
    /// How busy it is now, over a moment that this call may take.
    async fn load(&self) -> MachineLoad;

    /// How busy its GPUs are.
    ///
    /// # Errors
    /// [`ProbeError`] where the driver cannot be asked.
    async fn gpus(&self) -> Result<Vec<GpuLoad>, ProbeError> {
        Err(ProbeError::NoDriver("this machine's GPUs are not asked".into()))
    }
}

//! [`MachineProbe`] by the kernel's own counters.

use std::path::PathBuf;

use async_trait::async_trait;
use gpurent_core::runtime::{GpuLoad, MachineLoad, MachineProbe, ProbeError};
use sysinfo::{Disks, MINIMUM_CPU_UPDATE_INTERVAL, System};

/// How busy the machine is on which this process runs.
#[derive(Clone, Debug)]
pub struct LocalMachine {
    data_folder: PathBuf,
}

impl LocalMachine {
    /// Asked about the disk on which `data_folder` lies.
    #[must_use]
    pub fn new(data_folder: PathBuf) -> Self {
        Self { data_folder }
    }
}

fn percent(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { (part as f64 / of as f64 * 1000.0).round() / 10.0 }
}

#[async_trait]
impl MachineProbe for LocalMachine {
    async fn load(&self) -> MachineLoad {
        // Two readings of the counters, with a moment in between.
        let mut system = System::new();
        system.refresh_cpu_usage();
        tokio::time::sleep(MINIMUM_CPU_UPDATE_INTERVAL).await;
        let folder = self.data_folder.clone();
        let read = tokio::task::spawn_blocking(move || {
            system.refresh_cpu_usage();
            system.refresh_memory();
            let disks = Disks::new_with_refreshed_list();
            // The deepest mount that the folder lies below.
            let disk = disks.iter().filter(|disk| folder.starts_with(disk.mount_point()));
            let disk = disk.max_by_key(|disk| disk.mount_point().as_os_str().len());
            let (total, free) = disk.map_or((0, 0), |disk| (disk.total_space(), disk.available_space()));
            let (memory, available) = (system.total_memory(), system.available_memory());
            MachineLoad {
                cpu_percent: f64::from((system.global_cpu_usage() * 10.0).round()) / 10.0,
                cpu_count: u32::try_from(system.cpus().len()).unwrap_or(u32::MAX),
                memory_percent: percent(memory.saturating_sub(available), memory),
                memory_total: memory,
                memory_available: available,
                disk_percent: percent(total.saturating_sub(free), total),
                disk_total: total,
                disk_free: free,
                uptime_seconds: System::uptime(),
            }
        });
        // Only a panic could keep it from being read; a dashboard shows nothing then.
        read.await.unwrap_or_default()
    }

    #[cfg(not(feature = "nvml"))]
    async fn gpus(&self) -> Result<Vec<GpuLoad>, ProbeError> {
        Err(ProbeError::NoDriver("compiled without the feature nvml".into()))
    }

    #[cfg(feature = "nvml")]
    async fn gpus(&self) -> Result<Vec<GpuLoad>, ProbeError> {
        // NVML blocks, sometimes for seconds after a driver reset.
        let read = tokio::task::spawn_blocking(crate::machine::gpus::loads).await;
        read.map_err(|panic| ProbeError::Unusable(panic.into()))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_has_memory_and_a_disk() {
        let load = LocalMachine::new(std::env::temp_dir()).load().await;
        assert!(load.memory_total > load.memory_available && load.memory_available > 0, "{load:?}");
        assert!(load.disk_total >= load.disk_free && load.disk_total > 0, "{load:?}");
        assert!((0.0..=100.0).contains(&load.cpu_percent) && load.cpu_count > 0, "{load:?}");
    }
}

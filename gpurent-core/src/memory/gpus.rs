//! Simulated GPUs: for tests, and for trying out a host on a machine without any.

use async_trait::async_trait;
use uuid::Uuid;

use crate::id::HostId;
use crate::model::{Gpu, GpuModel};
use crate::runtime::{GpuProbe, ProbeError};

/// So many GPUs of a model, with UUIDs that a restart does not change.
#[derive(Clone, Debug)]
pub struct SimulatedGpus {
    gpus: Vec<Gpu>,
}

/// The name space of simulated GPUs' UUIDs.
const NAMESPACE: Uuid = Uuid::from_u128(0x6770_7572_656e_7420_7369_6d75_6c61_7465);

impl SimulatedGpus {
    /// `count` GPUs of one model on a host.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers parse the model in place")]
    pub fn new(host: &HostId, count: u8, model: GpuModel) -> Self {
        let gpus = (0..u32::from(count)).map(|index| {
            let uuid = format!("GPU-{}", Uuid::new_v5(&NAMESPACE, format!("{host}/{index}").as_bytes()));
            Gpu {
                uuid: uuid.parse().unwrap_or_else(|_| unreachable!("{uuid} is a GPU UUID")),
                index,
                memory_mib: model.memory_gb().unwrap_or(24) * 1024,
                model: model.clone(),
                device_node: None,
                simulated: true,
            }
        });
        Self { gpus: gpus.collect() }
    }

    /// The GPUs.
    #[must_use]
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }
}

#[async_trait]
impl GpuProbe for SimulatedGpus {
    async fn discover(&self) -> Result<Vec<Gpu>, ProbeError> {
        Ok(self.gpus.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_finds_the_same_gpus() {
        let gpus = |host: &str| SimulatedGpus::new(&host.parse().unwrap(), 2, "Tesla V100-SXM2-16GB".parse().unwrap());
        assert_eq!(gpus("a").gpus(), gpus("a").gpus());
        assert_ne!(gpus("a").gpus()[0].uuid, gpus("b").gpus()[0].uuid);
        assert_ne!(gpus("a").gpus()[0].uuid, gpus("a").gpus()[1].uuid);
        assert_eq!(gpus("a").gpus()[0].memory_mib, 16384);
    }
}

//! How much of the machine a rental may use.

use serde::{Deserialize, Serialize};

use crate::error::ValidationError;

/// Limits of one container; `None` means the host's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawLimits", into = "RawLimits")]
pub struct ContainerLimits {
    raw: RawLimits,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct RawLimits {
    milli_cpus: Option<u32>,
    memory_bytes: Option<u64>,
    shm_bytes: Option<u64>,
    processes: Option<u32>,
}

const MIB: u64 = 1024 * 1024;

const TIB: u64 = MIB * MIB;

impl ContainerLimits {
    /// Thousandths of a CPU.
    #[must_use]
    pub fn milli_cpus(&self) -> Option<u32> {
        self.raw.milli_cpus
    }

    /// Memory in bytes; swap is never added to it.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        self.raw.memory_bytes
    }

    /// Size of `/dev/shm` in bytes.
    #[must_use]
    pub fn shm_bytes(&self) -> Option<u64> {
        self.raw.shm_bytes
    }

    /// Most processes and threads at once.
    #[must_use]
    pub fn processes(&self) -> Option<u32> {
        self.raw.processes
    }

    /// Sets the CPU limit.
    ///
    /// # Errors
    /// Refuses less than a tenth of a CPU and more than 1024.
    pub fn with_milli_cpus(mut self, milli_cpus: u32) -> Result<Self, ValidationError> {
        self.raw.milli_cpus = Some(milli_cpus);
        self.raw.try_into()
    }

    /// Sets the memory limit.
    ///
    /// # Errors
    /// Refuses less than 16 MiB (Docker's own floor is 6 MiB, below which SSH does not start) and more
    /// than 64 TiB.
    pub fn with_memory_bytes(mut self, bytes: u64) -> Result<Self, ValidationError> {
        self.raw.memory_bytes = Some(bytes);
        self.raw.try_into()
    }

    /// Sets the size of `/dev/shm`.
    ///
    /// # Errors
    /// Refuses less than 1 MiB and more than 64 TiB.
    pub fn with_shm_bytes(mut self, bytes: u64) -> Result<Self, ValidationError> {
        self.raw.shm_bytes = Some(bytes);
        self.raw.try_into()
    }

    /// Sets the process limit.
    ///
    /// # Errors
    /// Refuses fewer than 16 and more than 4 million.
    pub fn with_processes(mut self, processes: u32) -> Result<Self, ValidationError> {
        self.raw.processes = Some(processes);
        self.raw.try_into()
    }
}

impl TryFrom<RawLimits> for ContainerLimits {
    type Error = ValidationError;

    fn try_from(raw: RawLimits) -> Result<Self, ValidationError> {
        if raw.milli_cpus.is_some_and(|cpus| !(100..=1_024_000).contains(&cpus)) {
            return Err(ValidationError::new("cpus", "must be 0.1 to 1024"));
        }
        if raw.memory_bytes.is_some_and(|bytes| !(16 * MIB..=64 * TIB).contains(&bytes)) {
            return Err(ValidationError::new("memory", "must be 16 MiB to 64 TiB"));
        }
        if raw.shm_bytes.is_some_and(|bytes| !(MIB..=64 * TIB).contains(&bytes)) {
            return Err(ValidationError::new("shm", "must be 1 MiB to 64 TiB"));
        }
        if raw.processes.is_some_and(|n| !(16..=4_194_304).contains(&n)) {
            return Err(ValidationError::new("processes", "must be 16 to 4194304"));
        }
        Ok(Self { raw })
    }
}

impl From<ContainerLimits> for RawLimits {
    fn from(limits: ContainerLimits) -> Self {
        limits.raw
    }
}

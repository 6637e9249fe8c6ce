//! Which GPUs a container really sees: the engine's word is not enough, since a driver's hook that fails
//! half-way gives a container all of them, or none.

use std::collections::BTreeSet;

use gpurent_core::runtime::{LaunchSpec, RuntimeError};

/// Refuses a container whose device nodes are not exactly those of the claimed GPUs. GPUs without device nodes (simulated
/// ones, WSL2) cannot be checked this way and are not.
pub(crate) fn check(launch: &LaunchSpec, found: &[u32]) -> Result<(), RuntimeError> {
    let Some(claimed) = launch.gpus.iter().map(|gpu| gpu.device_node).collect::<Option<BTreeSet<u32>>>() else {
        return Ok(());
    };
    let found: BTreeSet<u32> = found.iter().copied().collect();
    if found == claimed {
        return Ok(());
    }
    Err(RuntimeError::WrongDevices { claimed: claimed.into_iter().collect(), found: found.into_iter().collect() })
}

//! Which GPUs a container really sees: the engine's word is not enough, since a driver's hook that fails
//! half-way gives a container all of them, or none.

use std::collections::BTreeSet;

use bollard::Docker;
use gpurent_core::runtime::{LaunchSpec, RuntimeError};

use crate::exec;
use crate::kit::MOUNT;

/// Refuses a container that does not see exactly the claimed GPUs. GPUs without device nodes (simulated
/// ones, WSL2) cannot be checked this way and are not.
pub(crate) async fn check(docker: &Docker, launch: &LaunchSpec) -> Result<(), RuntimeError> {
    let Some(claimed) = launch.gpus.iter().map(|gpu| gpu.device_node).collect::<Option<BTreeSet<u32>>>() else {
        return Ok(());
    };
    let ls = vec![format!("{MOUNT}/bin/ls"), "/dev".to_owned()];
    let found = nodes_in(&exec::run(docker, &launch.id.container_name(), ls).await?);
    if found == claimed {
        return Ok(());
    }
    Err(RuntimeError::WrongDevices { claimed: claimed.into_iter().collect(), found: found.into_iter().collect() })
}

/// The numbers of `nvidia<n>` in a listing of `/dev`; `nvidiactl` and its like are not GPUs.
fn nodes_in(listing: &str) -> BTreeSet<u32> {
    listing.split_whitespace().filter_map(|name| name.strip_prefix("nvidia")?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_told_from_the_drivers_other_devices() {
        assert_eq!(nodes_in("null\nnvidia0\nnvidia12\nnvidia-uvm\nnvidiactl\ntty"), BTreeSet::from([0, 12]));
    }
}

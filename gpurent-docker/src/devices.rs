//! Which GPUs a container really sees: the engine's word is not enough, since a driver's hook that fails
//! half-way gives a container all of them, or none.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::Docker;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures_util::StreamExt;
use gpurent_core::runtime::{LaunchSpec, RuntimeError};

use crate::error::{classify, unavailable};
use crate::kit::MOUNT;

const PATIENCE: Duration = Duration::from_secs(10);

/// Refuses a container that does not see exactly the claimed GPUs. GPUs without device nodes (simulated
/// ones, WSL2) cannot be checked this way and are not.
pub(crate) async fn check(docker: &Docker, launch: &LaunchSpec) -> Result<(), RuntimeError> {
    let Some(claimed) = launch.gpus.iter().map(|gpu| gpu.device_node).collect::<Option<BTreeSet<u32>>>() else {
        return Ok(());
    };
    // The renter's program shares the container with our `ls`, and could stop it.
    let found = tokio::time::timeout(PATIENCE, seen(docker, &launch.id.container_name())).await;
    let found = found.map_err(|late| RuntimeError::Unavailable(Box::new(late)))??;
    if found == claimed {
        return Ok(());
    }
    Err(RuntimeError::WrongDevices { claimed: claimed.into_iter().collect(), found: found.into_iter().collect() })
}

async fn seen(docker: &Docker, container: &str) -> Result<BTreeSet<u32>, RuntimeError> {
    let config = ExecConfig {
        cmd: Some(vec![format!("{MOUNT}/bin/ls"), "/dev".to_owned()]),
        attach_stdout: Some(true),
        user: Some("0:0".to_owned()),
        ..ExecConfig::default()
    };
    let exec = docker.create_exec(container, config).await.map_err(|error| classify(error, &[]))?;
    let started = docker.start_exec(&exec.id, None).await.map_err(|error| classify(error, &[]))?;
    let StartExecResults::Attached { mut output, .. } = started else {
        return Err(RuntimeError::Unavailable("the engine did not attach".into()));
    };
    let mut listing = String::new();
    while let Some(chunk) = output.next().await {
        listing.push_str(&String::from_utf8_lossy(&chunk.map_err(unavailable)?.into_bytes()));
    }
    Ok(nodes_in(&listing))
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

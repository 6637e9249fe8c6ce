//! The parts of a tenant's container: labels from which state can be rebuilt, exactly the claimed
//! GPUs and ports, and the hardening that every tenant gets.

pub(crate) mod device_check;
pub(crate) mod disk_use;
pub(crate) mod gpu_support;
pub(crate) mod mounts;
pub(crate) mod names;
pub(crate) mod screening;
pub(crate) mod share;

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HealthConfig, HostConfig, HostConfigLogConfig, ImageConfig, Mount, PortBinding,
    RestartPolicy, RestartPolicyNameEnum,
};
use gpurent_access::paths::{PROGRAM, RUN, SSH_PORT};
use gpurent_core::runtime::{LaunchSpec, RuntimeError, labels};

use crate::access_kit::AccessKit;
use crate::access_kit::volume::kit_mount;
use crate::container::share::Share;
use crate::engine::helper_image;
use crate::network;

/// The id of the image that the rental asked for, of a container that was made with the files of the one before it.
pub(crate) const LABEL_IMAGE: &str = "io.gpurent.image";
/// The rental whose files an image holds.
pub(crate) const LABEL_FILES_OF: &str = "io.gpurent.files-of";

/// A container that only finds out whether the engine attaches these GPUs: it runs our own program, which ends at once.
pub(crate) fn trial(launch: &LaunchSpec, kit: &AccessKit) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(helper_image::image()),
        entrypoint: Some(vec![text(PROGRAM), text("true")]),
        user: Some(text("0:0")),
        host_config: Some(HostConfig {
            network_mode: Some(text("none")),
            device_requests: Some(device_requests(launch)),
            mounts: Some(vec![kit_mount(kit, true)]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

const MOST_SHM: i64 = 8 * 1024 * 1024 * 1024;

fn text(value: &str) -> String {
    value.to_owned()
}

/// The whole request. `host` is what it sees of the host: its workspace, and where its credentials come from unless
/// they are uploaded later.
pub(crate) fn body(
    launch: &LaunchSpec,
    image: &ImageConfig,
    kit: &AccessKit,
    share: Share,
    attach_gpus: bool,
    sudo: bool,
    host: Vec<Mount>,
) -> ContainerCreateBody {
    let program = [image.entrypoint.clone().unwrap_or_default(), image.cmd.clone().unwrap_or_default()].concat();
    let port_key = |binding: &gpurent_core::model::PortBinding| {
        // Inside, ours listens where no image's own server does.
        let inside = if binding.is_ssh() { SSH_PORT } else { binding.container.get() };
        format!("{inside}/{}", binding.transport)
    };
    ContainerCreateBody {
        image: Some(crate::image::full_name(&launch.image)),
        entrypoint: Some(vec![text(PROGRAM), text("start")]),
        cmd: Some(program),
        // Open and never written to: a shell or an interpreter waits there, as it would on a terminal.
        open_stdin: Some(true),
        // The image's own: whichever process is the first understands it.
        stop_signal: image.stop_signal.clone(),
        // Run by the engine, at the image's own pace and outside of the tenant's limits; nobody would look at it.
        healthcheck: Some(HealthConfig { test: Some(vec![text("NONE")]), ..HealthConfig::default() }),
        // The entry point lets the renter in, which takes root; the image's own user runs its program.
        user: Some(text("0:0")),
        env: Some(environment(launch, image)),
        labels: Some(emptied(image).into_iter().chain(labels::of(launch, attach_gpus)).collect()),
        exposed_ports: Some(launch.ports.iter().map(port_key).collect()),
        host_config: Some(HostConfig {
            port_bindings: Some(
                launch
                    .ports
                    .iter()
                    .map(|binding| {
                        let host = PortBinding { host_ip: None, host_port: Some(binding.host.to_string()) };
                        (port_key(binding), Some(vec![host]))
                    })
                    .collect(),
            ),
            device_requests: attach_gpus.then(|| device_requests(launch)),
            mounts: Some([kit_mount(kit, true)].into_iter().chain(host).collect()),
            tmpfs: Some(HashMap::from([(text(RUN), text("rw,nosuid,nodev,noexec,mode=755,size=16m"))])),
            ..hardened(launch, share, sudo)
        }),
        ..ContainerCreateBody::default()
    }
}

/// So many volumes of its own an image may have. For each the engine makes a folder, fills it with what the image has there,
/// and mounts it, outside of any limit.
const MOST_VOLUMES: usize = 32;

/// Refuses an image that has volumes where the host's own files are, or very many.
///
/// # Errors
/// [`RuntimeError::NoLogin`], by the image's doing.
pub(crate) fn expect_ordinary_volumes(image: &ImageConfig) -> Result<(), RuntimeError> {
    let count = image.volumes.as_ref().map_or(0, |volumes| volumes.len());
    let reason = match foreign_volume(image) {
        Some(volume) => format!("the image has a volume at {volume}, where the host's own files are"),
        None if count > MOST_VOLUMES => format!("the image has {count} volumes, and may have {MOST_VOLUMES}"),
        None => return Ok(()),
    };
    Err(RuntimeError::NoLogin { by_image: true, reason })
}

fn foreign_volume(image: &ImageConfig) -> Option<&str> {
    let volumes = image.volumes.as_ref()?;
    let below = |path: &&String| path.split('/').find(|part| !part.is_empty() && *part != ".") == Some(".gpurent");
    volumes.iter().find(|path| below(path) || path.contains("..")).map(String::as_str)
}

/// The limits and locks that every tenant's container has. Where the operator allows sudo, one of the locks is off.
fn hardened(launch: &LaunchSpec, share: Share, sudo: bool) -> HostConfig {
    let limits = &launch.limits;
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let memory = limits.memory_bytes().map_or(share.memory, signed);
    HostConfig {
        network_mode: Some(text(network::NAME)),
        nano_cpus: Some(limits.milli_cpus().map_or(share.nano_cpus, |milli| i64::from(milli) * 1_000_000)),
        memory: Some(memory),
        // Equal to the memory: no swap.
        memory_swap: Some(memory),
        shm_size: Some(limits.shm_bytes().map_or((memory / 2).min(MOST_SHM), signed)),
        pids_limit: Some(limits.processes().map_or(share.processes, i64::from)),
        // Ours is one, where the image's is not.
        init: Some(false),
        privileged: Some(false),
        // Docker's defaults less these two; dropping all breaks apt, tar and pip.
        cap_drop: Some(vec![text("NET_RAW"), text("MKNOD")]),
        security_opt: (!sudo).then(|| vec![text("no-new-privileges")]),
        ipc_mode: Some(text("private")),
        // What ended stays ended until the reconciler says otherwise.
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        log_config: Some(HostConfigLogConfig {
            typ: Some(text("json-file")),
            config: Some(HashMap::from([(text("max-size"), text("10m")), (text("max-file"), text("3"))])),
        }),
        ..HostConfig::default()
    }
}

/// Exactly the claimed GPUs, as `docker run --gpus device=UUID` asks for them.
fn device_requests(launch: &LaunchSpec) -> Vec<DeviceRequest> {
    if launch.gpus.is_empty() {
        return Vec::new();
    }
    vec![DeviceRequest {
        driver: Some(String::new()),
        count: Some(0),
        device_ids: Some(launch.gpus.iter().map(|gpu| gpu.uuid.to_string()).collect()),
        capabilities: Some(vec![vec![text("gpu")]]),
        options: Some(HashMap::new()),
    }]
}

/// Variables for which NVIDIA's hook gives a container devices of the machine's own, for an image's word alone
/// (<https://github.com/NVIDIA/nvidia-container-toolkit>, `cmd/nvidia-container-runtime-hook`). An empty word asks for none.
const ASKS_FOR_DEVICES: [&str; 7] = [
    "NVIDIA_GDRCOPY",
    "NVIDIA_GDS",
    "NVIDIA_IMEX_CHANNELS",
    "NVIDIA_MIG_CONFIG_DEVICES",
    "NVIDIA_MIG_MONITOR_DEVICES",
    "NVIDIA_MOFED",
    "NVIDIA_NVSWITCH",
];

fn environment(launch: &LaunchSpec, image: &ImageConfig) -> Vec<String> {
    let mut variables: Vec<String> = launch.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let names = image.env.iter().flatten().filter_map(|variable| variable.split_once('=')).map(|(name, _)| name);
    variables.extend(names.filter(|name| ASKS_FOR_DEVICES.contains(name)).map(|name| format!("{name}=")));
    let visible = match launch.gpus.as_slice() {
        // "none" would still load the driver's libraries; "void" means no GPU at all.
        [] => text("void"),
        gpus => gpus.iter().map(|gpu| gpu.uuid.as_str()).collect::<Vec<_>>().join(","),
    };
    variables.push(format!("NVIDIA_VISIBLE_DEVICES={visible}"));
    if launch.environment.get("CUDA_VISIBLE_DEVICES").is_none() && !launch.gpus.is_empty() {
        // CUDA counts inside the container, whatever the host's indices are.
        let indices: Vec<_> = (0..launch.gpus.len()).map(|index| index.to_string()).collect();
        variables.push(format!("CUDA_VISIBLE_DEVICES={}", indices.join(",")));
    }
    if launch.environment.get("RENTAL_ID").is_none() {
        variables.push(format!("RENTAL_ID={}", launch.id.rental));
    }
    variables
}

/// An image's labels without their values, which other programs of the machine would believe: they publish containers to the
/// world by them, restart them, run commands for them.
pub(crate) fn emptied(image: &ImageConfig) -> HashMap<String, String> {
    let names = image.labels.as_ref().into_iter().flat_map(|labels| labels.keys());
    names.map(|name| (text(name), String::new())).collect()
}

//! A probe of the tenants' isolation: what is set is one thing, what packets do another. Two containers of our own are on the
//! tenants' network for a moment; one tries to reach the other, and a port that this process opens on the host for it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, ListContainersOptionsBuilder, WaitContainerOptions};
use futures_util::StreamExt;
use gpurent_access::paths::PROGRAM;
use gpurent_core::id::RentalId;
use gpurent_core::runtime::RuntimeError;
use tokio::net::TcpListener;

use crate::access_kit::AccessKit;
use crate::access_kit::volume::kit_mount;
use crate::engine::error::{classify, unavailable};
use crate::engine::helper_image;
use crate::engine::state::remove_by_name;
use crate::network;
use crate::network::firewall::Firewall;

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// The port at which one container waits for the other.
const PORT: u16 = 7;

/// Begins the names of a probe's containers.
const NAME: &str = "gpurent-probe-";
/// A probe that is older was given up: its process died.
const GIVEN_UP: i64 = 120;

/// The places that a tenant could reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) neighbour: bool,
    pub(crate) host: bool,
}

/// Finds out what a tenant reaches.
///
/// # Errors
/// Where nobody can tell: the engine does not run the containers, or not in time.
pub(crate) async fn probe(docker: &Docker, kit: &AccessKit, firewall: &Firewall) -> Result<Reached, RuntimeError> {
    helper_image::ensure(docker).await?;
    sweep(docker).await?;
    let name = format!("{NAME}{}", RentalId::generate());
    let names = [format!("{name}-a"), format!("{name}-b")];
    let probed = tokio::time::timeout(PROBE_TIMEOUT, between(docker, kit, &names, firewall)).await;
    let [one, other] = &names;
    // Both, whatever becomes of the first.
    let removed = [remove_by_name(docker, one).await, remove_by_name(docker, other).await];
    removed.into_iter().collect::<Result<(), _>>()?;
    probed.map_err(|late| RuntimeError::Unavailable(Box::new(late)))?
}

/// Removes what a probe left whose process died meanwhile.
async fn sweep(docker: &Docker) -> Result<(), RuntimeError> {
    let filters = HashMap::from([("name".to_owned(), vec![format!("^/{NAME}")])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let now = jiff::Timestamp::now().as_second();
    for found in docker.list_containers(Some(options)).await.map_err(unavailable)? {
        let old = found.created.is_some_and(|created| now - created > GIVEN_UP);
        if let Some(id) = found.id.filter(|_| old) {
            remove_by_name(docker, &id).await?;
        }
    }
    Ok(())
}

async fn between(
    docker: &Docker,
    kit: &AccessKit,
    [waiting, reaching]: &[String; 2],
    firewall: &Firewall,
) -> Result<Reached, RuntimeError> {
    let cannot_tell = |what: &str| RuntimeError::Unavailable(what.into());
    start(docker, kit, waiting, &["await", &PORT.to_string()]).await?;
    firewall.isolate_new().await;
    let found = docker.inspect_container(waiting, None).await.map_err(unavailable)?;
    let network = found.network_settings.and_then(|settings| settings.networks?.remove(network::NAME));
    let network = network.ok_or_else(|| cannot_tell("the engine does not tell the probe's network"))?;
    let address = |text: Option<String>| text.and_then(|text| text.parse::<Ipv4Addr>().ok());
    let (Some(neighbour), Some(gateway)) = (address(network.ip_address), address(network.gateway)) else {
        return Err(cannot_tell("the engine does not tell the probe's address"));
    };
    // On the address by which tenants know the host, and on no other.
    let listener = TcpListener::bind((gateway, 0)).await.map_err(|error| RuntimeError::Unavailable(Box::new(error)))?;
    let host = listener.local_addr().map_err(|error| RuntimeError::Unavailable(Box::new(error)))?;
    let neighbour = SocketAddr::from((neighbour, PORT));
    start(docker, kit, reaching, &["reach", &neighbour.to_string(), &host.to_string()]).await?;
    firewall.isolate_new().await;
    let mut waits = docker.wait_container(reaching, None::<WaitContainerOptions>);
    let code = match waits.next().await {
        Some(Ok(ended)) => ended.status_code,
        // How bollard tells of an exit code that is not 0.
        Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => code,
        Some(Err(error)) => return Err(unavailable(error)),
        None => return Err(cannot_tell("the engine does not tell how the probe ended")),
    };
    match code {
        0..=3 => Ok(Reached { neighbour: code & 1 != 0, host: code & 2 != 0 }),
        _ => Err(cannot_tell("the probe could not be run in its container")),
    }
}

async fn start(docker: &Docker, kit: &AccessKit, name: &str, command: &[&str]) -> Result<(), RuntimeError> {
    let text = |text: &str| text.to_owned();
    let body = ContainerCreateBody {
        image: Some(helper_image::image()),
        entrypoint: Some([PROGRAM].iter().chain(command).map(|word| text(word)).collect()),
        user: Some(text("0:0")),
        host_config: Some(HostConfig {
            network_mode: Some(text(network::NAME)),
            mounts: Some(vec![kit_mount(kit, true)]),
            cap_drop: Some(vec![text("ALL")]),
            security_opt: Some(vec![text("no-new-privileges")]),
            readonly_rootfs: Some(true),
            memory: Some(64 * 1024 * 1024),
            pids_limit: Some(16),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    docker.create_container(Some(options), body).await.map_err(|error| classify(error, &[]))?;
    docker.start_container(name, None).await.map_err(|error| classify(error, &[]))
}

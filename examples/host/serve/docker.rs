//! The Docker Engine that the host rents out by, as its settings say.

use std::path::Path;

use gpurent_core::model::Gpu;
use gpurent_docker::{AccessDir, DockerConnection, DockerHost, DockerHostError};

use super::Failure;
use crate::config::Serve;
use crate::database;

/// Connects to the engine and makes it this agent's.
pub async fn connect(settings: &Serve, gpus: Vec<Gpu>) -> Result<DockerConnection, Failure> {
    let address = settings.engine.address();
    let is_local = address.is_local();
    let mut docker = DockerHost::new(address, settings.host()?, settings.data_dir.clone(), gpus)
        .without_gpu(settings.rent_without_gpu.0)
        .lock_in(settings.lock_dir.clone())
        .disk_reserve(settings.disk_reserve_mib.saturating_mul(1024 * 1024));
    if let Some(folder) = database::file_of(&settings.database, &settings.data_dir).as_deref().and_then(Path::parent) {
        docker = docker.has_room_in(folder.to_owned());
    }
    docker = match settings.access_dir.as_deref() {
        Some(none) if none.as_os_str() == "none" => docker.upload_credentials(),
        Some(folder) if is_local => {
            let named =
                |error| format!("--access-dir {}: {error}; name a folder on a tmpfs, or none", folder.display());
            docker.access_dir(AccessDir::new(folder).map_err(named)?)
        }
        Some(_) | None => docker,
    };
    if is_local {
        docker = docker.workspaces(settings.workspaces.root(&settings.data_dir)?);
    }
    let registries = settings.registries();
    let (sudo, private_networks) = (settings.allow_sudo, settings.allow_private_networks);
    let (any_machine, no_firewall) = (settings.any_machine, settings.no_firewall);
    let docker = docker.runtime(move |mut runtime| {
        runtime = runtime.with_registries(registries);
        if sudo {
            runtime = runtime.with_sudo();
        }
        if private_networks {
            runtime = runtime.with_private_networks();
        }
        if any_machine {
            runtime = runtime.on_any_machine();
        }
        if no_firewall { runtime.without_firewall() } else { runtime }
    });
    docker.connect().await.map_err(|error| match error {
        DockerHostError::Engine(source) => Failure::from(super::Unusable {
            what: "no container engine to rent out by: is Docker installed and started? --docker names another address",
            source: source.into(),
        }),
        DockerHostError::Folder { folder, source } => {
            format!("--access-dir {}: {source}; name a folder on a tmpfs, or none", folder.display()).into()
        }
        error => error.into(),
    })
}

//! The names of tenants' containers, by which a container is known to be one of ours.
//!
//! Labels alone prove nothing, since an image brings its own; a name can be given by nobody but whoever makes the
//! container. It need not be keyed: without the rental's id, which is random, nobody tells one from the other, and a key
//! that is lost would leave tenants whom nobody ends.

use std::collections::{BTreeSet, HashMap};

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptionsBuilder;
use gpurent_core::id::LaunchId;
use gpurent_core::runtime::RuntimeError;
use tokio::sync::OnceCell;

use crate::container::{LABEL_HOST, launch_of};
use crate::error::unavailable;
use crate::kit::former;

/// The names of an engine's tenants.
#[derive(Default)]
pub(crate) struct Names {
    /// Launches whose containers have the name that the former version gave them. It makes no new ones beside us.
    former: OnceCell<BTreeSet<LaunchId>>,
}

impl Names {
    /// The name of a launch's container, whether or not there is one.
    pub(crate) async fn of(&self, docker: &Docker, launch: LaunchId) -> Result<String, RuntimeError> {
        let former = self.former.get_or_try_init(|| find_former(docker)).await?;
        Ok(if former.contains(&launch) { former::container_name(launch) } else { launch.container_name() })
    }
}

async fn find_former(docker: &Docker) -> Result<BTreeSet<LaunchId>, RuntimeError> {
    let filters = HashMap::from([("label".to_owned(), vec![LABEL_HOST.to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let listed = docker.list_containers(Some(options)).await.map_err(unavailable)?;
    let has_former_name = |container: &ContainerSummary| {
        let launch = launch_of(container.labels.as_ref()?)?;
        has_name(container, &former::container_name(launch)).then_some(launch)
    };
    Ok(listed.iter().filter_map(has_former_name).collect())
}

fn has_name(container: &ContainerSummary, name: &str) -> bool {
    let names = container.names.as_deref().unwrap_or_default();
    // Docker writes it with a slash before it.
    names.iter().any(|found| found.strip_prefix('/') == Some(name))
}

/// The launch that a listed container was made for; `None` for one that only says so.
pub(crate) fn launch_in(container: &ContainerSummary) -> Option<LaunchId> {
    let launch = launch_of(container.labels.as_ref()?)?;
    let ours = [launch.container_name(), former::container_name(launch)];
    ours.iter().any(|name| has_name(container, name)).then_some(launch)
}

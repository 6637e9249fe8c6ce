//! The names of tenants' containers, by which a container is known to be one of ours, and which launch of its rental it is.
//!
//! Labels alone prove nothing, since an image brings its own; a name can be given by nobody but whoever makes or renames the
//! container. It need not be keyed: without the rental's id, which is random, nobody tells one from the other, and a key
//! that is lost would leave tenants whom nobody ends. Labels stay as they were when the container was made; its name also
//! says whether it was put away, and for which launch it is started again.

use std::collections::{BTreeMap, HashMap};

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptionsBuilder;
use gpurent_core::id::{Attempt, LaunchId, RentalId};
use gpurent_core::runtime::{RuntimeError, labels};
use tokio::sync::OnceCell;

use crate::access_kit::former;
use crate::engine::error::unavailable;

/// The standing of a container, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The container is its launch's.
    Current,
    /// The container was put away, and now belongs to this launch, which has not started it yet.
    TakenUp,
    /// The container was put away.
    Retained,
}

impl Standing {
    fn suffix(self) -> &'static str {
        match self {
            Self::Current => "",
            Self::TakenUp => "-taken-up",
            Self::Retained => "-retained",
        }
    }

    /// The name of a launch's container that stands so. One that stands as its launch's may have a former version's.
    pub(crate) fn name(self, launch: LaunchId) -> String {
        format!("{}{}", launch.container_name(), self.suffix())
    }
}

/// A container of ours, as it is listed.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) launch: LaunchId,
    pub(crate) standing: Standing,
    /// As it is listed.
    pub(crate) name: String,
    pub(crate) listed: ContainerSummary,
}

impl Named {
    /// The engine's id of it.
    pub(crate) fn id(&self) -> &str {
        self.listed.id.as_deref().unwrap_or_default()
    }

    /// A listed container, if it is one of ours and does not only say so.
    pub(crate) fn of(listed: ContainerSummary) -> Option<Self> {
        let made_for = labels::launch_of(listed.labels.as_ref()?)?;
        // Docker writes them with a slash before them.
        let names = listed.names.iter().flatten().filter_map(|name| name.strip_prefix('/'));
        let named =
            |name: &str| understand(name, made_for).map(|(launch, standing)| (name.to_owned(), launch, standing));
        let (name, launch, standing) = names.filter_map(named).next()?;
        Some(Self { launch, standing, name, listed })
    }
}

/// The launch and the standing that a name tells of a container that was made for a launch of that rental.
fn understand(name: &str, made_for: LaunchId) -> Option<(LaunchId, Standing)> {
    if former::names(made_for).iter().any(|former| former == name) {
        return Some((made_for, Standing::Current));
    }
    for standing in [Standing::TakenUp, Standing::Retained, Standing::Current] {
        let Some((_, number)) = name.strip_suffix(standing.suffix()).and_then(|name| name.rsplit_once('-')) else {
            continue;
        };
        let Ok(attempt) = number.parse().map(Attempt::new) else { continue };
        let launch = LaunchId { attempt, ..made_for };
        if standing.name(launch) == name {
            return Some((launch, standing));
        }
    }
    None
}

/// The names of an engine's tenants.
#[derive(Default)]
pub(crate) struct Names {
    /// The names that former versions gave to containers. They make no new ones beside us.
    former: OnceCell<BTreeMap<LaunchId, String>>,
}

impl Names {
    /// The name of a launch's container, whether or not there is one.
    pub(crate) async fn of(&self, docker: &Docker, launch: LaunchId) -> Result<String, RuntimeError> {
        let former = self.former.get_or_try_init(|| find_former(docker)).await?;
        Ok(former.get(&launch).cloned().unwrap_or_else(|| launch.container_name()))
    }
}

async fn find_former(docker: &Docker) -> Result<BTreeMap<LaunchId, String>, RuntimeError> {
    let former = |container: ContainerSummary| {
        let launch = labels::launch_of(container.labels.as_ref()?)?;
        let has_name = |name: &String| {
            let names = container.names.as_deref().unwrap_or_default();
            names.iter().any(|found| found.strip_prefix('/') == Some(name))
        };
        former::names(launch).into_iter().find(has_name).map(|name| (launch, name))
    };
    Ok(list(docker, labels::HOST.to_owned()).await?.into_iter().filter_map(former).collect())
}

/// Every container that carries a label, in whatever state.
pub(crate) async fn list(docker: &Docker, label: String) -> Result<Vec<ContainerSummary>, RuntimeError> {
    let filters = HashMap::from([("label".to_owned(), vec![label])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    docker.list_containers(Some(options)).await.map_err(unavailable)
}

/// The containers of a rental's launches, the latest last.
pub(crate) async fn of_rental(docker: &Docker, rental: RentalId) -> Result<Vec<Named>, RuntimeError> {
    let listed = list(docker, format!("{}={rental}", labels::RENTAL)).await?;
    let mut ours: Vec<Named> = listed.into_iter().filter_map(Named::of).collect();
    ours.sort_by_key(|named| named.launch.attempt);
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_launch_it_is_and_how_it_stands() {
        let rental = RentalId::generate();
        let launch = |attempt| LaunchId { rental, attempt: Attempt::new(attempt) };
        for standing in [Standing::Current, Standing::TakenUp, Standing::Retained] {
            assert_eq!(understand(&standing.name(launch(12)), launch(3)), Some((launch(12), standing)));
        }
        assert_eq!(understand(&former::names(launch(3))[0], launch(3)), Some((launch(3), Standing::Current)));
        assert_eq!(understand(&former::names(launch(3))[0], launch(4)), None);
        let other = LaunchId { rental: RentalId::generate(), ..launch(3) };
        assert_eq!(understand(&launch(3).container_name(), other), None, "another rental's");
        for name in ["", "x", "gpurent--", "gpurent-3", &format!("{}-kept", launch(3).container_name())] {
            assert_eq!(understand(name, launch(3)), None, "{name}");
        }
    }
}

//! Screening of an image before a container is made of it: what the engine itself would open, or copy, for it.
//!
//! The engine opens `/etc/passwd` and `/etc/group` of a container's own file system at its start, to find out whom it runs
//! as, also where the user is given as numbers (<https://github.com/moby/moby/blob/v20.10.24/daemon/oci_linux.go>,
//! `getUser`); so does its archiver, with the mounts over it. A pipe there blocks it for ever, with the container's lock
//! held: then nothing can be said of that container any more, and it can be neither started nor removed. And when a container
//! is made the engine copies what the image has at its volumes, however much that is.
//!
//! So a container is made first that has tmpfs in place of volumes, mounts nothing and never runs, and the files are looked
//! at in it by requests that open nothing; then, for an image with volumes, one that has them and never runs either. No
//! rental waits for a container of its own before the engine has come back from both. What is found is true of every
//! container of the image.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::container::PathStatResponse;
use bollard::models::{ContainerCreateBody, HostConfig, ImageConfig};
use bollard::query_parameters::{ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder};
use gpurent_access::paths::{ACCESS, KIT, RUN};
use gpurent_core::id::RentalId;
use gpurent_core::model::MountPath;
use gpurent_core::runtime::RuntimeError;

use crate::container::emptied;
use crate::engine::error::{classify, is_missing};
use crate::engine::state::remove_by_name;

/// The files that the engine reads whole at each start, and how large they may be, in bytes.
const ACCOUNT_FILES: [&str; 2] = ["/etc/passwd", "/etc/group"];
const MOST_OF_A_FILE: i64 = 4 * 1024 * 1024;

/// How long the look at one image may take, and how long the engine may copy its volumes.
const SCREENING_TIMEOUT: Duration = Duration::from_secs(30);
const COPY_TIMEOUT: Duration = Duration::from_secs(90);

/// The number of images that are remembered; then all are forgotten, and looked at again.
const MOST_REMEMBERED: usize = 1024;

/// The folders of the host's own files in a container.
const OURS: [&str; 2] = ["/.gpurent", "/.gp"];

/// Bits of a mode as Go writes it, by which the engine tells a file's kind (<https://pkg.go.dev/io/fs#FileMode>).
mod mode {
    pub(crate) const LINK: u32 = 1 << 27;
    const DEVICE: u32 = 1 << 26;
    const PIPE: u32 = 1 << 25;
    const SOCKET: u32 = 1 << 24;
    const CHARACTER_DEVICE: u32 = 1 << 21;
    const IRREGULAR: u32 = 1 << 19;
    /// Every kind that is neither a folder nor a file that ends.
    pub(crate) const SPECIAL: u32 = DEVICE | PIPE | SOCKET | CHARACTER_DEVICE | IRREGULAR;
}

/// An image by its id, which stands for all of its content, and where a workspace is mounted in it.
type Subject = (String, Option<String>);

/// The images that were found harmless.
#[derive(Default)]
pub(crate) struct Screening(Mutex<HashSet<Subject>>);

impl Screening {
    fn known(&self) -> MutexGuard<'_, HashSet<Subject>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the engine can make and start containers of an image, with a workspace mounted there or none, and
    /// that nothing of it lies over the host's own files.
    ///
    /// # Errors
    /// [`RuntimeError::NoLogin`], by the image's doing, where it could not.
    pub(crate) async fn expect_harmless(
        &self,
        docker: &Docker,
        id: &str,
        workspace: Option<&MountPath>,
    ) -> Result<(), RuntimeError> {
        let subject = (id.to_owned(), workspace.map(ToString::to_string));
        if self.known().contains(&subject) {
            return Ok(());
        }
        let config = docker.inspect_image(id).await.map_err(|error| classify(error, &[]))?.config.unwrap_or_default();
        let name = format!("gpurent-look-{}", RentalId::generate());
        let look = tokio::time::timeout(SCREENING_TIMEOUT, look(docker, &name, id, &config, workspace)).await;
        // It was never started: at worst an empty container is left.
        if let Err(error) = remove_by_name(docker, &name).await {
            tracing::warn!(name, error = &error as &dyn std::error::Error, "a container that never ran is left over");
        }
        look.unwrap_or_else(|late| Err(RuntimeError::Unavailable(Box::new(late))))?;
        if config.volumes.as_ref().is_some_and(|volumes| !volumes.is_empty()) {
            copy(docker, &format!("{name}-copy"), id, &config).await?;
        }
        let mut known = self.known();
        if known.len() >= MOST_REMEMBERED {
            known.clear();
        }
        known.insert(subject);
        Ok(())
    }

    /// Makes sure of the same for a container that ran and is to be started again: its tenant may have changed everything
    /// that lies in it. Not remembered.
    ///
    /// # Errors
    /// [`RuntimeError::NoLogin`], by its doing, where it could not be started.
    pub(crate) async fn expect_harmless_container(
        &self,
        docker: &Docker,
        id: &str,
        config: &ImageConfig,
        workspace: Option<&MountPath>,
    ) -> Result<(), RuntimeError> {
        let volumes = config.volumes.iter().flatten().map(|path| clean(path)).collect();
        let look = tokio::time::timeout(SCREENING_TIMEOUT, look_at(docker, id, &volumes, workspace)).await;
        look.unwrap_or_else(|late| Err(RuntimeError::Unavailable(Box::new(late))))
    }
}

async fn look(
    docker: &Docker,
    name: &str,
    id: &str,
    config: &ImageConfig,
    workspace: Option<&MountPath>,
) -> Result<(), RuntimeError> {
    let volumes: BTreeSet<String> = config.volumes.iter().flatten().map(|path| clean(path)).collect();
    let body = ContainerCreateBody {
        image: Some(id.to_owned()),
        entrypoint: Some(vec!["/none".to_owned()]),
        // An image's labels have nothing to say to anybody.
        labels: Some(emptied(config)),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            // In place of a volume, which the engine would fill. Nothing is mounted before a start.
            tmpfs: Some(volumes.iter().map(|path| (path.clone(), String::new())).collect()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    docker.create_container(Some(options), body).await.map_err(|error| classify(error, &[]))?;
    look_at(docker, name, &volumes, workspace).await
}

/// Looks at a container that does not run.
async fn look_at(
    docker: &Docker,
    name: &str,
    volumes: &BTreeSet<String>,
    workspace: Option<&MountPath>,
) -> Result<(), RuntimeError> {
    // An engine that cannot mount everything of a container finds no file in it, whatever is there.
    if stat(docker, name, "/").await?.is_none() {
        return Err(RuntimeError::Unavailable("the engine does not look into the container".into()));
    }
    for file in ACCOUNT_FILES {
        let found = stat(docker, name, file).await?;
        // The engine names the last target of a link, which is no link.
        let found = match found {
            Some(link) if link.file_mode & mode::LINK != 0 => stat(docker, name, &link.link_target).await?,
            other => other,
        };
        expect_plain(file, found.as_ref())?;
    }
    let mut real = Vec::new();
    for volume in volumes {
        real.push(real_path(docker, name, volume).await?);
    }
    if let Some(workspace) = workspace {
        let workspace = real_path(docker, name, workspace.as_str()).await?;
        // A renter's other containers may be changing what is inside a workspace while the engine mounts a volume there. In
        // the very place of a volume a workspace takes it, and inside one it lies where nobody else is.
        if let Some(volume) = real.iter().find(|volume| **volume != workspace && lies_in(volume, &workspace)) {
            return Err(refused(format!("the image has a volume at {volume}, inside the workspace at {workspace}")));
        }
        real.push(workspace);
    }
    if let Some(over) = real.iter().find(|path| OURS.iter().any(|ours| lies_in(path, ours) || lies_in(ours, path))) {
        return Err(refused(format!("a volume or the workspace lies at {over}, over the host's own files")));
    }
    for ours in [KIT, ACCESS, RUN] {
        if real_path(docker, name, ours).await? != ours {
            return Err(refused(format!("{ours}, where the host's own files are, is a link in the image")));
        }
    }
    Ok(())
}

/// Has the engine copy an image's volumes once, for a container that nobody waits for: where it does not come back from that,
/// it hangs over this one, and no rental does.
async fn copy(docker: &Docker, name: &str, id: &str, config: &ImageConfig) -> Result<(), RuntimeError> {
    let body = ContainerCreateBody {
        image: Some(id.to_owned()),
        entrypoint: Some(vec!["/none".to_owned()]),
        labels: Some(emptied(config)),
        host_config: Some(HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let unhurried = docker.clone().with_timeout(COPY_TIMEOUT * 2);
    let made = tokio::time::timeout(COPY_TIMEOUT, unhurried.create_container(Some(options), body)).await;
    let Ok(made) = made else {
        let reason = "the engine does not come back from copying the image's volumes: they hold too much";
        tracing::error!(image = id, name, "{reason}; remove this container once it is there");
        return Err(refused(reason.to_owned()));
    };
    made.map_err(|error| classify(error, &[]))?;
    remove_by_name(docker, name).await
}

/// Whether a path is another or lies below it.
fn lies_in(path: &str, other: &str) -> bool {
    path == other || path.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
}

/// A path with its links followed, as far as they are in the image.
async fn real_path(docker: &Docker, container: &str, path: &str) -> Result<String, RuntimeError> {
    let (mut real, mut asked) = (String::new(), String::new());
    for part in path.split('/').filter(|part| !part.is_empty()) {
        asked = format!("{asked}/{part}");
        let found = stat(docker, container, &asked).await?.filter(|found| found.file_mode & mode::LINK != 0);
        real = found.map_or_else(|| format!("{real}/{part}"), |link| link.link_target);
    }
    Ok(real)
}

/// A path as the engine itself cleans it, so that it knows the one place by the other.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The kind of thing that lies at a path, without opening it; `None` for nothing.
async fn stat(docker: &Docker, container: &str, path: &str) -> Result<Option<PathStatResponse>, RuntimeError> {
    let options = ContainerArchiveInfoOptionsBuilder::default().path(path).build();
    match docker.get_container_archive_info(container, Some(options)).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(classify(error, &[])),
    }
}

fn expect_plain(file: &str, found: Option<&PathStatResponse>) -> Result<(), RuntimeError> {
    match found {
        Some(found) if found.file_mode & mode::SPECIAL != 0 => {
            Err(refused(format!("{file} of the image is no plain file")))
        }
        // The engine opens a folder, fails to read it, and says so by itself.
        Some(found) if found.size > MOST_OF_A_FILE => {
            Err(refused(format!("{file} of the image has {} bytes, and may have {MOST_OF_A_FILE}", found.size)))
        }
        _ => Ok(()),
    }
}

fn refused(reason: String) -> RuntimeError {
    RuntimeError::NoLogin { by_image: true, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_named_as_the_engine_names_them() {
        for (path, cleaned) in [("/etc/", "/etc"), ("//data//", "/data"), ("/a/../etc", "/etc"), ("/./a/b/.", "/a/b")] {
            assert_eq!(clean(path), cleaned);
        }
    }
}

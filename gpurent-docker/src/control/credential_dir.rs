//! Credentials on their way into a container: a folder in memory for each launch, which the container
//! sees read-only.
//!
//! Works where agent and engine share a machine, and saves the 40 to 50 ms that an upload into a
//! container takes. The folder lies on a tmpfs, so that nothing of it ever reaches a disk.

use std::io;
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, HostConfig, Mount};
use bollard::query_parameters::{ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder};
use gpurent_access::paths::ACCESS;
use gpurent_core::id::{Attempt, LaunchId, RentalId};

use crate::access_kit::credential::AccessFile;
use crate::container::mounts::bind;
use crate::engine::error::is_missing;
use crate::engine::helper_image;
use crate::engine::state::remove_by_name;

/// A folder in memory over which credentials reach containers, seen by the engine under the same path.
#[derive(Clone, Debug)]
pub struct AccessDir(PathBuf);

impl AccessDir {
    /// Uses a folder, made for our eyes only where it is missing. One that is there is taken as it is, or
    /// not at all: changing it could lock out others, and somebody else's is theirs to read.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where the folder is not on a tmpfs; any other where it cannot be made, or others may
    /// enter it.
    pub fn new(directory: &Path) -> io::Result<Self> {
        make_private(directory)?;
        if !is_private(directory)? {
            return Err(io::Error::other("it is not ours alone (another owner, or others may enter it)"));
        }
        if !lies_in_memory(directory)? {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it is not on a tmpfs, so that secrets would reach a disk",
            ));
        }
        Ok(Self(directory.to_owned()))
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether a container on this engine really sees what lies here: an agent in a container of its own,
    /// or an engine elsewhere, has other files under the same path.
    ///
    /// An engine whose containers have other users than the machine (user namespaces, rootless) or other
    /// rights (SELinux) could show the folder and yet not let them in: there it is not used.
    pub(crate) async fn is_seen_by(&self, docker: &Docker) -> Result<bool, Error> {
        let locks = docker.info().await?.security_options.unwrap_or_default();
        if locks.iter().any(|lock| ["userns", "rootless", "selinux"].iter().any(|kind| lock.contains(kind))) {
            return Ok(false);
        }
        let name = format!("gpurent-access-trial-{}", RentalId::generate());
        let tried = self.try_out(docker, &name).await;
        // What could not be cleaned up is an empty folder, or a container that never ran.
        drop(remove_by_name(docker, &name).await);
        drop(tokio::fs::remove_dir_all(self.0.join(&name)).await);
        tried
    }

    async fn try_out(&self, docker: &Docker, name: &str) -> Result<bool, Error> {
        let directory = self.0.join(name);
        let files = vec![("trial", Vec::new())];
        write(&directory, &files).await?;
        let body = ContainerCreateBody {
            image: Some(helper_image::image()),
            entrypoint: Some(vec!["/none".to_owned()]),
            host_config: Some(HostConfig {
                mounts: Some(vec![bind(&directory, ACCESS, true)]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        match docker.create_container(Some(options), body).await {
            Ok(_) => {}
            // "bind source path does not exist": the engine has other files.
            Err(Error::DockerResponseServerError { status_code: 400, .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        let seen = ContainerArchiveInfoOptionsBuilder::default().path(&format!("{ACCESS}/trial")).build();
        match docker.get_container_archive_info(name, Some(seen)).await {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The mount that a container of the launch sees.
    pub(crate) fn mount(&self, launch: LaunchId) -> Mount {
        bind(&self.folder(launch), ACCESS, true)
    }

    /// Where a launch's files lie.
    pub(crate) fn folder(&self, launch: LaunchId) -> PathBuf {
        self.0.join(format!("gpurent-{}-{}", launch.rental, launch.attempt))
    }

    /// Lets a launch's folder be that of the launch whose container it took over.
    pub(crate) async fn lead(&self, launch: LaunchId, folder: &Path) -> io::Result<()> {
        let own = self.folder(launch);
        if own == folder || tokio::fs::read_link(&own).await.is_ok_and(|target| target == folder) {
            return Ok(());
        }
        remove_folder(&own).await?;
        link(folder, &own).await
    }

    /// Forgets the files of a rental's launches, up to this one.
    pub(crate) async fn remove_up_to(&self, launch: LaunchId) -> io::Result<()> {
        let beginning = format!("gpurent-{}-", launch.rental);
        let mut entries = tokio::fs::read_dir(&self.0).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name();
            let attempt = name.to_str().and_then(|name| name.strip_prefix(&beginning)?.parse().ok());
            if attempt.is_none_or(|attempt| Attempt::new(attempt) > launch.attempt) {
                continue;
            }
            if entry.file_type().await?.is_symlink() {
                tokio::fs::remove_file(entry.path()).await?;
            } else {
                remove_folder(&entry.path()).await?;
            }
        }
        Ok(())
    }
}

async fn remove_folder(folder: &Path) -> io::Result<()> {
    match tokio::fs::remove_dir_all(folder).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes files into a folder of ours.
pub(crate) async fn write(directory: &Path, files: &[AccessFile]) -> io::Result<()> {
    let (directory, files) = (directory.to_owned(), files.to_vec());
    let written = tokio::task::spawn_blocking(move || {
        make_private(&directory)?;
        for (name, content) in files {
            // Written beside and moved over, so that nobody reads half a file.
            let draft = directory.join(format!(".{name}"));
            write_private(&draft, &content)?;
            std::fs::rename(&draft, directory.join(name))?;
        }
        Ok(())
    });
    written.await.map_err(io::Error::other)?
}

#[cfg(unix)]
pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[cfg(unix)]
fn is_private(directory: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(directory)?;
    Ok(found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0)
}

#[cfg(unix)]
fn write_private(file: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    file.write_all(content)
}

#[cfg(unix)]
async fn link(folder: &Path, name: &Path) -> io::Result<()> {
    tokio::fs::symlink(folder, name).await
}

#[cfg(not(unix))]
async fn link(_folder: &Path, _name: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(unix))]
pub(crate) fn make_private(_directory: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(unix))]
fn is_private(_directory: &Path) -> io::Result<bool> {
    Ok(false)
}

#[cfg(not(unix))]
fn write_private(_file: &Path, _content: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
#[allow(clippy::useless_conversion, reason = "the word's type differs between machines")]
pub(crate) fn lies_in_memory(directory: &Path) -> io::Result<bool> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let kind = i64::try_from(rustix::fs::statfs(directory)?.f_type).unwrap_or(0);
    Ok(kind == TMPFS || kind == RAMFS)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn lies_in_memory(_directory: &Path) -> io::Result<bool> {
    Ok(false)
}

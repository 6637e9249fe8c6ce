//! Screening of an image before a container is made of it: what the engine itself would open, or copy, for it.
//!
//! The engine opens `/etc/passwd` and `/etc/group` of a container's own file system at its start, to find out whom it runs
//! as, also where the user is given as numbers (<https://github.com/moby/moby/blob/v20.10.24/daemon/oci_linux.go>,
//! `getUser`), and copies what an image has at its volumes when the container is made. A pipe among that blocks it for ever,
//! with the container's lock held: then nothing can be said of that container any more, and it can be neither started nor
//! removed. So a container is made first that has no volumes, mounts nothing and never runs, and is looked into by requests
//! that open nothing special. What is found is true of every container of the image.

use std::collections::{BTreeSet, HashSet};
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::container::PathStatResponse;
use bollard::models::{ContainerCreateBody, HostConfig, ImageConfig};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
};
use futures_util::StreamExt;
use gpurent_access::paths::{ACCESS, KIT, RUN};
use gpurent_core::id::RentalId;
use gpurent_core::runtime::RuntimeError;
use gpurent_core::spec::MountPath;
use tokio::sync::mpsc;

use crate::container::emptied;
use crate::error::{classify, is_missing};
use crate::state::remove_by_name;

/// The files that the engine reads whole at each start, and how large they may be, in bytes.
const ACCOUNT_FILES: [&str; 2] = ["/etc/passwd", "/etc/group"];
const MOST_OF_A_FILE: i64 = 4 * 1024 * 1024;

/// What all volumes of an image may hold together: the engine copies it for each container, outside of any limit.
const MOST_ENTRIES: u64 = 200_000;
const MOST_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// How long the look at one image may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// So many images are remembered; then all are forgotten, and looked at again.
const MOST_REMEMBERED: usize = 1024;

/// Where the host's own files are in a container.
const OURS: [&str; 2] = ["/.gpurent", "/.gp"];

/// Bits of a mode as Go writes it, by which the engine tells a file's kind (<https://pkg.go.dev/io/fs#FileMode>).
mod mode {
    pub(super) const LINK: u32 = 1 << 27;
    const DEVICE: u32 = 1 << 26;
    const PIPE: u32 = 1 << 25;
    const SOCKET: u32 = 1 << 24;
    const CHARACTER_DEVICE: u32 = 1 << 21;
    const IRREGULAR: u32 = 1 << 19;
    /// Every kind that is neither a folder nor a file that ends.
    pub(super) const SPECIAL: u32 = DEVICE | PIPE | SOCKET | CHARACTER_DEVICE | IRREGULAR;
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
        let look = tokio::time::timeout(PATIENCE, look(docker, &name, id, &config, workspace)).await;
        // It was never started: at worst an empty container is left.
        if let Err(error) = remove_by_name(docker, &name).await {
            tracing::warn!(name, error = &error as &dyn std::error::Error, "a container that never ran is left over");
        }
        look.unwrap_or_else(|_late| Err(refused("it takes too long to look at the image's volumes".to_owned())))?;
        let mut known = self.known();
        if known.len() >= MOST_REMEMBERED {
            known.clear();
        }
        known.insert(subject);
        Ok(())
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
    for volume in &volumes {
        real.push(real_path(docker, name, volume).await?);
    }
    if let Some(workspace) = workspace {
        let workspace = real_path(docker, name, workspace.as_str()).await?;
        // A renter's other containers may be changing what is inside a workspace while the engine mounts there.
        if let Some(volume) = real.iter().find(|volume| lies_in(volume, &workspace) || lies_in(&workspace, volume)) {
            return Err(refused(format!("the image has a volume at {volume}, and the workspace is at {workspace}")));
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
    let mut left = Left { entries: MOST_ENTRIES, bytes: MOST_BYTES };
    for volume in &volumes {
        left = walk_volume(docker, name, volume, left).await?;
    }
    Ok(())
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

/// How much the volumes that were not looked at yet may hold.
#[derive(Clone, Copy)]
struct Left {
    entries: u64,
    bytes: u64,
}

/// Looks at everything that an image has at a volume, and gives what is left for the others.
async fn walk_volume(docker: &Docker, container: &str, volume: &str, left: Left) -> Result<Left, RuntimeError> {
    let options = DownloadFromContainerOptionsBuilder::default().path(volume).build();
    let mut stream = docker.download_from_container(container, Some(options));
    let (chunks, archive) = mpsc::channel(16);
    let walk = tokio::task::spawn_blocking(move || walk(Chunks { chunks: archive, chunk: Vec::new(), read: 0 }, left));
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => {
                if chunks.send(chunk.to_vec()).await.is_err() {
                    // Enough was seen.
                    break;
                }
            }
            Err(error) if is_missing(&error) => return Ok(left),
            Err(error) => return Err(classify(error, &[])),
        }
    }
    drop(chunks);
    match walk.await {
        Ok(Ok(left)) => Ok(left),
        Ok(Err(Unfit::Broken(error))) => Err(RuntimeError::Unavailable(Box::new(error))),
        Ok(Err(unfit)) => Err(refused(format!("{volume}, a volume of the image, {unfit}"))),
        Err(lost) => Err(RuntimeError::Unavailable(Box::new(lost))),
    }
}

/// Why the engine must not copy a volume.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("holds a pipe or a device")]
    Special,
    #[error("makes more than {MOST_ENTRIES} files, or {MOST_BYTES} bytes, of all volumes together")]
    TooMuch,
    #[error("cannot be read")]
    Broken(#[from] std::io::Error),
}

fn walk(archive: impl Read, mut left: Left) -> Result<Left, Unfit> {
    for entry in tar::Archive::new(archive).entries()? {
        let entry = entry?;
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) {
            return Err(Unfit::Special);
        }
        left.entries = left.entries.checked_sub(1).ok_or(Unfit::TooMuch)?;
        left.bytes = left.bytes.checked_sub(entry.size()).ok_or(Unfit::TooMuch)?;
    }
    Ok(left)
}

/// An archive that comes in pieces, read by a thread that may wait for them.
struct Chunks {
    chunks: mpsc::Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    read: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.read == self.chunk.len() {
            let Some(chunk) = self.chunks.blocking_recv() else { return Ok(0) };
            (self.chunk, self.read) = (chunk, 0);
        }
        let length = buffer.len().min(self.chunk.len() - self.read);
        buffer[..length].copy_from_slice(&self.chunk[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}

fn refused(reason: String) -> RuntimeError {
    RuntimeError::NoLogin { by_image: true, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, usize)]) -> Vec<u8> {
        let mut made = tar::Builder::new(Vec::new());
        for (path, kind, size) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_size(*size as u64);
            made.append_data(&mut header, path, vec![0; *size].as_slice()).unwrap();
        }
        made.into_inner().unwrap()
    }

    #[test]
    fn only_what_can_be_copied_is_and_not_without_end() {
        use tar::EntryType::{Directory, Fifo, Regular};
        let left = Left { entries: 3, bytes: 100 };
        let walked = |entries: &[_]| walk(archive(entries).as_slice(), left);
        let good = walked(&[("data", Directory, 0), ("data/a", Regular, 60)]).unwrap();
        assert_eq!((good.entries, good.bytes), (1, 40));
        assert!(matches!(walked(&[("data", Directory, 0), ("data/pipe", Fifo, 0)]), Err(Unfit::Special)));
        assert!(matches!(walked(&[("a", Regular, 60), ("b", Regular, 60)]), Err(Unfit::TooMuch)));
        let many = [("a", Regular, 0), ("b", Regular, 0), ("c", Regular, 0), ("d", Regular, 0)];
        assert!(matches!(walked(&many), Err(Unfit::TooMuch)));
    }

    #[test]
    fn volumes_are_named_as_the_engine_names_them() {
        for (path, cleaned) in [("/etc/", "/etc"), ("//data//", "/data"), ("/a/../etc", "/etc"), ("/./a/b/.", "/a/b")] {
            assert_eq!(clean(path), cleaned);
        }
    }
}

//! How much of the disk a container uses: its own layer, its volumes and its workspace.
//!
//! Where this process sees the engine's folders it counts by itself: bounded, to be stopped at any time, and with what was
//! deleted and is still open, which no list of files has. Elsewhere the engine's own sum of the layer has to do.
//!
//! What is counted belongs to a tenant, who may change it meanwhile: folders are opened from their parents and no link is
//! followed, so that nothing outside is counted.

use std::path::PathBuf;
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::InspectContainerOptionsBuilder;
use gpurent_core::disk::DiskUse;
use gpurent_core::runtime::RuntimeError;

use crate::error::{is_missing, unavailable};

/// How long an engine may take to sum up one container's layer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures one container, no further than `most`.
///
/// # Errors
/// [`RuntimeError::Missing`] where it does not run; [`RuntimeError::Unavailable`] where nobody can tell.
pub(crate) async fn of(docker: &Docker, name: &str, is_local: bool, most: DiskUse) -> Result<DiskUse, RuntimeError> {
    let found = inspect(docker, name, false).await?;
    let state = found.state.clone().unwrap_or_default();
    if !crate::state::is_running(&state) {
        return Err(RuntimeError::Missing);
    }
    if let Some(folders) = folders(&found).filter(|folders| is_local && folders.iter().all(|folder| folder.exists())) {
        return count(folders, found.id.unwrap_or_default(), state.pid.unwrap_or_default(), most).await;
    }
    let bytes = inspect(docker, name, true).await?.size_rw.and_then(|bytes| u64::try_from(bytes).ok());
    let bytes = bytes.ok_or_else(|| RuntimeError::Unavailable("the engine does not tell the layer's size".into()))?;
    Ok(DiskUse { bytes, files: 0 })
}

async fn inspect(docker: &Docker, name: &str, size: bool) -> Result<ContainerInspectResponse, RuntimeError> {
    let options = InspectContainerOptionsBuilder::default().size(size).build();
    let asked = tokio::time::timeout(PATIENCE, docker.inspect_container(name, Some(options))).await;
    match asked.map_err(|late| RuntimeError::Unavailable(Box::new(late)))? {
        Ok(found) => Ok(found),
        Err(error) if is_missing(&error) => Err(RuntimeError::Missing),
        Err(error) => Err(unavailable(error)),
    }
}

/// The folders of the host that a container writes into; `None` where its layer is no folder.
fn folders(found: &ContainerInspectResponse) -> Option<Vec<PathBuf>> {
    let layer = found.graph_driver.as_ref()?.data.get("UpperDir")?;
    let mounts = found.mounts.iter().flatten();
    let written =
        mounts.filter(|mount| mount.rw == Some(true) && matches!(mount.typ.as_deref(), Some("bind" | "volume")));
    let sources = written.filter_map(|mount| mount.source.clone());
    Some(std::iter::once(layer.clone()).chain(sources).map(PathBuf::from).collect())
}

#[cfg(not(unix))]
async fn count(_: Vec<PathBuf>, _: String, _: i64, _: DiskUse) -> Result<DiskUse, RuntimeError> {
    Err(RuntimeError::Unavailable("files are counted on Unix alone".into()))
}

#[cfg(unix)]
async fn count(folders: Vec<PathBuf>, id: String, pid: i64, most: DiskUse) -> Result<DiskUse, RuntimeError> {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Ends the counting when nobody waits for it any more.
    struct Until(Arc<AtomicBool>);
    impl Drop for Until {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let until = Until(Arc::default());
    let mut counting = counting::Counting::new(most, Arc::clone(&until.0));
    let counted = tokio::task::spawn_blocking(move || {
        folders.iter().try_for_each(|folder| counting.folder(folder))?;
        counting.deleted(&id, pid);
        Ok::<_, std::io::Error>(counting.sum())
    });
    let counted = counted.await.map_err(|lost| RuntimeError::Unavailable(Box::new(lost)))?;
    counted.map_err(|error| RuntimeError::Unavailable(Box::new(error)))
}

#[cfg(unix)]
mod counting {
    use std::collections::HashSet;
    use std::fs;
    use std::io;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use gpurent_core::disk::DiskUse;
    use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};

    /// A tree that is deeper than this cannot be counted, and counts as everything: each level is an open file.
    const DEEPEST: usize = 1000;
    /// The unit of a file's blocks (stat(2)).
    const BLOCK: u64 = 512;

    /// A sum that grows.
    pub(super) struct Counting {
        sum: DiskUse,
        most: DiskUse,
        stopped: Arc<AtomicBool>,
    }

    impl Counting {
        pub(super) fn new(most: DiskUse, stopped: Arc<AtomicBool>) -> Self {
            Self { sum: DiskUse::default(), most, stopped }
        }

        /// What was counted, or the most that is.
        pub(super) fn sum(&self) -> DiskUse {
            if self.sum.exceeds(self.most) { self.most } else { self.sum }
        }

        fn is_over(&self) -> bool {
            self.stopped.load(Ordering::Relaxed) || self.sum.exceeds(self.most)
        }

        fn add(&mut self, found: &Stat) {
            let bytes = u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(BLOCK);
            // A file with several names is one, and each name its part.
            #[allow(clippy::useless_conversion, reason = "of another type on other machines")]
            let names =
                if FileType::from_raw_mode(found.st_mode).is_dir() { 1 } else { u64::from(found.st_nlink).max(1) };
            self.sum = self.sum.plus(DiskUse { bytes: bytes / names, files: 1 });
        }

        /// Counts what lies in a folder, on the folder's own file system.
        pub(super) fn folder(&mut self, root: &Path) -> io::Result<()> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let root = openat(CWD, root, flags, Mode::empty())?;
            let device = fstat(&root)?.st_dev;
            let mut open = vec![Dir::new(root)?];
            while let Some(folder) = open.last_mut() {
                if self.is_over() {
                    return Ok(());
                }
                // What goes while it is being read is not there.
                let Some(Ok(entry)) = folder.read() else {
                    open.pop();
                    continue;
                };
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                let here = folder.fd()?;
                let Ok(found) = statat(here, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                let inner = if FileType::from_raw_mode(found.st_mode).is_dir() && found.st_dev == device {
                    openat(here, name, flags, Mode::empty()).and_then(Dir::new).ok()
                } else {
                    None
                };
                self.add(&found);
                if let Some(inner) = inner {
                    if open.len() >= DEEPEST {
                        self.sum = self.most.plus(DiskUse { bytes: 1, files: 1 });
                        return Ok(());
                    }
                    open.push(inner);
                }
            }
            Ok(())
        }

        /// Counts files that have no name any more, and that a process of the container has open or mapped. They are
        /// found where this process sees those of the engine; elsewhere they are not counted.
        pub(super) fn deleted(&mut self, container: &str, pid: i64) {
            let first = format!("/proc/{pid}");
            let is_its = fs::read_to_string(format!("{first}/cgroup")).is_ok_and(|cgroup| cgroup.contains(container));
            let (true, Ok(space)) = (is_its && !container.is_empty(), fs::read_link(format!("{first}/ns/pid"))) else {
                return;
            };
            let mut known = HashSet::new();
            for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                if fs::read_link(process.path().join("ns/pid")).is_ok_and(|found| found == space) {
                    for list in ["fd", "map_files"] {
                        self.open_files(&process.path().join(list), &mut known);
                    }
                }
            }
        }

        fn open_files(&mut self, list: &Path, known: &mut HashSet<(u64, u64)>) {
            for file in fs::read_dir(list).into_iter().flatten().flatten() {
                if self.is_over() {
                    return;
                }
                // The link leads to the open file itself, wherever it was.
                let Ok(found) = fs::metadata(file.path()) else { continue };
                let is_on_disk = found.is_file() && found.nlink() == 0 && !is_memory(&file.path());
                if is_on_disk && known.insert((found.dev(), found.ino())) {
                    self.sum = self.sum.plus(DiskUse { bytes: found.blocks().saturating_mul(BLOCK), files: 1 });
                }
            }
        }
    }

    /// Whether an open file lies in memory (tmpfs, memfd_create(2)), of which tenants have their own limit.
    fn is_memory(path: &Path) -> bool {
        /// Linux's `TMPFS_MAGIC` and `HUGETLBFS_MAGIC` (statfs(2)).
        const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x9584_58f6];
        rustix::fs::statfs(path).is_ok_and(|found| IN_MEMORY.contains(&found.f_type))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn count(folder: &Path, most: DiskUse) -> DiskUse {
            let mut counting = Counting::new(most, Arc::default());
            counting.folder(folder).unwrap();
            counting.sum()
        }

        #[test]
        fn files_are_counted_once_and_links_lead_nowhere() {
            let folder = tempfile::tempdir().unwrap();
            let inner = folder.path().join("a/b");
            fs::create_dir_all(&inner).unwrap();
            fs::write(inner.join("file"), vec![1; 1 << 20]).unwrap();
            fs::hard_link(inner.join("file"), folder.path().join("same")).unwrap();
            std::os::unix::fs::symlink("/usr", folder.path().join("elsewhere")).unwrap();
            let counted = count(folder.path(), DiskUse::MAX);
            assert_eq!(counted.files, 5);
            assert!((1 << 20..(1 << 20) + 65_536).contains(&counted.bytes), "{counted:?}");
        }

        #[test]
        fn nothing_is_counted_beyond_what_matters() {
            let folder = tempfile::tempdir().unwrap();
            for n in 0..100 {
                fs::write(folder.path().join(n.to_string()), "").unwrap();
            }
            let most = DiskUse { bytes: u64::MAX, files: 10 };
            assert_eq!(count(folder.path(), most), most);
        }

        #[test]
        fn what_is_too_deep_to_be_counted_is_everything() {
            let folder = tempfile::tempdir().unwrap();
            let mut at = openat(CWD, folder.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            for _ in 0..DEEPEST + 1 {
                rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
                at = openat(&at, "deep", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            }
            let most = DiskUse { bytes: 1 << 40, files: 1 << 30 };
            assert_eq!(count(folder.path(), most), most);
        }
    }
}

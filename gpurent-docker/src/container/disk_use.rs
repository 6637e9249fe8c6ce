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
use gpurent_core::allocation::Written;
use gpurent_core::model::DiskUse;
use gpurent_core::runtime::RuntimeError;

use crate::engine::error::{is_missing, unavailable};

/// How long an engine may take to sum up one container's layer.
const SIZE_TIMEOUT: Duration = Duration::from_secs(60);

/// Measures one container, no further than `most`.
///
/// # Errors
/// [`RuntimeError::Missing`] where it does not run; [`RuntimeError::Unavailable`] where nobody can tell.
pub(crate) async fn of(docker: &Docker, name: &str, is_local: bool, most: Written) -> Result<Written, RuntimeError> {
    let found = inspect(docker, name, false).await?;
    let state = found.state.clone().unwrap_or_default();
    if !crate::engine::state::is_running(&state) {
        return Err(RuntimeError::Missing);
    }
    let is_local = is_local && cfg!(unix);
    let folders = if is_local { Folders::of(&found) } else { Folders::default() };
    let layer_is_a_folder = folders.layer.is_some();
    let mut written = if is_local {
        count(folders, found.id.unwrap_or_default(), state.pid.unwrap_or_default(), most).await?
    } else {
        Written::default()
    };
    if !layer_is_a_folder {
        // Another storage driver's, or another machine's: the engine's own sum of the layer has to do.
        let bytes = inspect(docker, name, true).await?.size_rw.and_then(|bytes| u64::try_from(bytes).ok());
        let bytes =
            bytes.ok_or_else(|| RuntimeError::Unavailable("the engine does not tell the layer's size".into()))?;
        written.container = written.container.plus(DiskUse { bytes, files: 0 });
    }
    Ok(written)
}

async fn inspect(docker: &Docker, name: &str, size: bool) -> Result<ContainerInspectResponse, RuntimeError> {
    let options = InspectContainerOptionsBuilder::default().size(size).build();
    let asked = tokio::time::timeout(SIZE_TIMEOUT, docker.inspect_container(name, Some(options))).await;
    match asked.map_err(|late| RuntimeError::Unavailable(Box::new(late)))? {
        Ok(found) => Ok(found),
        Err(error) if is_missing(&error) => Err(RuntimeError::Missing),
        Err(error) => Err(unavailable(error)),
    }
}

/// The folders on the host that a container writes into.
#[derive(Default)]
#[cfg_attr(not(unix), allow(dead_code, reason = "files are counted on Unix alone"))]
struct Folders {
    /// The container's layer, where that is a folder.
    layer: Option<PathBuf>,
    volumes: Vec<PathBuf>,
    workspaces: Vec<PathBuf>,
    /// Files that the engine itself mounts into every container, and that it may write.
    files: Vec<PathBuf>,
}

impl Folders {
    fn of(found: &ContainerInspectResponse) -> Self {
        let layer = found.graph_driver.as_ref().and_then(|driver| driver.data.get("UpperDir")).map(PathBuf::from);
        let mounts = found.mounts.iter().flatten().filter(|mount| mount.rw == Some(true));
        let of = |kind: &str| {
            let mounts = mounts.clone().filter(move |mount| mount.typ.as_deref() == Some(kind));
            mounts.filter_map(|mount| mount.source.clone()).map(PathBuf::from).collect()
        };
        let files = [&found.hosts_path, &found.hostname_path, &found.resolv_conf_path];
        let files = files.into_iter().flatten().filter(|path| !path.is_empty()).map(PathBuf::from).collect();
        Self { layer, volumes: of("volume"), workspaces: of("bind"), files }
    }
}

#[cfg(not(unix))]
async fn count(_: Folders, _: String, _: i64, _: Written) -> Result<Written, RuntimeError> {
    Err(RuntimeError::Unavailable("files are counted on Unix alone".into()))
}

#[cfg(unix)]
async fn count(folders: Folders, id: String, pid: i64, most: Written) -> Result<Written, RuntimeError> {
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
    let mut own = counting::Counting::new(most.container, Arc::clone(&until.0));
    let mut workspace = counting::Counting::new(most.workspace, Arc::clone(&until.0));
    let counted = tokio::task::spawn_blocking(move || {
        folders.layer.iter().chain(&folders.volumes).try_for_each(|folder| own.folder(folder))?;
        folders.files.iter().for_each(|file| own.file(file));
        folders.workspaces.iter().try_for_each(|folder| workspace.folder(folder))?;
        let device = folders.workspaces.first().and_then(|folder| counting::device(folder));
        for (bytes, of) in own.deleted(&id, pid) {
            // What was in a workspace is counted there, and all else with the container.
            let counting = if device == Some(of) { &mut workspace } else { &mut own };
            counting.add_deleted(bytes);
        }
        Ok::<_, std::io::Error>(Written { container: own.sum(), workspace: workspace.sum() })
    });
    let counted = counted.await.map_err(|lost| RuntimeError::Unavailable(Box::new(lost)))?;
    counted.map_err(|error| RuntimeError::Unavailable(Box::new(error)))
}

#[cfg(unix)]
mod counting {
    use std::collections::HashMap;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::{fs, io};

    use gpurent_core::model::DiskUse;
    use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
    use rustix::io::Errno;

    /// A tree that is deeper than this cannot be counted, and counts as everything: each level is an open file.
    const DEEPEST: usize = 1000;
    /// The open and mapped files of one container that are looked at; one that has more counts as everything.
    const MOST_OPEN: u64 = 2_000_000;
    /// The unit of a file's blocks (stat(2)).
    const BLOCK: u64 = 512;

    /// A sum that grows.
    pub(crate) struct Counting {
        sum: DiskUse,
        most: DiskUse,
        stopped: Arc<AtomicBool>,
        /// Open and mapped files that were looked at.
        looked: u64,
    }

    impl Counting {
        pub(crate) fn new(most: DiskUse, stopped: Arc<AtomicBool>) -> Self {
            Self { sum: DiskUse::default(), most, stopped, looked: 0 }
        }

        /// The sum, or the most that is counted.
        pub(crate) fn sum(&self) -> DiskUse {
            self.sum.at_most(self.most)
        }

        fn is_over(&self) -> bool {
            self.stopped.load(Ordering::Relaxed) || self.sum.exceeds(self.most)
        }

        /// Counts as everything what cannot be counted.
        fn is_everything(&mut self) {
            self.sum = DiskUse::MAX;
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
        pub(crate) fn folder(&mut self, root: &Path) -> io::Result<()> {
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
                    match openat(here, name, flags, Mode::empty()).and_then(Dir::new) {
                        Ok(inner) => Some(inner),
                        // Gone, or another thing by now.
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
                        Err(error) => return Err(error.into()),
                    }
                } else {
                    None
                };
                self.add(&found);
                if let Some(inner) = inner {
                    if open.len() >= DEEPEST {
                        self.is_everything();
                        return Ok(());
                    }
                    open.push(inner);
                }
            }
            Ok(())
        }

        /// Counts a file of its own.
        pub(crate) fn file(&mut self, path: &Path) {
            // One that is not there has no size.
            if let Ok(found) = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
                self.add(&found);
            }
        }

        /// Counts one that was deleted.
        pub(crate) fn add_deleted(&mut self, bytes: u64) {
            self.sum = self.sum.plus(DiskUse { bytes, files: 1 });
        }

        /// Bytes and device of files that have no name any more, and that a process of the container has open or mapped. They
        /// are found where this process sees those of the engine; elsewhere they are not counted.
        pub(crate) fn deleted(&mut self, container: &str, pid: i64) -> Vec<(u64, u64)> {
            let first = format!("/proc/{pid}");
            let is_its = fs::read_to_string(format!("{first}/cgroup")).is_ok_and(|cgroup| cgroup.contains(container));
            let (true, Ok(space)) = (is_its && !container.is_empty(), fs::read_link(format!("{first}/ns/pid"))) else {
                return Vec::new();
            };
            let mut known = HashMap::new();
            for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                if fs::read_link(process.path().join("ns/pid")).is_ok_and(|found| found == space) {
                    for list in ["fd", "map_files"] {
                        self.open_files(&process.path().join(list), &mut known);
                    }
                }
            }
            known.into_iter().map(|((device, _), bytes)| (bytes, device)).collect()
        }

        fn open_files(&mut self, list: &Path, known: &mut HashMap<(u64, u64), u64>) {
            for file in fs::read_dir(list).into_iter().flatten().flatten() {
                self.looked += 1;
                if self.looked > MOST_OPEN {
                    self.is_everything();
                }
                if self.is_over() {
                    return;
                }
                // The link leads to the open file itself, wherever it was.
                let Ok(found) = fs::metadata(file.path()) else { continue };
                if found.is_file() && found.nlink() == 0 && !is_memory(&file.path()) {
                    known.insert((found.dev(), found.ino()), found.blocks().saturating_mul(BLOCK));
                }
            }
        }
    }

    /// The file system on which a folder lies.
    pub(crate) fn device(folder: &Path) -> Option<u64> {
        fs::metadata(folder).map(|found| found.dev()).ok()
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
            let most = DiskUse { bytes: 1 << 30, files: 10 };
            assert_eq!(count(folder.path(), most).files, 10);
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

//! How full this machine's disks are, and how much of them tenants may have.

use std::path::{Path, PathBuf};

use gpurent_core::allocation::{DiskProbe, DiskRoom};
use gpurent_core::model::DiskUse;

/// Keeps a reserve free on the file systems of some folders: the engine's, for tenants' layers and logs, and
/// that of the host's own books.
#[derive(Clone, Debug)]
pub struct DiskReserve {
    folders: Vec<PathBuf>,
    bytes: u64,
}

/// The hundredth of a file system's files is kept free, as bytes are.
const FILES_KEPT: u64 = 100;

impl DiskReserve {
    /// Keeps `bytes` free where `folders` lie.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>, bytes: u64) -> Self {
        Self { folders, bytes }
    }

    /// The room for tenants on the disks of the engine's folder and of workspaces; `None` where nobody can tell. It asks the
    /// file systems, and may wait for them: it is asked once.
    #[must_use]
    pub fn room(&self, engine: &Path, workspaces: Option<&Path>) -> Option<DiskRoom> {
        let room = |folder: &Path| space(folder).map(|space| space.total.minus(self.kept(&space)));
        let elsewhere = workspaces.filter(|folder| !are_on_one_disk(engine, folder));
        Some(DiskRoom { containers: room(engine)?, workspaces: elsewhere.and_then(room) })
    }

    fn kept(&self, space: &Space) -> DiskUse {
        let files = if space.total.files == u64::MAX { 0 } else { space.total.files / FILES_KEPT };
        DiskUse { bytes: self.bytes, files }
    }
}

/// A file system: all of it, and what an unprivileged program could still write there.
struct Space {
    total: DiskUse,
    free: DiskUse,
}

/// `None` where nobody can tell.
#[cfg(unix)]
fn space(folder: &Path) -> Option<Space> {
    let found = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    // A file system that makes room for files as it needs it, such as btrfs, has none of them.
    let files = |files: u64| if found.f_files == 0 { u64::MAX } else { files };
    Some(Space {
        total: DiskUse { bytes: bytes(found.f_blocks), files: files(found.f_files) },
        free: DiskUse { bytes: bytes(found.f_bavail), files: files(found.f_favail) },
    })
}

#[cfg(not(unix))]
fn space(_folder: &Path) -> Option<Space> {
    None
}

/// Whether two folders are on one file system; so it is believed where nobody can tell.
#[cfg(unix)]
fn are_on_one_disk(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |folder: &Path| std::fs::metadata(folder).map(|found| found.dev());
    match (device(one), device(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => true,
    }
}

#[cfg(not(unix))]
fn are_on_one_disk(_one: &Path, _other: &Path) -> bool {
    true
}

impl DiskProbe for DiskReserve {
    fn has_room(&self) -> bool {
        self.has_room_for(0)
    }

    fn has_room_for(&self, bytes: u64) -> bool {
        let needed = |space: &Space| self.kept(space).plus(DiskUse { bytes, files: 0 });
        self.folders.iter().all(|folder| space(folder).is_none_or(|space| !needed(&space).exceeds(space.free)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_is_not_there_leaves_no_room() {
        let here = vec![std::env::temp_dir()];
        assert!(DiskReserve::new(here.clone(), 0).has_room());
        assert!(!DiskReserve::new(here.clone(), u64::MAX).has_room());
        assert!(!DiskReserve::new(here, 0).has_room_for(u64::MAX));
        assert!(DiskReserve::new(vec!["/does/not/exist".into()], u64::MAX).has_room(), "nobody can tell");
    }

    #[test]
    fn workspaces_on_the_engines_disk_share_its_room() {
        let reserve = DiskReserve::new(Vec::new(), 1);
        let here = std::env::temp_dir();
        let room = reserve.room(&here, Some(&here)).unwrap();
        assert!(room.containers.bytes > 1 && room.workspaces.is_none(), "{room:?}");
        let apart = reserve.room(&here, Some(Path::new("/proc"))).unwrap();
        assert!(apart.workspaces.is_some());
        assert!(reserve.room(Path::new("/does/not/exist"), None).is_none());
    }
}

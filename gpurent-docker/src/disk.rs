//! Whether this machine's disks have room for another rental.

use std::path::{Path, PathBuf};

use gpurent_core::disk::{DiskProbe, DiskSpace, DiskUse};

/// Keeps a reserve free on the file systems of some folders: the engine's, for tenants' layers and logs, and
/// that of the host's own books.
#[derive(Clone, Debug)]
pub struct DiskReserve {
    folders: Vec<PathBuf>,
    of_tenants: Vec<PathBuf>,
    bytes: u64,
}

impl DiskReserve {
    /// Keeps `bytes` free where `folders` lie.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>, bytes: u64) -> Self {
        Self { folders, of_tenants: Vec::new(), bytes }
    }

    /// Tells of the disk of these folders, where tenants write: the engine's, and that of workspaces. Of several the smallest,
    /// so that a rental that keeps to its part of that fills none.
    #[must_use]
    pub fn with_tenants_in(mut self, folders: Vec<PathBuf>) -> Self {
        self.of_tenants = folders;
        self
    }
}

/// All of a file system, and what an unprivileged program could still write there; `None` where nobody can tell.
#[cfg(unix)]
fn space(folder: &Path) -> Option<(DiskUse, DiskUse)> {
    let found = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    // A file system that makes room for files as it needs it, such as btrfs, has none of them.
    let files = |files: u64| if found.f_files == 0 { u64::MAX } else { files };
    let total = DiskUse { bytes: bytes(found.f_blocks), files: files(found.f_files) };
    Some((total, DiskUse { bytes: bytes(found.f_bavail), files: files(found.f_favail) }))
}

#[cfg(not(unix))]
fn space(_folder: &Path) -> Option<(DiskUse, DiskUse)> {
    None
}

/// The hundredth of a file system's files is kept free, as bytes are.
const FILES_KEPT: u64 = 100;

impl DiskProbe for DiskReserve {
    fn has_room(&self) -> bool {
        self.folders.iter().all(|folder| space(folder).is_none_or(|(_, free)| free.bytes > self.bytes))
    }

    fn space(&self) -> Option<DiskSpace> {
        let spaces = self.of_tenants.iter().filter_map(|folder| space(folder));
        let (total, free) = spaces.min_by_key(|(total, _)| total.bytes)?;
        let files = if total.files == u64::MAX { 0 } else { total.files / FILES_KEPT };
        Some(DiskSpace { total, free, kept: DiskUse { bytes: self.bytes, files } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_is_not_there_leaves_no_room() {
        let here = vec![std::env::temp_dir()];
        assert!(DiskReserve::new(here.clone(), 0).has_room());
        assert!(!DiskReserve::new(here, u64::MAX).has_room());
        assert!(DiskReserve::new(vec!["/does/not/exist".into()], u64::MAX).has_room(), "nobody can tell");
    }
}

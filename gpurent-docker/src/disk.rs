//! Whether this machine's disks have room for another rental.

use std::path::{Path, PathBuf};

use gpurent_core::placement::DiskProbe;

/// Keeps a reserve free on the file systems of some folders: the engine's, for tenants' layers and logs, and
/// that of the host's own books.
#[derive(Clone, Debug)]
pub struct DiskReserve {
    folders: Vec<PathBuf>,
    bytes: u64,
}

impl DiskReserve {
    /// Keeps `bytes` free where `folders` lie.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>, bytes: u64) -> Self {
        Self { folders, bytes }
    }
}

/// What an unprivileged program could still write there; `None` where nobody can tell.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free(_folder: &Path) -> Option<u64> {
    None
}

impl DiskProbe for DiskReserve {
    fn has_room(&self) -> bool {
        self.folders.iter().all(|folder| free(folder).is_none_or(|free| free > self.bytes))
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

//! How much room the disk has that containers and workspaces share.

/// Tells whether the host's disks have room for another rental. Called inside the store's claim, so it must not wait.
pub trait DiskProbe: Send + Sync {
    /// Whether there is more than is kept for those who are here already.
    fn has_room(&self) -> bool;

    /// Whether there is so much more, in bytes: for files that are copied before the old ones go.
    fn has_room_for(&self, _bytes: u64) -> bool {
        self.has_room()
    }
}

/// Asks nobody: for fakes, and for engines on another machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDiskProbe;

impl DiskProbe for NoDiskProbe {
    fn has_room(&self) -> bool {
        true
    }
}

//! Disk space: how much of it renters share, what one rental may write, and when one is warned or stopped because of it.
//!
//! An engine limits memory and CPUs by itself, disk space as a rule not: what a tenant writes into the container and the
//! workspace is measured again and again, and compared with the part of the disk that is theirs. A rental is never ended for
//! what it found there, nor while it makes room: only while it is over its limit and still writes more.

use crate::division::Part;
use serde::{Deserialize, Serialize};

/// Space on a disk: bytes, and files with folders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// Bytes that are allocated.
    pub bytes: u64,
    /// Files and folders.
    pub files: u64,
}

impl DiskUse {
    /// As much as there may be.
    pub const MAX: Self = Self { bytes: u64::MAX, files: u64::MAX };

    /// Each of both numbers combined with the other's.
    fn map(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self { bytes: of(self.bytes, other.bytes), files: of(self.files, other.files) }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.map(other, u64::saturating_add)
    }

    /// What is left without the other; nothing rather than less.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.map(other, u64::saturating_sub)
    }

    /// Whether there are more bytes or more files than in the other.
    #[must_use]
    pub fn exceeds(self, other: Self) -> bool {
        self.bytes > other.bytes || self.files > other.files
    }

    /// A phrase for people: of a rental's use and its limit the number that is nearer to the limit.
    #[must_use]
    pub fn beside(self, limit: Self) -> String {
        let share = |used: u64, limit: u64| u128::from(used) * 1000 / u128::from(limit.max(1));
        if share(self.files, limit.files) > share(self.bytes, limit.bytes) {
            return format!("{} of {} files", self.files, limit.files);
        }
        let tenths = |bytes: u64| u128::from(bytes) * 10 / (1024 * 1024 * 1024);
        let gib = |bytes: u64| format!("{}.{} GiB", tenths(bytes) / 10, tenths(bytes) % 10);
        format!("{} of {}", gib(self.bytes), gib(limit.bytes))
    }

    /// The part of it that somebody has.
    fn part(self, part: Part) -> Self {
        Self { bytes: part.of(self.bytes), files: part.of(self.files) }
    }

    /// So much of it that a warning is due.
    fn almost(self) -> Self {
        self.map(Self::default(), |amount, _| amount - amount / 10)
    }
}

/// The disk on which containers and workspaces lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it. A file system that does not count files has [`u64::MAX`] of them.
    pub total: DiskUse,
    /// What is free.
    pub free: DiskUse,
    /// What is to be kept free.
    pub kept: DiskUse,
}

impl DiskSpace {
    /// Whether less is free than is to be kept free.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.kept.exceeds(self.free)
    }
}

/// Tells how much room there is on the host's disks.
pub trait DiskProbe: Send + Sync {
    /// Whether there is more than is kept for those who are here already. Called inside the store's claim, so it must not
    /// wait.
    fn has_room(&self) -> bool;

    /// The disk on which containers and workspaces lie; `None` where nobody can tell. It must not wait either.
    fn space(&self) -> Option<DiskSpace> {
        None
    }
}

/// Asks nobody: for fakes, and for engines on another machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct AlwaysRoom;

impl DiskProbe for AlwaysRoom {
    fn has_room(&self) -> bool {
        true
    }
}

/// How much a rental may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskLimit {
    /// The part of the disk that is its GPUs' part of the machine, less what is kept free. Without a
    /// [`DiskProbe`] that tells of the disk there is no limit.
    #[default]
    Part,
    /// So many bytes for each of its GPUs, and for a rental without one.
    Bytes(u64),
    /// As much as there is.
    None,
}

impl DiskLimit {
    /// The limit of a rental that has this part of the machine. `used` is what all rentals of the host have written
    /// together. While the disk is low, nobody may have more than their part of what renters have and could have.
    #[must_use]
    pub fn of(self, part: Part, space: Option<&DiskSpace>, used: DiskUse) -> Option<DiskUse> {
        let usual = match (self, space) {
            (Self::None, _) | (Self::Part, None) => None,
            (Self::Part, Some(space)) => Some(space.total.minus(space.kept).part(part)),
            (Self::Bytes(bytes), _) => Some(DiskUse { bytes: bytes.saturating_mul(part.count()), files: u64::MAX }),
        };
        let Some(low) = space.filter(|space| space.is_low()) else { return usual };
        let fair = low.free.plus(used).minus(low.kept).part(part);
        let fair = fair.map(AT_LEAST, u64::max);
        Some(usual.map_or(fair, |usual| usual.map(fair, u64::min)))
    }
}

/// However low the disk is, for less than that nobody is ended.
const AT_LEAST: DiskUse = DiskUse { bytes: 256 * 1024 * 1024, files: 50_000 };

/// What is to be done about a rental's use of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// Its renter is told.
    Warn,
    /// It ends.
    Stop,
}

/// Judges what a rental has written. `before` is what it had when it was looked at the last time; at the first look it may
/// have found all of it in its workspace.
#[must_use]
pub fn judge(used: DiskUse, before: Option<DiskUse>, limit: DiskUse) -> Verdict {
    let writes_on = before.is_some_and(|before| {
        let more = |limit: u64, used: u64, before: u64| used > limit && used > before;
        more(limit.bytes, used.bytes, before.bytes) || more(limit.files, used.files, before.files)
    });
    // From there on it is not counted any further, so that nobody can tell whether it still writes.
    let most = most_counted(limit);
    let is_far_beyond = before.is_some() && (used.bytes >= most.bytes || used.files >= most.files);
    if writes_on || is_far_beyond {
        Verdict::Stop
    } else if used.exceeds(limit.almost()) {
        Verdict::Warn
    } else {
        Verdict::Fine
    }
}

/// How far a rental's files are counted.
#[must_use]
pub fn most_counted(limit: DiskUse) -> DiskUse {
    limit.plus(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::division::Division;

    const GIB: u64 = 1024 * 1024 * 1024;

    fn gib(bytes: u64) -> DiskUse {
        DiskUse { bytes: bytes * GIB, files: 10 }
    }

    fn disk(total: u64, free: u64, kept: u64) -> DiskSpace {
        let space = |bytes: u64| DiskUse { bytes: bytes * GIB, files: bytes * 100_000 };
        DiskSpace { total: space(total), free: space(free), kept: space(kept) }
    }

    #[test]
    fn a_rental_is_ended_for_what_it_writes_beyond_its_limit_and_not_for_what_it_found() {
        let limit = DiskUse { bytes: 10 * GIB, files: 1000 };
        assert_eq!(judge(gib(5), Some(gib(4)), limit), Verdict::Fine);
        assert_eq!(judge(gib(10), Some(gib(9)), limit), Verdict::Warn);
        assert_eq!(judge(gib(12), None, limit), Verdict::Warn, "found");
        assert_eq!(judge(gib(12), Some(gib(12)), limit), Verdict::Warn, "nothing more");
        assert_eq!(judge(gib(11), Some(gib(12)), limit), Verdict::Warn, "makes room");
        assert_eq!(judge(gib(12), Some(gib(11)), limit), Verdict::Stop);
        assert_eq!(judge(gib(20), Some(gib(20)), limit), Verdict::Stop, "no longer counted");
        let many = |files| DiskUse { bytes: 1, files };
        assert_eq!(judge(many(1002), Some(many(1001)), limit), Verdict::Stop);
        assert_eq!(judge(many(950), Some(many(10)), limit), Verdict::Warn);
    }

    #[test]
    fn a_rental_has_the_part_of_its_gpus() {
        let part = |gpus| Division { gpus: 4, without_gpu: 0 }.part(gpus);
        let space = disk(1001, 900, 1);
        assert_eq!(DiskLimit::Part.of(part(1), Some(&space), gib(0)).map(|limit| limit.bytes), Some(250 * GIB));
        assert_eq!(DiskLimit::Part.of(part(4), Some(&space), gib(0)).map(|limit| limit.bytes), Some(1000 * GIB));
        assert_eq!(DiskLimit::Part.of(part(1), None, gib(0)), None);
        let fixed = DiskLimit::Bytes(20 * GIB).of(part(2), None, gib(0));
        assert_eq!(fixed, Some(DiskUse { bytes: 40 * GIB, files: u64::MAX }));
        assert_eq!(DiskLimit::None.of(part(1), Some(&space), gib(0)), None);
    }

    #[test]
    fn while_the_disk_is_low_renters_share_what_they_have() {
        // Others fill the disk: of 1000 GiB renters have 40, and 1 is free where 2 are to be kept.
        let space = disk(1000, 1, 2);
        let limit = DiskLimit::None.of(Division { gpus: 4, without_gpu: 0 }.part(1), Some(&space), gib(41));
        assert_eq!(limit.map(|limit| limit.bytes), Some(10 * GIB));
        let nothing = DiskLimit::Part.of(Division { gpus: 4, without_gpu: 0 }.part(1), Some(&space), gib(0));
        assert_eq!(nothing.map(|limit| limit.bytes), Some(AT_LEAST.bytes), "nobody ends for almost nothing");
    }
}

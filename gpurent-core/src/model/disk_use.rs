//! Space on a disk, counted in bytes and in files.

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
    /// The most there can be of each; stands for no limit.
    pub const MAX: Self = Self { bytes: u64::MAX, files: u64::MAX };

    /// Each of both numbers combined with the other's.
    pub(crate) fn map(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self { bytes: of(self.bytes, other.bytes), files: of(self.files, other.files) }
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.map(other, u64::saturating_add)
    }

    /// The difference to the other, never below zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.map(other, u64::saturating_sub)
    }

    /// The smaller of both numbers, each for itself.
    #[must_use]
    pub fn at_most(self, other: Self) -> Self {
        self.map(other, u64::min)
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
}

//! The division of a machine among those who rent it, so that all they may have together is no more than there is.

/// The shares that a machine is divided into: its GPUs, and containers without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// The GPUs to rent. Each has an equal part of the machine.
    pub gpus: u32,
    /// How many containers without a GPU there may be at once. All of them together have the part of one GPU more.
    pub without_gpu: u32,
}

impl Default for Division {
    /// One who has all of it.
    fn default() -> Self {
        Self { gpus: 1, without_gpu: 0 }
    }
}

impl Division {
    /// The part of a rental that has so many GPUs.
    #[must_use]
    pub fn part(self, gpus: usize) -> Part {
        let (all, without_gpu) = (u64::from(self.gpus), u64::from(self.without_gpu));
        let parts = (all + u64::from(without_gpu > 0)).max(1);
        match u64::try_from(gpus).unwrap_or(u64::MAX) {
            0 => Part { of: 1, parts: parts * without_gpu.max(1) },
            gpus => Part { of: gpus.min(parts), parts },
        }
    }
}

/// A part of a machine: so many of so many equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    of: u64,
    parts: u64,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { of: 1, parts: 1 };

    /// How much it is of an amount; of [`u64::MAX`], which stands for an amount without limit, all.
    #[must_use]
    pub fn of(self, amount: u64) -> u64 {
        if amount == u64::MAX {
            return amount;
        }
        let part = u128::from(amount) * u128::from(self.of) / u128::from(self.parts.max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// How many equal parts it is made of.
    #[must_use]
    pub fn count(self) -> u64 {
        self.of
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn containers_without_a_gpu_share_the_part_of_one() {
        let division = Division { gpus: 3, without_gpu: 4 };
        assert_eq!([1, 2, 3, 0].map(|gpus| division.part(gpus).of(1600)), [400, 800, 1200, 100]);
        assert_eq!(Division { gpus: 0, without_gpu: 4 }.part(0).of(1600), 400);
        assert_eq!(Division::default().part(1).of(1600), 1600);
    }

    proptest! {
        #[test]
        fn all_together_have_no_more_than_there_is(gpus in 1u32..64, without_gpu in 0u32..64, amount: u64) {
            let division = Division { gpus, without_gpu };
            let with = u128::from(division.part(1).of(amount)) * u128::from(gpus);
            let without = u128::from(division.part(0).of(amount)) * u128::from(without_gpu);
            prop_assert!(amount == u64::MAX || with + without <= u128::from(amount));
        }
    }
}

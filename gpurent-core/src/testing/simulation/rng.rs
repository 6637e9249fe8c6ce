//! Chance that can be had again: every decision of a history follows from the history's number alone.

/// The decisions of one history. Each is drawn from the number, its purpose and its ordinal, so that
/// leaving one out does not change the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rng(u64);

/// The subject of a decision.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// The actions of the history, and when.
    Happening = 1,
    /// Which fault hits a call.
    Fault,
    /// How long a call takes.
    Latency,
    /// The process that goes on next.
    Turn,
    /// The suspensions and resumptions, and when.
    Pause,
    /// The container that fills the disk, and when.
    Fill,
}

impl Rng {
    pub(super) fn of(number: u64) -> Self {
        Self(number)
    }

    /// A draw for one purpose.
    pub(super) fn draw(self, purpose: Purpose, ordinal: u32) -> Draw {
        Draw(mix(self.0 ^ mix((purpose as u64) << 32 | u64::from(ordinal))))
    }
}

/// A sequence of numbers. SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// One of `0..end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// One of `from..=to`.
    pub(super) fn between(&mut self, from: i64, to: i64) -> i64 {
        from + i64::try_from(self.below((to - from + 1).unsigned_abs())).unwrap_or(0)
    }

    /// True so often in a thousand.
    pub(super) fn per_mille(&mut self, often: u64) -> bool {
        self.below(1000) < often
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

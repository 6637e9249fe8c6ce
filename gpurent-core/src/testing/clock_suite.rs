//! The clauses that every [`Clock`] has to keep.

use crate::clock::Clock;

/// Makes one test of every clause: `clock_suite!(MAKE)`. `MAKE` is called for each test and gives a clock.
#[macro_export]
macro_rules! clock_suite {
    ($make:expr) => {
        $crate::clock_suite!(@clauses $make; time_does_not_go_back, a_boot_has_one_id);
    };
    (@clauses $make:expr; $($clause:ident),* $(,)?) => {
        $(
            #[test]
            fn $clause() {
                $crate::testing::clock_suite::$clause(&($make)());
            }
        )*
    };
}

/// How often the clock is read.
const READINGS: usize = 10_000;

/// The boot clock does not go back, whatever becomes of the wall clock.
pub fn time_does_not_go_back(clock: &impl Clock) {
    let mut before = clock.now();
    for _ in 0..READINGS {
        let now = clock.now();
        assert!(now.boot.micros >= before.boot.micros, "{before:?} came before {now:?}");
        before = now;
    }
}

/// All readings of one process are of one boot, which has a name.
pub fn a_boot_has_one_id(clock: &impl Clock) {
    let first = clock.now();
    assert!(!first.boot.boot.0.is_empty());
    assert!((0..READINGS).all(|_| clock.now().boot.boot == first.boot.boot));
}

//! The clauses that every [`GpuProbe`] has to keep.

use std::collections::BTreeSet;

use crate::runtime::GpuProbe;
use crate::testing::valid;

/// Makes one test of every clause: `gpu_probe_suite!(BLOCK_ON, MAKE)`. `BLOCK_ON` runs a future to its end on any executor;
/// `MAKE` is called for each test and gives a probe of a machine that has GPUs.
#[macro_export]
macro_rules! gpu_probe_suite {
    ($block_on:expr, $make:expr) => {
        $crate::gpu_probe_suite!(@clauses $block_on, $make; no_two_gpus_are_the_same, gpus_keep_their_names);
    };
    (@clauses $block_on:expr, $make:expr; $($clause:ident),* $(,)?) => {
        $(
            #[test]
            fn $clause() {
                let probe = ($make)();
                ($block_on)(async move { $crate::testing::gpu_probe_suite::$clause(&probe).await });
            }
        )*
    };
}

/// There are GPUs, and each has a UUID and an index of its own, and some memory.
pub async fn no_two_gpus_are_the_same(probe: &impl GpuProbe) {
    let gpus = valid(probe.discover().await);
    assert!(!gpus.is_empty());
    let uuids: BTreeSet<_> = gpus.iter().map(|gpu| &gpu.uuid).collect();
    let indices: BTreeSet<_> = gpus.iter().map(|gpu| gpu.index).collect();
    assert_eq!((uuids.len(), indices.len()), (gpus.len(), gpus.len()), "{gpus:?}");
    assert!(gpus.iter().all(|gpu| gpu.memory_mib > 0), "{gpus:?}");
}

/// A GPU has the same UUID each time it is asked for: a rental is bound to it.
pub async fn gpus_keep_their_names(probe: &impl GpuProbe) {
    assert_eq!(valid(probe.discover().await), valid(probe.discover().await));
}

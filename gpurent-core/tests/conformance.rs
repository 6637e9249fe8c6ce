//! The fakes pass the suites that the real backends pass.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod store {
    use gpurent_core::memory::MemoryStore;

    gpurent_core::store_suite!(futures_executor::block_on, || async { MemoryStore::default() });
    gpurent_core::key_suite!(futures_executor::block_on, || async { MemoryStore::default() });
    gpurent_core::range_suite!(futures_executor::block_on, || async { MemoryStore::default() });
    gpurent_core::audit_suite!(futures_executor::block_on, || async { MemoryStore::default() });
}

mod runtime {
    use std::sync::Arc;

    use gpurent_core::memory::{ManualClock, MemoryRuntime};
    use gpurent_core::testing::runtime_suite::Fixture;

    gpurent_core::runtime_suite!(futures_executor::block_on, || async {
        Fixture {
            runtime: Arc::new(MemoryRuntime::new(ManualClock::new())),
            image: "busybox:1".parse().unwrap(),
            ssh_port: 22000.try_into().unwrap(),
        }
    });
}

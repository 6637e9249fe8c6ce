//! Docker passes the suite that the fake engine passes.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::sync::Arc;

use gpurent_core::testing::runtime_suite::Fixture;

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

gpurent_core::runtime_suite!(block_on, || async {
    Fixture {
        runtime: Arc::new(support::runtime().await),
        image: "gpurent-test/busybox:1".parse().unwrap(),
        ssh_port: support::free_port(),
    }
});

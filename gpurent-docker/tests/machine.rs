//! The machine's parts pass the suites that the fakes pass.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use std::sync::Arc;

use gpurent_docker::DeadlineFile;

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

gpurent_core::deadline_book_suite!(block_on, || {
    // Removed with the closure that opens the book.
    let folder = Arc::new(tempfile::tempdir().unwrap());
    move || DeadlineFile::in_directory(folder.path(), &"host".parse().unwrap())
});

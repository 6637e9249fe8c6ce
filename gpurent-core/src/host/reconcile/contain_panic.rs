//! A backend's panic is a failure like others: it does not end the host.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use crate::runtime::RuntimeError;
use crate::store::{DeadlineError, StoreError};

/// Runs work so that a panic in it is a failure, tried again like every other: a host does not go down with a
/// backend's mistake.
pub(super) async fn contained<T, E: From<Panicked>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_panic| {
        tracing::error!("a backend panicked; to be tried again");
        Err(Panicked.into())
    })
}

/// A backend panicked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it panicked")]
pub(super) struct Panicked;

impl From<Panicked> for StoreError {
    fn from(panicked: Panicked) -> Self {
        Self::Unavailable(Box::new(panicked))
    }
}

impl From<Panicked> for RuntimeError {
    fn from(panicked: Panicked) -> Self {
        Self::Unavailable(Box::new(panicked))
    }
}

impl From<Panicked> for DeadlineError {
    fn from(panicked: Panicked) -> Self {
        Self::Io(std::io::Error::other(panicked))
    }
}

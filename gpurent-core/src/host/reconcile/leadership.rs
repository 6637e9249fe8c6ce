//! Becoming the one process that acts for the host.

use std::error::Error;

use futures_util::future::{BoxFuture, Fuse};
use futures_util::{FutureExt, select_biased};

use crate::clock::Sleep;
use crate::error::Cause;
use crate::host::ReconcileError;
use crate::host::context::Shared;
use crate::host::reconcile::periodic::backoff;
use crate::host::reconcile::watchdog::watch_until_taken_over;
use crate::id::EngineId;
use crate::runtime::RuntimeError;
use crate::store::{StoreError, Tenure};

/// Becomes the one that acts for the host; `None` if `shutdown` came first.
pub(super) async fn take_over(
    shared: &Shared,
    sleep: &dyn Sleep,
    mut shutdown: &mut Fuse<BoxFuture<'_, ()>>,
) -> Result<Option<Taken>, ReconcileError> {
    let watch = watch_until_taken_over(shared, sleep).fuse();
    let mut watch = std::pin::pin!(watch);
    let mut failures = 0;
    let taken = loop {
        let mut attempt = std::pin::pin!(try_to_take_over(shared).fuse());
        let attempted = select_biased! {
            attempted = attempt => attempted?,
            () = shutdown => return Ok(None),
            () = watch => continue,
        };
        let error: Box<dyn Error + Send + Sync> = match attempted {
            Ok(taken) => break taken,
            Err(error) => error,
        };
        failures += 1;
        shared.standing.stuck();
        tracing::warn!(error = &*error as &dyn Error, "host not taken over yet");
        let mut timer = sleep.sleep(backoff(failures, shared.pace.max_backoff)).fuse();
        select_biased! {
            () = shutdown => return Ok(None),
            () = timer => {}
            () = watch => {}
        }
    };
    // The former holder finds out at the latest when its lease ends.
    let mut waited = sleep.sleep(shared.pace.handover).fuse();
    select_biased! {
        () = waited => Ok(Some(taken)),
        () = shutdown => Ok(None),
        () = watch => Ok(None),
    }
}

/// A host that was taken over.
pub(super) struct Taken {
    pub(super) engine: EngineId,
    pub(super) tenure: Tenure,
    /// When that was asked for, on the boot clock.
    pub(super) asked_at: i64,
}

async fn try_to_take_over(shared: &Shared) -> Result<Result<Taken, Cause>, ReconcileError> {
    let engine = match shared.runtime.engine().await {
        Ok(engine) => engine,
        Err(error @ RuntimeError::Unavailable(_)) => return Ok(Err(Box::new(error))),
        Err(error) => return Err(ReconcileError::Engine(error)),
    };
    let machine = shared.runtime.machine().await;
    let asked_at = shared.clock.now().boot.micros;
    match shared.store.take_over(&shared.host, &engine, machine.as_ref()).await {
        Ok(tenure) => {
            tracing::info!(host = %shared.host, epoch = %tenure.epoch, "host taken over");
            Ok(Ok(Taken { engine, tenure, asked_at }))
        }
        Err(error @ StoreError::Unavailable(_)) => Ok(Err(Box::new(error))),
        Err(error) => Err(ReconcileError::Refused(error)),
    }
}

//! Becoming the one process that acts for the host.

use std::error::Error;

use futures_util::future::{BoxFuture, Fuse};
use futures_util::{FutureExt, select_biased};

use crate::clock::{BootInstant, Sleep};
use crate::error::BoxError;
use crate::host::ReconcileError;
use crate::host::context::HostContext;
use crate::host::reconcile::periodic::backoff;
use crate::host::reconcile::watchdog::watch_until_taken_over;
use crate::id::EngineId;
use crate::runtime::RuntimeError;
use crate::store::{HostOwnership, StoreError};

/// Becomes the one that acts for the host; `None` if `shutdown` came first.
pub(super) async fn acquire_host(
    context: &HostContext,
    sleep: &dyn Sleep,
    mut shutdown: &mut Fuse<BoxFuture<'_, ()>>,
) -> Result<Option<AcquiredHost>, ReconcileError> {
    let watch = watch_until_taken_over(context, sleep).fuse();
    let mut watch = std::pin::pin!(watch);
    let mut failures = 0;
    let taken = loop {
        let mut attempt = std::pin::pin!(try_to_acquire_host(context).fuse());
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
        context.readiness.stalled();
        tracing::warn!(error = &*error as &dyn Error, "host not taken over yet");
        let mut timer = sleep.sleep(backoff(failures, context.config.max_backoff)).fuse();
        select_biased! {
            () = shutdown => return Ok(None),
            () = timer => {}
            () = watch => {}
        }
    };
    // The former holder finds out at the latest when its lease ends.
    let mut waited = sleep.sleep(context.config.handover).fuse();
    select_biased! {
        () = waited => Ok(Some(taken)),
        () = shutdown => Ok(None),
        () = watch => Ok(None),
    }
}

/// A host that was taken over.
pub(super) struct AcquiredHost {
    pub(super) engine: EngineId,
    pub(super) ownership: HostOwnership,
    /// When that was asked for, on the boot clock.
    pub(super) asked_at: BootInstant,
}

async fn try_to_acquire_host(context: &HostContext) -> Result<Result<AcquiredHost, BoxError>, ReconcileError> {
    let engine = match context.runtime.engine().await {
        Ok(engine) => engine,
        Err(error @ RuntimeError::Unavailable(_)) => return Ok(Err(Box::new(error))),
        Err(error) => return Err(ReconcileError::Engine(error)),
    };
    let machine = context.runtime.machine().await;
    let asked_at = context.clock.now().instant();
    match context.store.acquire_host(&context.host, &engine, machine.as_ref()).await {
        Ok(ownership) => {
            tracing::info!(host = %context.host, epoch = %ownership.epoch, "host taken over");
            Ok(Ok(AcquiredHost { engine, ownership, asked_at }))
        }
        Err(error @ StoreError::Unavailable(_)) => Ok(Err(Box::new(error))),
        Err(error) => Err(ReconcileError::Refused(error)),
    }
}

//! What the loop does for the host as a whole: take it over, observe the engine, publish what happened.

use std::error::Error;
use std::panic::AssertUnwindSafe;

use futures_util::future::{BoxFuture, Fuse};
use futures_util::{FutureExt, select_biased};

use crate::clock::Sleep;
use crate::host::context::Shared;
use crate::host::pulls::{Outcome, ToPull};
use crate::host::reconcile::periodic::backoff;
use crate::host::reconcile::step::{adopted, with_causes};
use crate::host::reconcile::watchdog::watch_until_taken_over;
use crate::host::{ReconcileError, pulls};
use crate::id::{EngineId, Epoch, LaunchId, Position, Seq};
use crate::model::{Event, JournalEntry, Recorded, Rental, SuspendCause};
use crate::runtime::{Observation, Progress, PullProgress, RuntimeError};
use crate::store::{DeadlineError, Foundling, StoreError, Tenure};

/// How many events are published at once.
pub(super) const PUBLISH_BATCH: usize = 256;

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

/// What does not answer, where the host was not taken over.
type NotYet = Box<dyn Error + Send + Sync>;

async fn try_to_take_over(shared: &Shared) -> Result<Result<Taken, NotYet>, ReconcileError> {
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

/// What became of a container whose rental the store does not know.
pub(super) enum Found {
    /// Its rental was made again, and goes on.
    Adopted(Box<Rental>),
    /// It cannot be told what it is, or its place is taken: it is left alone, for an operator to decide.
    LeftAlone,
}

/// Makes a rental again from what its container carries. What the renter pays for begins where it began, by
/// the host's own book; one that the book does not have was never ready, or lost its book too, and its access is
/// verified now.
pub(super) async fn adopt(shared: &Shared, epoch: Epoch, launch: LaunchId) -> Result<Found, NotYet> {
    let Some(found) = shared.runtime.examine(launch).await? else { return Ok(Found::LeftAlone) };
    if found.claim.id != launch.rental || found.claim.host != shared.host {
        return Ok(Found::LeftAlone);
    }
    let now = shared.clock.now();
    let claim = Event::Claimed(found.claim.clone());
    let mut events = vec![Recorded { seq: Seq::new(1), at: now.wall, event: claim }];
    let mut add = |event| {
        let seq = Seq::new(events.len() as u64 + 1);
        events.push(Recorded { seq, at: now.wall, event });
        Rental::folded(&events)
    };
    let Some(mut rental) = add(adopted(launch, &found)) else { return Ok(Found::LeftAlone) };
    if let Some((exit, retained)) = &found.retained {
        // It was suspended: it holds nothing but its files.
        let requested = Event::SuspendBegan { cause: SuspendCause::Requested };
        let stopped = Event::Stopped { exit: exit.clone(), ended: None };
        let suspended = Event::Suspended { since: now.clone(), retained: Some(retained.clone()) };
        let (Some(_), Some(_), Some(suspended)) = (add(requested), add(stopped), add(suspended)) else {
            return Ok(Found::LeftAlone);
        };
        rental = suspended;
    }
    let kept = shared.deadlines.of(launch).await;
    let kept = kept.filter(|_| found.retained.is_none());
    if let Some(kept) = kept.as_ref().filter(|_| rental.started_at().is_some()) {
        let Some(ready) = add(Event::Verified { paid_from: kept.paid_from.clone() }) else {
            return Ok(Found::LeftAlone);
        };
        rental = ready;
    }
    if let Some(kept) = kept.filter(|kept| rental.spec().term.is_shorter_than(kept.term)) {
        let Some(extended) = add(Event::Extended { term: kept.term }) else { return Ok(Found::LeftAlone) };
        rental = extended;
    }
    let fingerprint = shared.sealer.fingerprint(rental.id().to_string().as_bytes());
    shared.failpoints.pass("adopted-unrecorded");
    match shared.store.adopt(&Foundling { rental: rental.clone(), events, fingerprint }, epoch).await {
        Ok(()) => {
            shared.failpoints.pass("adopted");
            tracing::warn!(%launch, "a container was adopted: the store did not know its rental");
            Ok(Found::Adopted(Box::new(rental)))
        }
        Err(StoreError::Conflict) => Ok(Found::LeftAlone),
        Err(error) => Err(Box::new(error)),
    }
}

/// What panics has failed, and is tried again like everything that fails: a host does not go down with a
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

/// Publishes what is new. An answer that was lost may have been a yes: then what it published is read
/// from the journal, so that subscribers miss nothing.
pub(super) async fn publish(
    shared: &Shared,
    epoch: Epoch,
    fed: Position,
    doubt: bool,
) -> Result<Vec<JournalEntry>, StoreError> {
    let news = shared.store.publish(&shared.host, epoch, PUBLISH_BATCH).await?;
    let gap = news.first().is_some_and(|first| first.position > fed.next());
    if gap || (doubt && news.is_empty()) {
        return shared.store.journal(&shared.host, fed, PUBLISH_BATCH).await;
    }
    Ok(news)
}

/// Looks at the engine. That a container is absent is believed only of the engine that had it.
pub(super) async fn observe(
    shared: &Shared,
    engine: &EngineId,
    expected: &[LaunchId],
) -> Result<Observation, RuntimeError> {
    let observation = shared.runtime.observe(&shared.host).await?;
    let something_lacks = expected.iter().any(|launch| observation.of(*launch).is_none());
    if something_lacks && shared.runtime.engine().await? != *engine {
        return Err(RuntimeError::Unavailable("another engine answers at this address".into()));
    }
    Ok(observation)
}

/// Pulls an image for nobody's container yet, for as long as a rental may wait for one. Whoever asked for it waits no
/// longer than a moment.
pub(super) async fn pull(shared: &Shared, sleep: &dyn Sleep, wanted: ToPull) -> Outcome {
    /// Progress that nobody is told: the pull is of no rental.
    struct Untold;
    impl PullProgress for Untold {
        fn update(&self, _progress: Progress) {}
    }

    let mut prepared =
        std::pin::pin!(contained(shared.runtime.prepare(&wanted.launch, wanted.login.as_ref(), &Untold)).fuse());
    let mut patience = sleep.sleep(pulls::PATIENCE).fuse();
    let mut too_late = sleep.sleep(shared.timing.provisioning.unsigned_abs()).fuse();
    loop {
        select_biased! {
            prepared = prepared => return match prepared {
                Ok(_) => Outcome::Here,
                Err(error) => {
                    tracing::warn!(image = %wanted.launch.image, error = &error as &dyn Error, "image not pulled");
                    if error.failure().is_some() { Outcome::Failed(with_causes(&error)) } else { Outcome::Unknown }
                }
            },
            () = too_late => return Outcome::Failed(format!("the image {} was not pulled in time", wanted.launch.image)),
            () = patience => if let Some(pulls) = &shared.pulls {
                pulls.takes_its_time(wanted.id);
            },
        }
    }
}

//! Places for those who stay to listen: WebSockets and event streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gpurent_core::id::RenterId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Caller;
use crate::problem::Problem;

/// Listeners at once, WebSockets and event streams together.
const MAX_LISTENERS: usize = 1024;
/// Of these, one renter may have so many, and all renters together leave some.
const MAX_LISTENERS_OF_A_RENTER: usize = 32;
const KEPT_FOR_PLATFORMS: usize = 128;

/// Those who stay to listen: how many there may be, and how they are told to go.
#[derive(Clone)]
pub(crate) struct Listeners {
    pub(crate) stopping: CancellationToken,
    pub(crate) tracker: TaskTracker,
    free: Arc<Semaphore>,
    renters: Renters,
}

/// How many places each renter has taken.
type Renters = Arc<Mutex<HashMap<RenterId, usize>>>;

/// A listener's place, until it is dropped.
pub(crate) struct Place {
    _one_of_all: OwnedSemaphorePermit,
    renter: Option<(RenterId, Renters)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((renter, renters)) = &self.renter else { return };
        let mut renters = renters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = renters.get_mut(renter) {
            *count -= 1;
            if *count == 0 {
                renters.remove(renter);
            }
        }
    }
}

impl Listeners {
    pub(crate) fn new() -> Self {
        Self {
            stopping: CancellationToken::new(),
            tracker: TaskTracker::new(),
            free: Arc::new(Semaphore::new(MAX_LISTENERS)),
            renters: Arc::default(),
        }
    }

    /// A place for one more. A renter has a few; they never take those of the platform.
    pub(crate) fn enter(&self, caller: &Caller) -> Result<Place, Problem> {
        let one_of_all = Arc::clone(&self.free).try_acquire_owned().map_err(|_full| Problem::busy())?;
        let Some(renter) = caller.scope() else { return Ok(Place { _one_of_all: one_of_all, renter: None }) };
        if self.free.available_permits() < KEPT_FOR_PLATFORMS {
            return Err(Problem::busy());
        }
        let mut renters = self.renters.lock().unwrap_or_else(PoisonError::into_inner);
        let count = renters.entry(renter.clone()).or_default();
        if *count >= MAX_LISTENERS_OF_A_RENTER {
            return Err(Problem::busy());
        }
        *count += 1;
        drop(renters);
        Ok(Place { _one_of_all: one_of_all, renter: Some((renter, Arc::clone(&self.renters))) })
    }
}

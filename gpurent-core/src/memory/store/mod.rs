//! A store in memory. Holds the rules, loses everything with the process.

mod every_process;
mod owner;
mod rows;
#[cfg(feature = "testing")]
mod snapshot;

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::memory::store::rows::Tables;
#[cfg(feature = "testing")]
pub(crate) use crate::memory::store::snapshot::StoreSnapshot;
use crate::model::{Rental, RentalState};
use crate::store::{Change, StoreError};

/// The shortest part of a container's id that is taken for it, as Docker shows it.
const SHORT_ID: usize = 12;

/// A store for tests and for trying things out.
#[derive(Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
    /// Rung when a hanging store goes on.
    goes_on: event_listener::Event,
}

type Interference = Box<dyn Fn(Rental) -> Option<Change> + Send>;

impl MemoryStore {
    /// Lets the store answer, or not.
    pub fn set_available(&self, available: bool) {
        self.lock().away = !available;
    }

    /// Lets the store hang, as a database does whose disk does: calls neither succeed nor fail.
    pub fn set_hanging(&self, hangs: bool) {
        self.lock().hangs = hangs;
        self.goes_on.notify(usize::MAX);
    }

    /// Lets somebody else write before every other write of the host's holder, so that whoever tries again gets
    /// through: `change` is given the rental as it is, and makes the other's change of it, or none.
    pub fn interfere(&self, change: impl Fn(Rental) -> Option<Change> + Send + 'static) {
        self.lock().interference = Some(Box::new(change));
    }

    /// Lets the next `n` claims, commits and publications happen, and their answers get lost.
    pub fn lose_answers(&self, n: u32) {
        self.lock().answers_to_lose = n;
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::memory) async fn open(&self) -> Result<MutexGuard<'_, Tables>, StoreError> {
        loop {
            // Listened to before the look, so that no change falls in between.
            let goes_on = self.goes_on.listen();
            {
                let tables = self.lock();
                if tables.away {
                    return Err(StoreError::Unavailable("the store is away".into()));
                }
                if !tables.hangs {
                    return Ok(tables);
                }
            }
            goes_on.await;
        }
    }
}

/// The time of a rental's end.
fn ended_at(rental: &Rental) -> Option<Timestamp> {
    match rental.state() {
        RentalState::Ended { at, .. } => Some(*at),
        _ => None,
    }
}

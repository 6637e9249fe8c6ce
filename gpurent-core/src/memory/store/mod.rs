//! A store in memory. Holds the rules, loses everything with the process.

mod every_process;
mod owner;
mod rows;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::id::{Epoch, HostId, IdempotencyKey, RentalId, RenterId};
use crate::memory::store::rows::{HostRow, RentalRow, Tables};
use crate::model::{Fingerprint, RecordedEvent, Rental, RentalState};
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

/// See [`MemoryStore::snapshot`].
#[cfg(feature = "testing")]
#[derive(Clone)]
pub(crate) struct StoreSnapshot {
    hosts: BTreeMap<HostId, HostRow>,
    rentals: BTreeMap<RentalId, RentalRow>,
    claimed: Vec<RentalId>,
    unpublished: Vec<(HostId, RentalId, RecordedEvent)>,
    keys: BTreeMap<(HostId, RenterId, IdempotencyKey), (Fingerprint, RentalId)>,
}

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

    /// Everything, as a backup has it.
    #[cfg(feature = "testing")]
    pub(crate) fn snapshot(&self) -> StoreSnapshot {
        let tables = self.lock();
        StoreSnapshot {
            hosts: tables.hosts.clone(),
            rentals: tables.rentals.clone(),
            claimed: tables.claimed.clone(),
            unpublished: tables.unpublished.clone(),
            keys: tables.keys.clone(),
        }
    }

    /// Sets everything back to a backup.
    #[cfg(feature = "testing")]
    pub(crate) fn restore(&self, backup: StoreSnapshot) {
        let mut tables = self.lock();
        tables.writes += 1;
        tables.hosts = backup.hosts;
        tables.rentals = backup.rentals;
        tables.claimed = backup.claimed;
        tables.unpublished = backup.unpublished;
        tables.keys = backup.keys;
    }

    /// All rentals, live or ended.
    #[cfg(feature = "testing")]
    pub(crate) fn all(&self) -> Vec<Rental> {
        self.lock().rentals.values().map(|row| row.rental.clone()).collect()
    }

    /// A host's current epoch.
    #[cfg(feature = "testing")]
    pub(crate) fn epoch_of(&self, host: &HostId) -> Option<Epoch> {
        self.lock().hosts.get(host).map(|row| row.epoch)
    }

    /// How often something was written.
    #[cfg(feature = "testing")]
    pub(crate) fn writes(&self) -> u64 {
        self.lock().writes
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

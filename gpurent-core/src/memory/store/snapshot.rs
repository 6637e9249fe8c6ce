//! The store in memory as the simulation backs it up, sets it back and looks into it.

use std::collections::BTreeMap;

use crate::id::{Epoch, HostId, IdempotencyKey, RentalId, RenterId};
use crate::memory::MemoryStore;
use crate::memory::store::rows::{HostRow, RentalRow};
use crate::model::{Fingerprint, RecordedEvent, Rental};

/// See [`MemoryStore::snapshot`].
#[derive(Clone)]
pub(crate) struct StoreSnapshot {
    hosts: BTreeMap<HostId, HostRow>,
    rentals: BTreeMap<RentalId, RentalRow>,
    claimed: Vec<RentalId>,
    unpublished: Vec<(HostId, RentalId, RecordedEvent)>,
    keys: BTreeMap<(HostId, RenterId, IdempotencyKey), (Fingerprint, RentalId)>,
}

impl MemoryStore {
    /// Everything, as a backup has it.
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
    pub(crate) fn all(&self) -> Vec<Rental> {
        self.lock().rentals.values().map(|row| row.rental.clone()).collect()
    }

    /// A host's current epoch.
    pub(crate) fn epoch_of(&self, host: &HostId) -> Option<Epoch> {
        self.lock().hosts.get(host).map(|row| row.epoch)
    }

    /// How often something was written.
    pub(crate) fn writes(&self) -> u64 {
        self.lock().writes
    }
}

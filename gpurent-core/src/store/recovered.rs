//! Rentals that were made again from what their containers carry.

use crate::model::{Fingerprint, RecordedEvent, Rental};

/// A rental that was made again from what its container carries.
#[derive(Clone, Debug)]
pub struct RecoveredRental {
    /// The rental.
    pub rental: Rental,
    /// All of its events.
    pub events: Vec<RecordedEvent>,
    /// Stands for how it was asked for, which nobody knows any more.
    pub fingerprint: Fingerprint,
}

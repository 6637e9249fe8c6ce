//! Values between the domain's types and the columns of any database.

use gpurent_core::id::Seq;
use gpurent_core::model::{RecordedEvent, Rental, RentalEvent, RentalState};
use gpurent_core::store::{Change, StoreError};
use jiff::Timestamp;

/// Unsigned counters are stored in signed columns; they never grow so far that it matters.
pub(crate) fn signed(counter: u64) -> i64 {
    i64::try_from(counter).unwrap_or(i64::MAX)
}

/// The reverse of [`signed`].
pub(crate) fn unsigned(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

/// A time of the stored microseconds.
pub(crate) fn time(micros: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(micros).map_err(|error| StoreError::Corrupt(Box::new(error)))
}

/// A rental's columns beside its body.
pub(crate) struct RentalColumns<'a> {
    pub(crate) phase: &'static str,
    pub(crate) renter: &'a str,
    pub(crate) end_kind: Option<&'static str>,
    pub(crate) revision: i64,
    pub(crate) created_at: i64,
    pub(crate) expires_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) gpus: Vec<String>,
    pub(crate) ports: Vec<i32>,
}

impl<'a> RentalColumns<'a> {
    pub(crate) fn of(rental: &'a Rental) -> Self {
        let mut gpus: Vec<String> = Vec::new();
        let mut ports: Vec<i32> = Vec::new();
        if rental.is_live() {
            gpus.extend(rental.gpus().iter().map(|gpu| gpu.uuid.to_string()));
            ports.extend(rental.ports().iter().map(|binding| i32::from(binding.host.get())));
        }
        // Always in one order, so that two writers wait for each other instead of deadlocking.
        gpus.sort();
        ports.sort_unstable();
        let (end_kind, ended_at) = match rental.state() {
            RentalState::Ended { reason, at } => (Some(reason.kind().as_str()), Some(at.as_microsecond())),
            _ => (None, None),
        };
        Self {
            phase: rental.state().phase().as_str(),
            end_kind,
            ended_at,
            renter: rental.spec().renter.as_str(),
            revision: signed(rental.revision().get()),
            created_at: rental.created_at().as_microsecond(),
            expires_at: rental.expires_at().map(Timestamp::as_microsecond),
            gpus,
            ports,
        }
    }
}

/// Up to when kept lines of the host are out of date with a change: with every end, and with new lines.
pub(crate) fn forgets_logs_of(change: &Change) -> Option<Timestamp> {
    let ended = change.events().iter().find(|recorded| matches!(recorded.event, RentalEvent::Ended));
    change.log_tail().map(|tail| tail.at).or(ended.map(|recorded| recorded.at))
}

/// An event from its columns.
pub(crate) fn recorded(
    seq: i64,
    at: i64,
    event: gpurent_core::model::RentalEvent,
) -> Result<RecordedEvent, StoreError> {
    Ok(RecordedEvent { seq: Seq::new(unsigned(seq)), at: time(at)?, event })
}

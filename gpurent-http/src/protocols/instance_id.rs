//! The ids by which the `instances` protocol tells its instances, and by which it is asked for them.

use std::time::Duration;

use gpurent_core::host::Rentals;
use gpurent_core::id::RentalId;
use gpurent_core::model::Rental;
use gpurent_core::store::StoreError;
use jiff::{SignedDuration, Timestamp};

use crate::protocols::wait::WAIT_LIMIT;

/// The end of the wait in which a start is told as if it had come too late: its record may have.
const MARGIN: Duration = Duration::from_secs(2);

/// Marks rentals of this protocol: they are told of in its own words.
pub(super) const MARK: &str = "instances.gpu";

/// The id that an instance is told by, always the same: its container's, or its own where the container was not started in
/// time for the answer that promised an id. Either is understood.
pub(super) fn shown_id(rental: &Rental) -> String {
    let container = rental.container().filter(|_| was_prompt(rental.created_at(), rental.started_at()));
    container.map_or_else(|| rental.id().to_string(), ToString::to_string)
}

/// Whether a container that was started then is in the answer to a request that was taken then.
fn was_prompt(created_at: Timestamp, started_at: Option<Timestamp>) -> bool {
    let in_time = WAIT_LIMIT.saturating_sub(MARGIN);
    started_at.is_some_and(|at| at.duration_since(created_at) < SignedDuration::try_from(in_time).unwrap_or_default())
}

/// The rental that a container's id, or the rental's own, stands for.
pub(super) async fn find(rentals: &Rentals, id: &str) -> Result<Option<Rental>, StoreError> {
    if let Ok(id) = id.parse::<RentalId>() {
        return rentals.get(id).await;
    }
    match id.parse() {
        Ok(container) => rentals.of_container(&container).await,
        // What can be no id is nobody's.
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_starts_too_late_for_the_answer_is_not_the_id_that_is_told() {
        let asked = Timestamp::UNIX_EPOCH;
        let after = |secs| Some(asked + SignedDuration::from_secs(secs));
        assert!(was_prompt(asked, after(1)) && was_prompt(asked, after(22)));
        assert!(!was_prompt(asked, None));
        for late in [23, 24, 25, 26, 3600] {
            assert!(!was_prompt(asked, after(late)), "{late}");
        }
    }
}

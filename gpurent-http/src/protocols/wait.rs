//! Waiting for a rental: these protocols answer once something has happened, not once it was asked for.

use std::sync::Arc;
use std::time::Duration;

use gpurent_core::host::{Rentals, Subscription};
use gpurent_core::model::Rental;
use tokio::time::Instant;

/// How long an answer waits at most.
pub(super) const WAIT_LIMIT: Duration = Duration::from_secs(25);

/// The rental once `is_so`, or as it is when the time is over. `updates` has to be older than whatever was asked for.
pub(super) async fn until(
    rentals: &Rentals,
    rental: Rental,
    mut updates: Subscription,
    deadline: Instant,
    is_so: impl Fn(&Rental) -> bool,
) -> Rental {
    let id = rental.id();
    let mut latest = rental;
    let wait = async {
        loop {
            // A store that does not answer now may do so before the time is over.
            if let Ok(Some(found)) = rentals.get(id).await {
                latest = found;
                if is_so(&latest) {
                    return;
                }
            }
            // They tell all that it becomes. It is read again where updates were missed, and where one is no later than what is
            // known: either it was told before that, or the store was set back.
            while let Ok(Some(told)) = updates.next_of(id).await {
                if told.last_seq() <= latest.last_seq() {
                    break;
                }
                latest = Arc::unwrap_or_clone(told);
                if is_so(&latest) {
                    return;
                }
            }
        }
    };
    // What it is by then is the answer.
    drop(tokio::time::timeout_at(deadline, wait).await);
    latest
}

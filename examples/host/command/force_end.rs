//! `force-end`: ends a rental in the database alone, where its engine is gone for good.

use clap::Args;
use gpurent_core::id::RentalId;
use gpurent_core::last_resort::{ForceEndError, force_end as end};
use jiff::Timestamp;
use serde_json::json;

use super::keys::{Where, stored};
use super::show;
use crate::exit::Failed;

/// Which rental, and what is known of its end.
#[derive(Args)]
pub struct ForceEnd {
    /// The rental's id.
    rental: RentalId,
    /// Confirms that its engine will never come back. A container that still runs somewhere would go on
    /// running, on a GPU that is rented out again.
    #[arg(long, required = true)]
    the_engine_is_gone: bool,
    /// When it was last known to run (RFC 3339): it is billed to that time at the most. By default only
    /// the minimum is charged.
    #[arg(long)]
    last_seen: Option<Timestamp>,
    #[command(flatten)]
    place: Where,
}

/// Ends it.
pub async fn force_end(arguments: ForceEnd, as_json: bool) -> Result<(), Failed> {
    let store = arguments.place.open().await?.store;
    let id = arguments.rental;
    let rental = store.get(id).await.map_err(stored)?;
    let rental = rental.ok_or_else(|| Failed::NotFound(format!("there is no rental {id}")))?;
    let last_seen = arguments.last_seen.or(rental.started_at()).unwrap_or_else(|| rental.created_at());
    let now = Timestamp::now();
    let ended = end(&*store, id, last_seen, now).await.map_err(|error| match error {
        ForceEndError::Store(error) => stored(error),
        other => Failed::Refused(other.to_string()),
    })?;
    let ended = ended.ok_or_else(|| Failed::NotFound(format!("there is no rental {id}")))?;
    if as_json {
        show::json(&json!({"id": id, "bill": ended.bill(now)}));
    } else {
        show::line(&format!("{id} ended; its GPUs and ports are free"));
    }
    Ok(())
}

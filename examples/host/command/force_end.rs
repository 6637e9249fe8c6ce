//! `force-end`: ends a rental in the database alone, where its engine is gone for good.

use std::time::Duration;

use clap::Args;
use gpurent_core::host::{ForceEndError, force_end as end};
use gpurent_core::id::RentalId;
use gpurent_core::runtime::ContainerRuntime;
use gpurent_docker::{AccessKit, DockerRuntime};
use jiff::Timestamp;
use serde_json::json;

use super::keys::{KeyLocation, stored};
use super::show;
use crate::config::Engine;
use crate::exit::{Failed, with_causes};

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
    place: KeyLocation,
    #[command(flatten)]
    engine: Engine,
}

/// How long an engine may take to answer that is said to be gone.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(10);

/// The engine at the host's address, if it is the one that the rental is on. One that does not answer is gone.
async fn engine_of(arguments: &ForceEnd) -> Option<DockerRuntime> {
    let kit = match AccessKit::from_host().await {
        Ok(kit) => kit,
        Err(error) => {
            // It runs where no host is set up: the operator's word has to do.
            tracing::warn!(error = &error as &dyn std::error::Error, "no engine is looked at");
            return None;
        }
    };
    let connected = tokio::time::timeout(ENGINE_TIMEOUT, DockerRuntime::connect(arguments.engine.address(), kit)).await;
    match connected {
        // Only looked at: its firewall is the agent's to set.
        Ok(Ok(engine)) => Some(engine.without_firewall()),
        Ok(Err(error)) => {
            tracing::info!(error = &error as &dyn std::error::Error, "no engine answers");
            None
        }
        Err(_late) => None,
    }
}

/// Ends it.
pub async fn force_end(arguments: ForceEnd, as_json: bool) -> Result<(), Failed> {
    let store = arguments.place.open().await?.store;
    let id = arguments.rental;
    let rental = store.get(id).await.map_err(stored)?;
    let rental = rental.ok_or_else(|| Failed::NotFound(format!("there is no rental {id}")))?;
    let last_seen = arguments.last_seen.or(rental.started_at()).unwrap_or_else(|| rental.created_at());
    let now = Timestamp::now();
    let engine = engine_of(&arguments).await;
    let engine = engine.as_ref().map(|engine| engine as &dyn ContainerRuntime);
    let ended = end(&*store, engine, id, last_seen, now).await.map_err(|error| match error {
        ForceEndError::Store(error) => stored(error),
        ForceEndError::Engine(error) => Failed::Unavailable(with_causes(&error)),
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

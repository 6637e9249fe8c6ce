//! `reconcile --dry-run`: what the agent would do next, read from database and engine; nothing is changed.

use clap::Args;
use gpurent_core::clock::{Clock, SystemClock};
use gpurent_core::host::{Planned, plan};
use gpurent_core::id::HostId;
use gpurent_core::runtime::{ContainerRuntime, RuntimeError};
use gpurent_docker::{AccessKit, DockerRuntime};
use serde_json::json;

use super::keys::{KeyLocation, stored};
use super::show;
use crate::config::{Engine, Timeouts};
use crate::exit::{Failed, with_causes};

/// The settings of the dry run.
#[derive(Args)]
pub struct Reconcile {
    /// Only say what would be done. The agent does it by itself while it runs, so nothing else is offered.
    #[arg(long, required = true)]
    dry_run: bool,
    /// The host's id; the machine's name by default.
    #[arg(long, env = "GPURENT_HOST_ID")]
    host_id: Option<HostId>,
    #[command(flatten)]
    engine: Engine,
    /// As the agent is set.
    #[command(flatten)]
    timeouts: Timeouts,
    #[command(flatten)]
    place: KeyLocation,
}

/// Shows the plan.
pub async fn reconcile(arguments: Reconcile, as_json: bool) -> Result<(), Failed> {
    let host = match arguments.host_id {
        Some(host) => host,
        None => crate::config::machine_name().map_err(|error| Failed::Here(error.to_string()))?,
    };
    let store = arguments.place.open().await?.store;
    let engine = |error: RuntimeError| Failed::Unavailable(with_causes(&error));
    let kit = AccessKit::from_host().await.map_err(|error| Failed::here(&error))?;
    let runtime = DockerRuntime::connect(arguments.engine.address(), kit).await.map_err(engine)?;
    let observation = runtime.observe(&host).await.map_err(engine)?;
    let live = store.live(&host).await.map_err(stored)?;
    let mut others = Vec::new();
    for seen in &observation.containers {
        let id = seen.launch.rental;
        if !live.iter().chain(&others).any(|rental| rental.id() == id) {
            others.extend(store.get(id).await.map_err(stored)?);
        }
    }
    let now = SystemClock::new().now();
    let plan = plan(&live, &others, &observation, &now, &arguments.timeouts.timing());
    if as_json {
        show::json(&json!({"host_id": host, "plan": plan}));
        return Ok(());
    }
    let rows = plan.iter().map(|line| match line {
        Planned::Step { rental, state, action } => row(rental, state, action),
        Planned::EndedByItself { rental, found } => row(rental, found, "end it, bill to that moment, free its GPUs"),
        Planned::Runs { rental, .. } => row(rental, "runs", "nothing"),
        Planned::Waits { rental, files: true } => row(rental, "suspended, with its files", "nothing"),
        Planned::Waits { rental, files: false } => row(rental, "suspended, and its container is gone", "nothing"),
        Planned::Unknown { rental, launch } => {
            row(rental, &format!("the engine does not answer for {}", launch.container_name()), "ask again")
        }
        Planned::HeldUp { rental } => row(rental, "another container has, or may have, its GPU", "wait"),
        Planned::TakeUp { rental, launch } => {
            row(rental, "is behind its container", &format!("go on with {}", launch.container_name()))
        }
        Planned::PutAway { launch } => {
            row(&launch.rental, "suspended, and not put away", &format!("put {} away", launch.container_name()))
        }
        Planned::Remove { launch } => row(&launch.rental, "has ended", &format!("remove {}", launch.container_name())),
        Planned::Adopt { launch } => {
            row(&launch.rental, "unknown to the database", &format!("adopt {}", launch.container_name()))
        }
        Planned::Quarantine { launch } => {
            row(&launch.rental, "unknown to the database", &format!("leave {} alone", launch.container_name()))
        }
    });
    show::table(&["RENTAL", "FOUND", "NEXT"], rows.collect());
    Ok(())
}

fn row(rental: &gpurent_core::id::RentalId, found: &str, next: &str) -> Vec<String> {
    vec![rental.to_string(), found.to_owned(), next.to_owned()]
}

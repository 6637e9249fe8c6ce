//! `/health`: what machines and people are told of the host that have no key. It is 200 where a request to rent would be
//! carried out, had the host a free GPU.
//!
//! What database and disks answer is good for a second, and they are asked one question at a time: strangers cost them no
//! more, however many they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gpurent_core::rentals::{EngineHealth, Rentals};
use gpurent_core::runtime::Isolation;
use gpurent_core::store::Filter;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// How long an answer of the database and the disks is good for.
const FRESH: Duration = Duration::from_secs(1);
/// How long each of them may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The latest answers of the database and the disks.
#[derive(Clone, Default)]
pub(crate) struct Health(Arc<Mutex<Asked>>);

#[derive(Default)]
struct Asked {
    last: Option<Look>,
    /// A question about the disks that has not come back.
    disk: Option<JoinHandle<bool>>,
}

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    database_answers: bool,
    /// `None` where the file system does not answer.
    disk_has_room: Option<bool>,
}

impl Health {
    async fn look(&self, rentals: &Rentals) -> Look {
        // Held while they are asked: who comes meanwhile waits.
        let mut asked = self.0.lock().await;
        if let Some(look) = asked.last.filter(|look| look.at.elapsed() < FRESH) {
            return look;
        }
        let filter = Filter::default();
        let database = tokio::time::timeout(PATIENCE, rentals.list(&filter, None, 1));
        // A file system that hangs holds one thread, and never the executor.
        let disk = asked.disk.get_or_insert_with(|| {
            let rentals = rentals.clone();
            tokio::task::spawn_blocking(move || rentals.has_disk_room())
        });
        let (database, disk) = tokio::join!(database, tokio::time::timeout(PATIENCE, disk));
        if disk.is_ok() {
            asked.disk = None;
        }
        let disk_has_room = disk.ok().and_then(Result::ok);
        let look = Look { at: Instant::now(), database_answers: matches!(database, Ok(Ok(_))), disk_has_room };
        asked.last = Some(look);
        look
    }
}

pub(crate) async fn health(State(rentals): State<Rentals>, State(health): State<Health>) -> Response {
    let Look { database_answers: database, disk_has_room, .. } = health.look(&rentals).await;
    let disk = disk_has_room == Some(true);
    let (reconciler, engine) = (rentals.is_reconciled(), rentals.engine_health());
    let well = database && reconciler && disk && engine == EngineHealth::Answers;
    let word = |well| if well { "ok" } else { "unavailable" };
    let body = json!({
        "status": if well { "ok" } else { "degraded" },
        "host_id": rentals.host(),
        "database": word(database),
        "reconciler": word(reconciler),
        "lease": word(rentals.holds_lease()),
        "engine": match engine {
            EngineHealth::Answers => "ok",
            EngineHealth::HangsOver(_) => "hangs",
            EngineHealth::Silent => "unavailable",
        },
        "disk": match disk_has_room {
            Some(true) => "ok",
            Some(false) => "full",
            None => "unavailable",
        },
        // That all are rented is no fault.
        "gpus": if rentals.gpus().is_empty() { "none" } else { "ok" },
        // Not why: whoever asks may be anybody. The host's log tells.
        "isolation": match rentals.isolation() {
            Isolation::Enforced => "enforced",
            Isolation::Degraded(_) => "degraded",
        },
    });
    // An engine that hangs over one container serves the others: the host is still to be sent requests. Otherwise none would
    // be carried out.
    let serves = database && reconciler && disk && engine != EngineHealth::Silent;
    let status = if serves { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

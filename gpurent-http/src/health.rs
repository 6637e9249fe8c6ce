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
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::surfaces::Surfaces;

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

/// Whether the host and each of its parts is well
#[derive(Serialize, ToSchema)]
struct HealthView {
    status: Status,
    host_id: String,
    database: Part,
    reconciler: Part,
    lease: Part,
    engine: Engine,
    disk: Disk,
    gpus: Gpus,
    /// Not why: whoever asks may be anybody. The host's log tells.
    isolation: Isolated,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Degraded,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Part {
    Ok,
    Unavailable,
}

impl Part {
    fn of(well: bool) -> Self {
        if well { Self::Ok } else { Self::Unavailable }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Ok,
    /// Over some container.
    Hangs,
    Unavailable,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Disk {
    Ok,
    Full,
    Unavailable,
}

/// Whether there are any; that all are rented is no fault.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Gpus {
    Ok,
    None,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Isolated {
    Enforced,
    Degraded,
}

pub(crate) fn routes() -> OpenApiRouter<Surfaces> {
    OpenApiRouter::new().routes(routes!(health))
}

/// Tells whether the host would carry out a request to rent
#[utoipa::path(
    get, path = "/health", operation_id = "health", tag = "host", security(()),
    responses(
        (status = 200, description = "It would, had it a free GPU", body = HealthView),
        (status = 503, description = "It would not, or has too many requests at once", body = HealthView),
    )
)]
async fn health(State(rentals): State<Rentals>, State(health): State<Health>) -> Response {
    let Look { database_answers: database, disk_has_room, .. } = health.look(&rentals).await;
    let disk = disk_has_room == Some(true);
    let (reconciler, engine) = (rentals.is_reconciled(), rentals.engine_health());
    let well = database && reconciler && disk && engine == EngineHealth::Answers;
    let body = HealthView {
        status: if well { Status::Ok } else { Status::Degraded },
        host_id: rentals.host().to_string(),
        database: Part::of(database),
        reconciler: Part::of(reconciler),
        lease: Part::of(rentals.holds_lease()),
        engine: match engine {
            EngineHealth::Answers => Engine::Ok,
            EngineHealth::HangsOver(_) => Engine::Hangs,
            EngineHealth::Silent => Engine::Unavailable,
        },
        disk: match disk_has_room {
            Some(true) => Disk::Ok,
            Some(false) => Disk::Full,
            None => Disk::Unavailable,
        },
        gpus: if rentals.gpus().is_empty() { Gpus::None } else { Gpus::Ok },
        isolation: match rentals.isolation() {
            Isolation::Enforced => Isolated::Enforced,
            Isolation::Degraded(_) => Isolated::Degraded,
        },
    };
    // An engine that hangs over one container serves the others: the host is still to be sent requests. Otherwise none would
    // be carried out.
    let serves = database && reconciler && disk && engine != EngineHealth::Silent;
    let status = if serves { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

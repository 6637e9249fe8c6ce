//! `/health`: what machines and people are told of the host that have no key. It is 200 where a request to rent would be
//! carried out, had the host a free GPU.
//!
//! What database and disks answer is good for a second, and they are asked one question at a time: strangers cost them no
//! more, however many they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gpurent_core::host::{EngineHealth, Rentals};
use gpurent_core::runtime::Isolation;
use gpurent_core::store::Filter;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::Problem;
use crate::state::Own;

/// How long an answer of the database and the disks is good for.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// How long each of them may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

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

impl FromRef<Own<Self>> for Health {
    fn from_ref(state: &Own<Self>) -> Self {
        state.own.clone()
    }
}

impl Health {
    async fn look(&self, rentals: &Rentals) -> Look {
        // Held while they are asked: who comes meanwhile waits.
        let mut asked = self.0.lock().await;
        if let Some(look) = asked.last.filter(|look| look.at.elapsed() < CACHE_TTL) {
            return look;
        }
        let filter = Filter::default();
        let database = tokio::time::timeout(CHECK_TIMEOUT, rentals.list(&filter, None, 1));
        // A file system that hangs holds one thread, and never the executor.
        let disk = asked.disk.get_or_insert_with(|| {
            let rentals = rentals.clone();
            tokio::task::spawn_blocking(move || rentals.has_disk_room())
        });
        let (database, disk) = tokio::join!(database, tokio::time::timeout(CHECK_TIMEOUT, disk));
        if disk.is_ok() {
            asked.disk = None;
        }
        let disk_has_room = disk.ok().and_then(Result::ok);
        let look = Look { at: Instant::now(), database_answers: matches!(database, Ok(Ok(_))), disk_has_room };
        asked.last = Some(look);
        look
    }
}

/// How the host and each of its parts are
#[derive(Serialize, ToSchema)]
struct HealthView {
    status: HealthStatus,
    host_id: String,
    database: HealthOfPart,
    reconciler: HealthOfPart,
    lease: HealthOfPart,
    engine: HealthOfEngine,
    disk: HealthOfDisk,
    gpus: HealthOfGpus,
    // Not why: whoever asks may be anybody. The host's log tells.
    isolation: HealthOfIsolation,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HealthStatus {
    Ok,
    Degraded,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HealthOfPart {
    Ok,
    Unavailable,
}

impl HealthOfPart {
    fn of(well: bool) -> Self {
        if well { Self::Ok } else { Self::Unavailable }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HealthOfEngine {
    Ok,
    /// Over some container.
    Hangs,
    Unavailable,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HealthOfDisk {
    Ok,
    Full,
    Unavailable,
}

/// Whether the host has GPUs; that all are rented is no fault.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HealthOfGpus {
    Ok,
    None,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HealthOfIsolation {
    Enforced,
    Degraded,
}

pub(crate) fn routes() -> OpenApiRouter<Own<Health>> {
    OpenApiRouter::new().routes(routes!(health))
}

/// Tells whether the host would carry out a request to rent
#[utoipa::path(
    get, path = "/health", operation_id = "health", tag = "host", security(()),
    responses(
        (status = 200, description = "The host would, had it a free GPU", body = HealthView),
        (
            status = 503, description = "The host would not, or has too many requests at once",
            content((HealthView = "application/json"), (Problem = "application/problem+json"))
        ),
    )
)]
async fn health(State(rentals): State<Rentals>, State(health): State<Health>) -> Response {
    let Look { database_answers: database, disk_has_room, .. } = health.look(&rentals).await;
    let disk = disk_has_room == Some(true);
    let (reconciler, engine) = (rentals.is_reconciled(), rentals.engine_health());
    let well = database && reconciler && disk && engine == EngineHealth::Answers;
    let body = HealthView {
        status: if well { HealthStatus::Ok } else { HealthStatus::Degraded },
        host_id: rentals.host().to_string(),
        database: HealthOfPart::of(database),
        reconciler: HealthOfPart::of(reconciler),
        lease: HealthOfPart::of(rentals.holds_lease()),
        engine: match engine {
            EngineHealth::Answers => HealthOfEngine::Ok,
            EngineHealth::HangsOver(_) => HealthOfEngine::Hangs,
            EngineHealth::Silent => HealthOfEngine::Unavailable,
        },
        disk: match disk_has_room {
            Some(true) => HealthOfDisk::Ok,
            Some(false) => HealthOfDisk::Full,
            None => HealthOfDisk::Unavailable,
        },
        gpus: if rentals.gpus().is_empty() { HealthOfGpus::None } else { HealthOfGpus::Ok },
        isolation: match rentals.isolation() {
            Isolation::Enforced => HealthOfIsolation::Enforced,
            Isolation::Degraded(_) => HealthOfIsolation::Degraded,
        },
    };
    // An engine that hangs over one container serves the others: the host is still to be sent requests. Otherwise none would
    // be carried out.
    let serves = database && reconciler && disk && engine != EngineHealth::Silent;
    let status = if serves { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

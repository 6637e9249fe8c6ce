//! `/health`: what machines and people are told of the host that have no key. It is 200 where a request to rent would be
//! carried out, had the host a free GPU.
//!
//! Whether the database answers is good for a second, and it is asked one question at a time: strangers cost it no more,
//! however many they are.

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

/// How long an answer of the database is good for.
const FRESH: Duration = Duration::from_secs(1);
/// How long the database may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the database answered, and when that was found out.
#[derive(Clone, Default)]
pub(crate) struct Health(Arc<Mutex<Option<(Instant, bool)>>>);

impl Health {
    async fn database(&self, rentals: &Rentals) -> bool {
        // Held while the database is asked: who comes meanwhile waits.
        let mut kept = self.0.lock().await;
        if let Some((_, answers)) = kept.filter(|(since, _)| since.elapsed() < FRESH) {
            return answers;
        }
        let filter = Filter::default();
        let asked = tokio::time::timeout(PATIENCE, rentals.list(&filter, None, 1)).await;
        let answers = matches!(asked, Ok(Ok(_)));
        *kept = Some((Instant::now(), answers));
        answers
    }
}

pub(crate) async fn health(State(rentals): State<Rentals>, State(health): State<Health>) -> Response {
    let (database, reconciler) = (health.database(&rentals).await, rentals.is_reconciled());
    let engine = rentals.engine_health();
    let disk = rentals.has_disk_room();
    let well = database && reconciler && disk && engine == EngineHealth::Answers;
    let word = |well| if well { "ok" } else { "unavailable" };
    let body = json!({
        "status": if well { "ok" } else { "degraded" },
        "host_id": rentals.host(),
        "database": word(database),
        "reconciler": word(reconciler),
        "engine": match engine {
            EngineHealth::Answers => "ok",
            EngineHealth::HangsOver(_) => "hangs",
            EngineHealth::Silent => "unavailable",
        },
        "disk": if disk { "ok" } else { "full" },
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

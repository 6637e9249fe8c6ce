//! `/health`: what machines and people are told of the host that have no key. It is 200 where a request to rent would be
//! carried out, had the host a free GPU.
//!
//! What database and disks answer is good for a second, and each is asked one question at a time, for which all wait together:
//! strangers cost them no more, however many they are. An answer that is late is no answer against them: in a rush of renters
//! the question waits behind theirs. The answer before it goes on being believed for some seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gpurent_core::host::{EngineHealth, Rentals};
use gpurent_core::runtime::Isolation;
use gpurent_core::store::Filter;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::Problem;
use crate::state::Own;

/// How long an answer of the database and the disks is good for.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// How long a request for the host's health waits for the next answer while the one before it is believed.
const NEXT_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it waits where nothing is believed for so long: few ask seldom, and a rush is no reason to call the host dead.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// How long the latest answer is believed while the next one is awaited, and how long that may take: somewhat longer than a
/// query may, which waits up to 5 s for a connection and 4 s for its answer. Requests to rent fail by then as well.
const BELIEVED_FOR: Duration = Duration::from_secs(10);

/// The latest answers of the database and the disks.
#[derive(Clone, Default)]
pub(crate) struct Health {
    /// Whether the database answers.
    database: Arc<Question>,
    /// Whether the disks have room.
    disk: Arc<Question>,
}

/// A question to a part of the host that may never come back.
#[derive(Default)]
struct Question {
    is_asked: AtomicBool,
    /// The latest answer, and when it was given.
    last: watch::Sender<Option<(Instant, bool)>>,
}

impl Question {
    /// The answer. `None`: there is none, nor was there one lately. `ask` puts the question, unless that is awaited already.
    async fn answer(self: &Arc<Self>, ask: impl FnOnce() -> JoinHandle<bool>) -> Option<bool> {
        let mut news = self.last.subscribe();
        let last = *news.borrow_and_update();
        let within = |age: Duration| last.filter(|(at, _)| at.elapsed() < age).map(|(_, answer)| answer);
        if let Some(answer) = within(CACHE_TTL) {
            return Some(answer);
        }
        if !self.is_asked.swap(true, Ordering::AcqRel) {
            let (asked, question) = (ask(), Arc::clone(self));
            tokio::spawn(async move {
                // One that panicked gave no answer.
                let answer = asked.await.ok();
                question.last.send_replace(answer.map(|answer| (Instant::now(), answer)));
                question.is_asked.store(false, Ordering::Release);
            });
        }
        let is_believed = within(BELIEVED_FOR - NEXT_ANSWER_TIMEOUT).is_some();
        let wait = if is_believed { NEXT_ANSWER_TIMEOUT } else { FIRST_ANSWER_TIMEOUT };
        match tokio::time::timeout(wait, news.changed()).await {
            Ok(Ok(())) => news.borrow().map(|(_, answer)| answer),
            // Late, since this question holds the other end.
            Ok(Err(_)) | Err(_) => within(BELIEVED_FOR),
        }
    }
}

impl FromRef<Own<Self>> for Health {
    fn from_ref(state: &Own<Self>) -> Self {
        state.own.clone()
    }
}

impl Health {
    /// Whether the database answers, and whether the disks have room; `None` where the file system does not answer.
    async fn look(&self, rentals: &Rentals) -> (bool, Option<bool>) {
        let database = self.database.answer(|| {
            let rentals = rentals.clone();
            tokio::spawn(async move {
                let one = Filter::default();
                matches!(tokio::time::timeout(BELIEVED_FOR, rentals.list(&one, None, 1)).await, Ok(Ok(_)))
            })
        });
        // A file system that hangs holds one thread, and never the executor.
        let disk = self.disk.answer(|| {
            let rentals = rentals.clone();
            tokio::task::spawn_blocking(move || rentals.has_disk_room())
        });
        let (database, disk) = tokio::join!(database, disk);
        (database == Some(true), disk)
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
    let (database, disk_has_room) = health.look(&rentals).await;
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]
mod tests {
    use super::*;

    fn after(time: Duration, answer: bool) -> impl FnOnce() -> JoinHandle<bool> {
        move || {
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                answer
            })
        }
    }

    fn unasked() -> JoinHandle<bool> {
        unreachable!("asked although an answer is known, or awaited")
    }

    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_leaves_the_one_before_it_to_be_believed() {
        let question = Arc::new(Question::default());
        assert_eq!(question.answer(after(Duration::ZERO, true)).await, Some(true));
        tokio::time::sleep(CACHE_TTL).await;
        assert_eq!(question.answer(after(Duration::from_secs(3), true)).await, Some(true), "a rush of renters");
        assert_eq!(question.answer(unasked).await, Some(true), "the same question came back");
        assert_eq!(question.answer(unasked).await, Some(true), "and is good for a second");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_answers_is_not_believed_for_long_and_one_that_says_no_not_at_all() {
        let question = Arc::new(Question::default());
        assert_eq!(question.answer(after(NEVER, true)).await, None, "nothing is known at first");
        let question = Arc::new(Question::default());
        assert_eq!(question.answer(after(Duration::ZERO, true)).await, Some(true));
        tokio::time::sleep(BELIEVED_FOR - NEXT_ANSWER_TIMEOUT).await;
        assert_eq!(question.answer(after(NEVER, true)).await, None, "and waited for as if nothing were known");
        let question = Arc::new(Question::default());
        assert_eq!(question.answer(after(Duration::ZERO, true)).await, Some(true));
        tokio::time::sleep(CACHE_TTL).await;
        assert_eq!(question.answer(after(Duration::ZERO, false)).await, Some(false));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_waited_for_is_as_old_as_it_is() {
        let question = Arc::new(Question::default());
        assert_eq!(question.answer(after(FIRST_ANSWER_TIMEOUT * 2, true)).await, None);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(question.answer(after(Duration::ZERO, false)).await, Some(false), "it is asked anew");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_seldom_waits_for_a_late_answer() {
        let question = Arc::new(Question::default());
        for _ in 0..3 {
            assert_eq!(question.answer(after(Duration::from_secs(7), true)).await, Some(true));
            tokio::time::sleep(BELIEVED_FOR - Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_panics_has_no_answer() {
        let question = Arc::new(Question::default());
        assert_eq!(question.answer(|| tokio::spawn(async { panic!("as a probe may") })).await, None);
        assert_eq!(question.answer(after(Duration::ZERO, true)).await, Some(true), "it is asked again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_wait_as_long_as_one() {
        let question = Arc::new(Question::default());
        let begun = Instant::now();
        let first = question.answer(after(NEVER, true));
        let others = futures_util::future::join_all((0..1000).map(|_| question.answer(unasked)));
        let (first, others) = tokio::join!(first, others);
        assert!(first.is_none() && others.iter().all(Option::is_none));
        assert!(begun.elapsed() <= FIRST_ANSWER_TIMEOUT);
    }
}

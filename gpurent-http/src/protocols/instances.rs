//! The `instances` protocol: `POST /start_instance` and `POST /terminate_instance`, with live updates on `GET /ws`.
//!
//! An instance has no fixed end: it lasts until it is terminated, or for as long as the operator lets it. What is
//! refused is answered with 500 and a `detail`; only a body that cannot be read is 422.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::error::ValidationError;
use gpurent_core::host::{Rentals, ToRefusal};
use gpurent_core::model::{ContainerLimits, CredentialRequest, GpuRequest, Rental, RentalRequest, RentalSpec, Term};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::caller::Caller;
use crate::extract::JsonBody;
use crate::problem::refusal_of;
use crate::protocol::Protocol;
use crate::protocols::described::{Described, Takes};
use crate::protocols::fastapi::unprocessable;
use crate::protocols::instance_id::{MARK, find, shown_id};
use crate::protocols::lax::Integer;
use crate::protocols::updates;
use crate::protocols::wait::{WAIT_LIMIT, until};
use crate::state::{AppState, Own};

/// How instances are rented.
#[derive(Clone, Copy, Debug)]
pub struct Instances {
    /// How long one may last; without an end by default.
    pub term: Term,
}

impl Default for Instances {
    fn default() -> Self {
        Self { term: Term::OpenEnded }
    }
}

impl FromRef<Own<Self>> for Instances {
    fn from_ref(state: &Own<Self>) -> Self {
        state.own
    }
}

impl Instances {
    /// The protocol, as a host speaks it.
    pub(crate) fn protocol(self, state: &AppState) -> Protocol {
        Protocol::new(routes().into_router().with_state(state.own(self)))
            .with_busy(busy)
            .with_labels(&["instances."])
            .sharing("/ws", updates::protocol(state))
    }
}

pub(crate) fn routes() -> Described<Own<Instances>> {
    Described::new("instances")
        .post("/start_instance", ["start", "Rents a GPU without an end"], Takes::Body, start)
        .post("/terminate_instance", ["terminate", "Ends an instance"], Takes::Body, terminate)
}

#[derive(Deserialize)]
struct StartBody {
    image_name: String,
    user_ssh_key: String,
    gpu_uuid: String,
    memory_limit_mb: Integer,
}

#[derive(Deserialize)]
struct TerminateBody {
    container_id: String,
}

/// A refusal, in the protocol's form.
struct Refused(String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"detail": self.0}))).into_response()
    }
}

impl<E: ToRefusal + 'static> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(refusal_of(&error).detail)
    }
}

/// The answer when the host has more requests than it takes at once.
fn busy() -> Response {
    Refused("the host is busy; try again".to_owned()).into_response()
}

async fn start(
    State(rentals): State<Rentals>,
    State(instances): State<Instances>,
    Extension(caller): Extension<Caller>,
    JsonBody(body): JsonBody<StartBody>,
) -> Response {
    let deadline = Instant::now() + WAIT_LIMIT;
    match body {
        Err(malformed) => unprocessable(malformed),
        Ok(body) => match started(&rentals, instances, caller, body, deadline).await {
            Ok(response) => response,
            Err(refused) => refused.into_response(),
        },
    }
}

async fn started(
    rentals: &Rentals,
    instances: Instances,
    caller: Caller,
    body: StartBody,
    deadline: Instant,
) -> Result<Response, Refused> {
    let rentals = caller.within_their_limits(rentals);
    let named = |field: &'static str| move |error: ValidationError| error.named(field);
    let gpu = GpuRequest::one(body.gpu_uuid.parse().map_err(named("gpu_uuid"))?);
    let image = body.image_name.parse().map_err(named("image_name"))?;
    let mut spec = RentalSpec::new(caller.renter, gpu, image, instances.term);
    let bytes = u64::try_from(body.memory_limit_mb.0).unwrap_or(0).saturating_mul(1024 * 1024);
    let mark = BTreeMap::from([(MARK.to_owned(), body.gpu_uuid.trim().to_owned())]);
    spec.labels = mark.try_into().map_err(named("gpu_uuid"))?;
    spec.limits = ContainerLimits::default().with_memory_bytes(bytes).map_err(named("memory_limit_mb"))?;
    let key = body.user_ssh_key.parse().map_err(named("user_ssh_key"))?;
    let request = RentalRequest::new(spec, CredentialRequest::PublicKeys(key));
    let updates = rentals.subscribe();
    let claimed = match tokio::time::timeout_at(deadline, rentals.rent(request)).await {
        Ok(claimed) => claimed.map_err(|error| Refused(error.to_string()))?,
        Err(_late) => return Err(Refused("the host's database does not answer in time; try again".to_owned())),
    };
    let is_settled = |rental: &Rental| rental.started_at().is_some() || rental.state().end_reason().is_some();
    // Whatever came before the claim, an answer without a container is given later than one with a container can be.
    let since = rentals.now().wall.duration_since(claimed.rental().created_at());
    let waited = Duration::try_from(since).unwrap_or_default();
    let deadline = deadline.max(Instant::now() + WAIT_LIMIT.saturating_sub(waited));
    let rental = until(&rentals, claimed.rental().clone(), updates, deadline, is_settled).await;
    if let Some(reason) = rental.state().end_reason() {
        return Err(Refused(reason.describe()));
    }
    let id = shown_id(&rental);
    let message =
        if rental.started_at().is_some() { "Instance started successfully" } else { "Instance is being started" };
    Ok(Json(json!({"message": message, "container_id": id})).into_response())
}

async fn terminate(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    JsonBody(body): JsonBody<TerminateBody>,
) -> Response {
    let deadline = Instant::now() + WAIT_LIMIT;
    match body {
        Err(malformed) => unprocessable(malformed),
        Ok(body) => match terminated(&rentals, &caller, &body.container_id, deadline).await {
            Ok(()) => Json(json!({"message": "Instance terminated successfully"})).into_response(),
            Err(refused) => refused.into_response(),
        },
    }
}

/// Said only once the container is confirmed gone. What is gone already, or never was, is terminated: whoever asks again
/// because an answer was lost hears the same.
async fn terminated(rentals: &Rentals, caller: &Caller, id: &str, deadline: Instant) -> Result<(), Refused> {
    let Some(rental) = find(rentals, id).await?.filter(|rental| caller.may_see(rental)) else { return Ok(()) };
    let updates = rentals.subscribe();
    let Some(rental) = rentals.cancel(rental.id()).await? else { return Ok(()) };
    let rental = until(rentals, rental, updates, deadline, |rental| !rental.is_live()).await;
    if rental.is_live() {
        return Err(Refused("the instance is still being stopped; ask again".to_owned()));
    }
    Ok(())
}

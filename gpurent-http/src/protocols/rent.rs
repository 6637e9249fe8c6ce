//! The `rent` protocol: `POST /rent`, and its live updates on `GET /ws`.
//!
//! Whatever is refused, the database being down included, is answered with 200, `success: false` and all
//! six keys; only a body that cannot be read is 422. The answer waits until the container has started,
//! at most 25 seconds; after that it is `success: true` without a container id, and the rest is told on
//! the WebSocket.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::allocation::PlacementError;
use gpurent_core::error::ValidationError;
use gpurent_core::host::{RentError, Rentals, Subscription};
use gpurent_core::id::{ContainerId, InstanceName, RentalId, RenterId};
use gpurent_core::model::port::WEB;
use gpurent_core::model::{
    CredentialRequest, GpuRequest, HostPort, Password, Phase, PublishedPort, Rental, RentalRequest, RentalSpec, Term,
    Transport,
};
use gpurent_core::store::{ClaimOutcome, Filter, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::caller::Caller;
use crate::extract::JsonBody;
use crate::protocol::Protocol;
use crate::protocols::described::{Described, Takes};
use crate::protocols::fastapi::unprocessable;
use crate::protocols::lax::{Integer, Text};
use crate::protocols::updates;
use crate::protocols::wait::{WAIT_LIMIT, until};
use crate::state::{AppState, Own};

/// The protocol, as a host speaks it.
pub(crate) fn protocol(state: &AppState) -> Protocol {
    Protocol::new(routes().into_router().with_state(state.own(())))
        .with_busy(busy)
        .with_labels(&["rent."])
        .sharing("/ws", updates::protocol(state))
}

pub(crate) fn routes() -> Described<Own<()>> {
    Described::new("rent").post("/rent", ["rent", "Rents a GPU for a number of hours"], Takes::Body, rent)
}

/// The names that the platform has for host and instance, as labels.
const HOST: &str = "rent.host_id";
const INSTANCE: &str = "rent.instance_name";

#[derive(Deserialize)]
struct RentBody {
    host_id: String,
    gpu_type: String,
    os_image: String,
    duration_hours: Integer,
    auth_type: String,
    instance_name: String,
    password: Option<String>,
    ssh_key: Option<String>,
    #[serde(default)]
    environment_variables: Option<BTreeMap<String, Text>>,
    /// Container port to host port.
    #[serde(default)]
    port_mappings: Option<BTreeMap<String, Integer>>,
}

#[derive(Debug, Serialize)]
struct Answer {
    success: bool,
    message: String,
    container_id: Option<ContainerId>,
    ssh_port: Option<HostPort>,
    web_port: Option<HostPort>,
    rental_id: Option<RentalId>,
}

impl Answer {
    fn refused(message: String) -> Self {
        Self { success: false, message, container_id: None, ssh_port: None, web_port: None, rental_id: None }
    }

    fn of(rental: &Rental, message: String) -> Self {
        Self {
            success: true,
            message,
            container_id: rental.container().filter(|_| rental.started_at().is_some()).cloned(),
            ssh_port: rental.ssh_port(),
            web_port: rental.host_port(WEB),
            rental_id: Some(rental.id()),
        }
    }
}

async fn rent(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    JsonBody(body): JsonBody<RentBody>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(malformed) => return unprocessable(malformed),
    };
    let rentals = caller.within_their_limits(&rentals);
    let gpu_type = body.gpu_type.clone();
    let request = match into_request(body, caller.renter) {
        Ok(request) => request,
        Err(invalid) => return Json(Answer::refused(format!("Invalid {invalid}"))).into_response(),
    };
    let deadline = Instant::now() + WAIT_LIMIT;
    // Before the insert, so that nothing is missed.
    let updates = rentals.subscribe();
    let answer = match tokio::time::timeout_at(deadline, rent_under_a_name(&rentals, request)).await {
        Ok(Ok(claimed)) => started(&rentals, claimed.rental().clone(), updates, deadline).await,
        Ok(Err(error)) => Answer::refused(explain(&gpu_type, &error)),
        // The same request again finds the rental if it was made.
        Err(_) => Answer::refused("Database error: it does not answer in time; try again".to_owned()),
    };
    Json(answer).into_response()
}

/// The answer when the host has more requests than it takes at once.
fn busy() -> Response {
    Json(Answer::refused("The host is busy; try again".to_owned())).into_response()
}

fn into_request(body: RentBody, renter: RenterId) -> Result<RentalRequest, ValidationError> {
    let named = |field: &'static str| move |error: ValidationError| error.named(field);
    let gpu = GpuRequest::one(body.gpu_type.parse().map_err(named("gpu_type"))?);
    let image = body.os_image.parse().map_err(named("os_image"))?;
    let term = Term::hours(body.duration_hours.0).map_err(named("duration_hours"))?;
    let mut spec = RentalSpec::new(renter, gpu, image, term);
    let variables = body.environment_variables.unwrap_or_default();
    // One that is null has no value to be set to.
    let variables = variables.into_iter().filter_map(|(name, value)| Some((name, value.0?)));
    spec.environment = variables.collect::<BTreeMap<_, _>>().try_into().map_err(named("environment_variables"))?;
    spec.ports = published(body.port_mappings.unwrap_or_default())
        .map_err(named("port_mappings"))?
        .try_into()
        .map_err(named("port_mappings"))?;
    // The platform's own names for host and instance need not be ours; they are kept, and part of what was asked.
    let labels = [(HOST.to_owned(), body.host_id), (INSTANCE.to_owned(), body.instance_name)];
    spec.labels = BTreeMap::from(labels).try_into().map_err(named("instance_name"))?;
    // Clients have several words for a key, and one for a password.
    let credential = match (body.auth_type.as_str(), body.password, body.ssh_key) {
        ("password", Some(password), _) => CredentialRequest::Password(Password::new(password)?),
        ("password", None, _) => {
            return Err(ValidationError::new("password", "is required for auth_type password"));
        }
        (_, _, Some(key)) => CredentialRequest::PublicKeys(key.parse()?),
        (_, _, None) => {
            return Err(ValidationError::new("ssh_key", "is required for every auth_type but password"));
        }
    };
    Ok(RentalRequest::new(spec, credential))
}

/// Rents under the instance's own name, where it is one of ours and free among the renter's; otherwise under one that follows
/// from the request, so that the very same one is the same rental.
async fn rent_under_a_name(rentals: &Rentals, mut request: RentalRequest) -> Result<ClaimOutcome, RentError> {
    let of_the_request = name_of(&request.spec);
    request.spec.name = request.spec.labels.get(INSTANCE).and_then(|name| name.parse().ok());
    let live = Phase::ALL.into_iter().filter(|phase| *phase != Phase::Ended).collect();
    let filter = Filter {
        renter: Some(request.spec.renter.clone()),
        name: of_the_request.clone(),
        phases: live,
        ..Filter::default()
    };
    // It was made under that name while another had the instance's.
    let there = of_the_request.is_some() && !rentals.list(&filter, None, 1).await.map_err(RentError::Store)?.is_empty();
    if request.spec.name.is_some() && !there {
        match rentals.rent(request.clone()).await {
            Err(RentError::NameTaken(_)) => {}
            claimed => return claimed,
        }
    }
    request.spec.name = of_the_request;
    rentals.rent(request).await
}

/// A name for a request, with as much of the instance's as fits. Nothing secret is in it, nor can be guessed from it.
fn name_of(spec: &RentalSpec) -> Option<InstanceName> {
    let public = json!({
        "labels": spec.labels,
        "image": spec.image,
        "gpu": spec.gpu,
        "term": spec.term,
        "ports": spec.ports,
        "variables": spec.environment.iter().map(|(name, _)| name).collect::<Vec<_>>(),
    });
    let digest: String = Sha256::digest(public.to_string()).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let text = spec.labels.get(INSTANCE).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let begin: String = text.chars().take(40).map(plain).collect();
    // It always is one; were it not, the rental would be named by its id.
    format!("{begin}-{digest}").trim_start_matches(['-', '.', '_']).parse().ok()
}

/// The mapped ports, and the web port that every rental of this protocol has.
fn published(mappings: BTreeMap<String, Integer>) -> Result<Vec<PublishedPort>, ValidationError> {
    let mut ports = Vec::with_capacity(mappings.len() + 1);
    for (container, host) in mappings {
        let host: HostPort = host.0.to_string().parse()?;
        let PublishedPort { container, transport, host: None } = container.trim().parse()? else {
            return Err(ValidationError::new("ports", "must have one port of the host"));
        };
        ports.push(PublishedPort { container, transport, host: Some(host) });
    }
    if !ports.iter().any(|port| port.container == WEB && port.transport == Transport::Tcp) {
        ports.push(PublishedPort::tcp(WEB, None));
    }
    Ok(ports)
}

fn explain(gpu_type: &str, error: &RentError) -> String {
    match error {
        RentError::NotPlaced(
            PlacementError::UnknownGpu { .. } | PlacementError::NoGpuFree(_) | PlacementError::NoPlaceWithoutGpu,
        ) => {
            format!("No {gpu_type} GPUs available on this host")
        }
        RentError::Store(StoreError::Unavailable(_)) | RentError::Unconfirmed { .. } => {
            "Database error: it does not answer; try again".to_owned()
        }
        other => other.to_string(),
    }
}

/// Waits until the rental's container runs, or it ends, or the time is over.
async fn started(rentals: &Rentals, rental: Rental, updates: Subscription, deadline: Instant) -> Answer {
    let is_settled = |rental: &Rental| rental.started_at().is_some() || rental.state().end_reason().is_some();
    let rental = until(rentals, rental, updates, deadline, is_settled).await;
    let id = rental.id();
    match (rental.started_at(), rental.state().end_reason()) {
        (_, Some(reason)) => Answer { rental_id: Some(id), ..Answer::refused(reason.describe()) },
        (Some(_), None) => Answer::of(&rental, format!("Rental {id} started successfully")),
        (None, None) => Answer::of(&rental, format!("Rental {id} is being created")),
    }
}

//! The `cloud` protocol: `/api/gpu/...`, instances from templates that are stopped and started.
//!
//! Instances have no fixed end; a stopped one keeps its data in its workspace, where the host has a place for those,
//! and costs nothing. What is refused is `{"error": ...}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{FromRef, Path, State};
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::error::ValidationError;
use gpurent_core::host::{RefusalKind, Rentals, ToRefusal};
use gpurent_core::id::{RentalId, RenterId};
use gpurent_core::model::{
    ContainerPort, Credential, CredentialRequest, GpuModel, GpuRequest, ImageRef, Labels, MicroUnits, MountPath, Phase,
    PublishedPort, Quote, RateCard, Rental, RentalRequest, RentalSpec, RentalState, Term, Workspace, WorkspaceFolder,
};
use gpurent_core::store::{Filter, MAX_PAGE, Role};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::caller::Caller;
use crate::extract::JsonBody;
use crate::problem::refusal_of;
use crate::protocol::Protocol;
use crate::protocols::described::{Described, Takes};
use crate::protocols::services::jupyter_url;
use crate::protocols::wait::{WAIT_LIMIT, until};
use crate::protocols::{services, state_names};
use crate::state::{AppState, Own};

/// Marks rentals of this protocol, by the template that they were made of.
const TEMPLATE: &str = "cloud.template";
/// How many gigabytes were asked for.
const STORAGE: &str = "cloud.storage_gb";
/// How an instance is to be entered besides SSH.
const ACCESS: &str = "cloud.access";

/// An image that renters choose by a short name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The short name.
    pub id: String,
    /// For people.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The image.
    pub docker_image: ImageRef,
    /// Whether each instance asks the image's registry what the tag means at that moment; otherwise what the host has under
    /// the name serves, however old it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pin_image: bool,
    /// Ports of the container that are published, by what answers there: `jupyter` is told as `access.jupyter`.
    #[serde(default)]
    pub default_ports: BTreeMap<String, ContainerPort>,
    /// For people.
    #[serde(default)]
    pub category: String,
}

impl Template {
    /// The usual ones, as far as their images are published by their makers.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        let template = |id: &str, name: &str, description: &str, image: &str, ports: &[(&str, u16)], category: &str| {
            let port = |(name, port): &(&str, u16)| Some(((*name).to_owned(), ContainerPort::try_from(*port).ok()?));
            Some(Self {
                id: id.to_owned(),
                name: name.to_owned(),
                description: description.to_owned(),
                docker_image: image.parse().ok()?,
                pin_image: false,
                default_ports: ports.iter().filter_map(port).collect(),
                category: category.to_owned(),
            })
        };
        let jupyter = &[("jupyter", 8888)];
        let training = "ML Training";
        [
            template(
                "pytorch",
                "PyTorch",
                "PyTorch, Jupyter",
                "pytorch/pytorch:2.1.0-cuda12.1-cudnn8-devel",
                jupyter,
                training,
            ),
            template(
                "tensorflow",
                "TensorFlow",
                "TensorFlow, Jupyter",
                "tensorflow/tensorflow:latest-gpu",
                jupyter,
                training,
            ),
            template("vllm", "vLLM", "vLLM server", "vllm/vllm-openai:latest", &[("api", 8000)], "LLM Inference"),
            template(
                "base-cuda",
                "Base CUDA",
                "CUDA toolkit",
                "nvidia/cuda:12.4.1-devel-ubuntu22.04",
                &[],
                "Custom Development",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The offers of the `cloud` protocol.
#[derive(Clone, Debug)]
pub struct Cloud {
    templates: Vec<Template>,
    prices: Option<RateCard>,
    workspaces: bool,
    term: Term,
}

impl Cloud {
    /// Offers these templates.
    ///
    /// # Errors
    /// Refuses two of one name, and more than a thousand.
    pub fn new(templates: Vec<Template>) -> Result<Self, ValidationError> {
        let names: std::collections::BTreeSet<_> = templates.iter().map(|template| &template.id).collect();
        if names.len() != templates.len() || templates.len() > 1000 {
            return Err(ValidationError::new("templates", "must be at most 1000, each of its own id"));
        }
        Ok(Self { templates, prices: None, workspaces: false, term: Term::OpenEnded })
    }

    /// Tells these prices with what is available; the same that the host charges.
    #[must_use]
    pub fn with_prices(self, prices: RateCard) -> Self {
        Self { prices: Some(prices), ..self }
    }

    /// Gives every instance its renter's workspace, at `/workspace`: the host has a place for those.
    #[must_use]
    pub fn with_workspaces(self) -> Self {
        Self { workspaces: true, ..self }
    }

    /// How long an instance may last; without an end by default.
    #[must_use]
    pub fn lasting(self, term: Term) -> Self {
        Self { term, ..self }
    }
}

impl FromRef<Own<Self>> for Arc<Cloud> {
    fn from_ref(state: &Own<Self>) -> Self {
        Self::clone(&state.own)
    }
}

/// The beginnings of the labels by which the protocol knows its rentals.
pub(super) const LABELS: &[&str] = &["cloud."];

impl Cloud {
    /// The protocol, as a host speaks it.
    pub(crate) fn protocol(self: Arc<Self>, state: &AppState) -> Protocol {
        Protocol::new(routes().into_router().with_state(state.own(self)))
            .with_busy(busy)
            .with_labels(LABELS)
            // They show passwords.
            .revealing(|path| path.contains("/api/gpu/instances/"))
    }
}

pub(crate) fn routes() -> Described<Own<Arc<Cloud>>> {
    Described::new("cloud")
        .with_slashes()
        .post("/api/gpu/instances", ["create", "Rents an instance"], Takes::Body, create)
        .get("/api/gpu/instances", ["list", "Lists instances"], list)
        .get("/api/gpu/instances/{id}", ["show", "Shows an instance and how to get in"], show)
        .delete("/api/gpu/instances/{id}", ["destroy", "Ends an instance"], Takes::Nothing, destroy)
        .post(
            "/api/gpu/instances/{id}/stop",
            ["stop", "Stops an instance, which costs nothing then"],
            Takes::Nothing,
            stop,
        )
        .post("/api/gpu/instances/{id}/start", ["start", "Starts a stopped instance"], Takes::Nothing, start)
        .get("/api/gpu/templates", ["templates", "Lists the images that can be asked for by name"], templates)
        .get(
            "/api/gpu/availability",
            ["availability", "Lists models of GPUs, how many are free, and prices"],
            availability,
        )
}

/// A refusal, in the protocol's form.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl<E: ToRefusal + 'static> From<E> for Refused {
    fn from(error: E) -> Self {
        let refusal = refusal_of(&error);
        let status = match refusal.kind {
            // Its clients take 409 for "all taken", and do not come back.
            _ if refusal.code == "image-pulling" => StatusCode::SERVICE_UNAVAILABLE,
            RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalKind::Conflict | RefusalKind::NoCapacity | RefusalKind::NotReady | RefusalKind::RateLimited => {
                StatusCode::CONFLICT
            }
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, refusal.detail)
    }
}

fn not_found() -> Refused {
    Refused(StatusCode::NOT_FOUND, "there is no such instance".to_owned())
}

/// The answer when the host has more requests than it takes at once.
fn busy() -> Response {
    Refused(StatusCode::SERVICE_UNAVAILABLE, "the host is busy; try again".to_owned()).into_response()
}

#[derive(Deserialize)]
struct CreateBody {
    template: String,
    gpu: String,
    /// Gigabytes.
    #[serde(default)]
    storage: Option<u32>,
    #[serde(default = "ssh_alone")]
    access: Vec<String>,
}

fn ssh_alone() -> Vec<String> {
    vec!["ssh".to_owned()]
}

impl Cloud {
    fn request(&self, caller: Caller, body: &CreateBody) -> Result<RentalRequest, ValidationError> {
        let template = self.templates.iter().find(|template| template.id == body.template);
        let template = template.ok_or_else(|| ValidationError::new("template", "is none of those that are offered"))?;
        let gpu = GpuRequest::one(body.gpu.parse::<gpurent_core::model::GpuSelector>()?);
        let known = |way: &String| way == "ssh" || template.default_ports.contains_key(way);
        if let Some(unknown) = body.access.iter().find(|way| !known(way)) {
            let reason = format!("{} is not offered by this template", unknown.chars().take(32).collect::<String>());
            return Err(ValidationError::new("access", reason));
        }
        // Whoever rents for many says not for whom: each instance has a folder of its own then.
        let whose = match caller.role {
            Role::Platform => RenterId::try_from(format!("cloud-{}", RentalId::generate()))?,
            _ => caller.renter.clone(),
        };
        let mut spec = RentalSpec::new(caller.renter, gpu, template.docker_image.clone(), self.term);
        spec.pin_image = template.pin_image;
        let ports = template.default_ports.values().map(|port| PublishedPort::tcp(*port, None));
        spec.ports = ports.collect::<Vec<_>>().try_into()?;
        if self.workspaces {
            let folder = WorkspaceFolder::of(&whose);
            spec.workspace = Some(Workspace { folder, mount: MountPath::default() });
        }
        let mut labels = BTreeMap::from([(TEMPLATE.to_owned(), template.id.clone())]);
        labels.insert(ACCESS.to_owned(), body.access.join(","));
        labels.extend(body.storage.map(|gigabytes| (STORAGE.to_owned(), gigabytes.to_string())));
        spec.labels = Labels::try_from(labels)?;
        Ok(RentalRequest::new(spec, CredentialRequest::Generate))
    }
}

/// `inst_` and the rental's id: a name that needs no table.
fn name_of(id: RentalId) -> String {
    format!("inst_{}", id.as_uuid().simple())
}

async fn find(rentals: &Rentals, caller: &Caller, name: &str) -> Result<Rental, Refused> {
    let id = name.strip_prefix("inst_").and_then(|id| id.parse::<RentalId>().ok()).ok_or_else(not_found)?;
    let is_ours = |rental: &Rental| rental.spec().labels.get(TEMPLATE).is_some() && caller.may_see(rental);
    rentals.get(id).await?.filter(is_ours).ok_or_else(not_found)
}

async fn create(
    State(rentals): State<Rentals>,
    State(cloud): State<Arc<Cloud>>,
    Extension(caller): Extension<Caller>,
    JsonBody(body): JsonBody<CreateBody>,
) -> Result<Response, Refused> {
    let deadline = Instant::now() + WAIT_LIMIT;
    let body = body.map_err(|malformed| Refused(StatusCode::UNPROCESSABLE_ENTITY, malformed.sentence()))?;
    let rentals = caller.within_their_limits(&rentals);
    let request = cloud.request(caller, &body)?;
    let updates = rentals.subscribe();
    let claimed = rentals.rent(request).await?;
    let rental = until(&rentals, claimed.rental().clone(), updates, deadline, is_up_or_over).await;
    if let Some(reason) = rental.state().end_reason() {
        return Err(Refused(StatusCode::UNPROCESSABLE_ENTITY, reason.describe()));
    }
    respond(StatusCode::CREATED, &rentals, &rental).await
}

fn is_up_or_over(rental: &Rental) -> bool {
    let state = rental.state();
    matches!(state, RentalState::Ready | RentalState::Suspended { .. }) || state.end_reason().is_some()
}

async fn list(State(rentals): State<Rentals>, Extension(caller): Extension<Caller>) -> Result<Response, Refused> {
    let is_ours = |rental: &Rental| rental.spec().labels.get(TEMPLATE).is_some() && caller.may_see(rental);
    let mut listed: Vec<_> = rentals.active().await?.into_iter().filter(is_ours).collect();
    let filter = Filter { renter: caller.scope(), phases: vec![Phase::Suspended], ..Filter::default() };
    listed.extend(rentals.list(&filter, None, MAX_PAGE).await?.into_iter().filter(is_ours));
    listed.sort_by_key(|rental| std::cmp::Reverse(rental.created_at()));
    // And some of those that have ended: the protocol knows no pages.
    let filter = Filter { renter: caller.scope(), phases: vec![Phase::Ended], ..Filter::default() };
    listed.extend(rentals.list(&filter, None, 200).await?.into_iter().filter(is_ours));
    let mut instances = Vec::with_capacity(listed.len());
    for rental in &listed {
        instances.push(view(&rentals, rental, false).await?);
    }
    Ok(Json(json!({"instances": instances})).into_response())
}

async fn show(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let rental = find(&rentals, &caller, &name).await?;
    respond(StatusCode::OK, &rentals, &rental).await
}

async fn destroy(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let deadline = Instant::now() + WAIT_LIMIT;
    let id = find(&rentals, &caller, &name).await?.id();
    let updates = rentals.subscribe();
    let rental = rentals.cancel(id).await?.ok_or_else(not_found)?;
    let rental = until(&rentals, rental, updates, deadline, |rental| !rental.is_live()).await;
    let status = if rental.is_live() { StatusCode::ACCEPTED } else { StatusCode::OK };
    respond(status, &rentals, &rental).await
}

async fn stop(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let deadline = Instant::now() + WAIT_LIMIT;
    let rentals = caller.within_their_limits(&rentals);
    let rental = find(&rentals, &caller, &name).await?;
    let id = rental.id();
    if rental.is_on_its_first_way_up() {
        return Err(Refused(StatusCode::CONFLICT, "it is still starting; ask again".to_owned()));
    }
    let updates = rentals.subscribe();
    let rental = rentals.suspend(id).await?.ok_or_else(not_found)?;
    let is_down = |rental: &Rental| matches!(rental.state(), RentalState::Suspended { .. }) || !rental.is_live();
    let rental = until(&rentals, rental, updates, deadline, is_down).await;
    let status = if is_down(&rental) { StatusCode::OK } else { StatusCode::ACCEPTED };
    respond(status, &rentals, &rental).await
}

async fn start(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let deadline = Instant::now() + WAIT_LIMIT;
    let rentals = caller.within_their_limits(&rentals);
    let id = find(&rentals, &caller, &name).await?.id();
    let updates = rentals.subscribe();
    let rental = rentals.resume(id).await?.ok_or_else(not_found)?;
    let rental = until(&rentals, rental, updates, deadline, is_up_or_over).await;
    if let Some(cause) = rental.state().suspend_cause() {
        let gpurent_core::model::SuspendCause::Failed(failure) = cause else {
            return Err(Refused(StatusCode::CONFLICT, "it was stopped again".to_owned()));
        };
        return Err(Refused(StatusCode::CONFLICT, failure.detail.clone()));
    }
    let status = if matches!(rental.state(), RentalState::Ready) { StatusCode::OK } else { StatusCode::ACCEPTED };
    respond(status, &rentals, &rental).await
}

async fn respond(status: StatusCode, rentals: &Rentals, rental: &Rental) -> Result<Response, Refused> {
    let body = view(rentals, rental, true).await?;
    Ok((status, [(CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

/// An instance; with its password only where one was asked for alone.
async fn view(rentals: &Rentals, rental: &Rental, with_secrets: bool) -> Result<Value, Refused> {
    let spec = rental.spec();
    let is_up = matches!(rental.state(), RentalState::Ready);
    let access = if with_secrets && is_up {
        rentals.access(rental).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "access cannot be told");
            Refused(StatusCode::SERVICE_UNAVAILABLE, "the access cannot be told now".to_owned())
        })?
    } else {
        None
    };
    let password = match access.as_ref().and_then(|access| access.credential.as_ref()) {
        Some(Credential::Password(password)) => Some(password.expose()),
        _ => None,
    };
    let ssh = rental.ssh_port().filter(|_| is_up);
    let host = rentals.public_host();
    let ways = spec.labels.get(ACCESS).unwrap_or_default();
    let answering = match ways.split(',').any(|way| way == "jupyter") {
        true if is_up && with_secrets => services::now(rentals, rental).await,
        true if is_up => rental.services().to_vec(),
        _ => Vec::new(),
    };
    let jupyter = jupyter_url(&answering, host);
    let created = rental.created_at();
    Ok(json!({
        "id": name_of(rental.id()),
        "status": state_names::cloud(rental.state()),
        "template": spec.labels.get(TEMPLATE),
        "image": spec.image,
        "image_digest": rental.pinned().or_else(|| rental.image()?.digest.as_ref()),
        "gpu": rental.gpus().first().map(|gpu| short_name(&gpu.model)),
        "storage": spec.labels.get(STORAGE).and_then(|gigabytes| gigabytes.parse::<u32>().ok()),
        "access": {
            "ssh": ssh.map(|port| format!("ssh {}@{host} -p {port}", spec.login.as_str())),
            "jupyter": jupyter,
            "password": password,
            "ssh_host": ssh.map(|_| host),
            "ssh_port": ssh,
            "ssh_user": ssh.map(|_| spec.login.as_str()),
        },
        // The same for clients that take no sentence apart.
        "ssh_host": ssh.map(|_| host),
        "ssh_port": ssh,
        "ssh_user": ssh.map(|_| spec.login.as_str()),
        "ssh_password": password,
        "url": jupyter,
        "expires_at": rental.expires_at(),
        "created_at": created,
        "stopped_at": match rental.state() {
            RentalState::Suspended { since, .. } => Some(since.wall),
            _ => None,
        },
        "terminated_at": match rental.state() {
            RentalState::Ended { at, .. } => Some(*at),
            _ => None,
        },
        "billing": rental.quote().map(billing),
    }))
}

fn billing(quote: &Quote) -> Value {
    json!({"rate": in_units(quote.rate.per_hour()), "unit": "hour", "currency": quote.currency})
}

/// A number as the protocol has it; all sums are made elsewhere, and not of these.
fn in_units(amount: MicroUnits) -> f64 {
    amount.get() as f64 / 1_000_000.0
}

/// Without the maker's words: "RTX 5090".
fn short_name(model: &GpuModel) -> String {
    let text = model.to_string();
    let short = text.trim_start_matches("NVIDIA ").trim_start_matches("GeForce ");
    short.to_owned()
}

async fn templates(State(cloud): State<Arc<Cloud>>) -> Result<Response, Refused> {
    Ok(Json(json!({"templates": cloud.templates})).into_response())
}

async fn availability(State(rentals): State<Rentals>, State(cloud): State<Arc<Cloud>>) -> Result<Response, Refused> {
    let held = rentals.held().await?;
    let mut kinds: BTreeMap<String, (u32, u32, Option<Quote>)> = BTreeMap::new();
    for gpu in rentals.gpus() {
        let price = cloud.prices.as_ref().and_then(|prices| prices.quote_of(gpu));
        let (total, free, _) = kinds.entry(short_name(&gpu.model)).or_insert((0, 0, price));
        *total += 1;
        *free += u32::from(!held.gpus.contains(&gpu.uuid));
    }
    let kinds: Vec<_> = kinds
        .into_iter()
        .map(|(gpu, (total, available, price))| {
            json!({"gpu": gpu, "total": total, "available": available, "billing": price.as_ref().map(billing)})
        })
        .collect();
    Ok(Json(json!({"gpus": kinds})).into_response())
}

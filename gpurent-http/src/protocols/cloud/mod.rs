//! The `cloud` protocol: `/api/gpu/...`, instances from templates that are stopped and started.
//!
//! Instances have no fixed end; a stopped one keeps its data in its workspace, where the host has a place for those,
//! and costs nothing. What is refused is `{"error": ...}`.

mod handlers;
mod template;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::FromRef;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gpurent_core::error::ValidationError;
use gpurent_core::host::{RefusalKind, ToRefusal};
use gpurent_core::id::{RentalId, RenterId};
use gpurent_core::model::{
    CredentialRequest, GpuRequest, Labels, MountPath, PublishedPort, RateCard, RentalRequest, RentalSpec, Term,
    Workspace, WorkspaceFolder,
};
use gpurent_core::store::Role;
use serde_json::json;

use crate::caller::Caller;
use crate::problem::refusal_of;
use crate::protocol::Protocol;
use crate::protocols::cloud::handlers::{
    CreateBody, availability, create, destroy, list, show, start, stop, templates,
};
pub use crate::protocols::cloud::template::Template;
use crate::protocols::described::{Described, Takes};
use crate::state::{AppState, Own};

/// Marks rentals of this protocol, by the template that they were made of.
const TEMPLATE: &str = "cloud.template";

/// How many gigabytes were asked for.
const STORAGE: &str = "cloud.storage_gb";

/// How an instance is to be entered besides SSH.
const ACCESS: &str = "cloud.access";

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

impl Cloud {
    /// The protocol, as a host speaks it.
    pub(crate) fn protocol(self: Arc<Self>, state: &AppState) -> Protocol {
        Protocol::new(routes().into_router().with_state(state.own(self)))
            .with_busy(busy)
            .with_labels(&["cloud."])
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

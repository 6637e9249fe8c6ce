//! The `dashboard` protocol: one container a user, with ports and a folder that stay theirs.
//!
//! | route | |
//! |---|---|
//! | `POST /api/containers`, `/api/containers/create` | make a user's container |
//! | `POST /api/containers/{id}/start`, `/stop`, `/restart`, `/remove`, `/delete`, `/recreate` | and what becomes of it |
//! | `GET /api/containers/{id}`, `/status`, `/stats`, `/ports` | how it is |
//! | `GET /get_containers` | all of them |
//! | `GET /get_system_stats`, `/get_resources` | how busy the machine is |
//! | `GET /get_docker_images`, `/get_docker_image_details/{id}`, `DELETE /delete_docker_image/{id}` | what lies on it |
//! | `POST /api/ports/deallocate` | give a user's ports back |
//! | `GET /downloads/{file}` | a file that is [offered](Dashboard::with_downloads) to everybody |
//!
//! What is refused is 400 with `{"success": false, "error": ..., "message": ...}`. Bodies are JSON whatever they are said to
//! be. Only containers of this protocol are seen and touched, by any name that clients have for them. They are
//! answered as its manager and its desktop client expect it, within the time that those wait.

mod containers;
mod downloads;
mod machine;
mod names;
mod show;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::FromRef;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gpurent_core::allocation::PlacementError;
use gpurent_core::error::ValidationError;
use gpurent_core::host::{RentError, ToRefusal};
use gpurent_core::model::{ContainerLimits, ContainerPort, GpuSelector, ImageRef, MountPath, PortRange, Term};
use gpurent_core::runtime::{Images, MachineProbe};
use gpurent_core::store::RangeStore;
use serde_json::json;

use crate::problem::refusal_of;
use crate::protocol::Protocol;
use crate::protocols::dashboard::downloads::Downloads;
use crate::protocols::described::{Described, Takes};
use crate::state::{AppState, Own};

/// A port of a user's range: what answers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// As `port_map` names it: `code`, `ssh`, `jupyter`.
    pub name: String,
    /// How far from the range's first port.
    pub offset: u16,
    /// Where it answers in the container.
    pub container: ContainerPort,
}

/// How many ports a user has.
const RANGE: u16 = 10;

/// The containers that the `dashboard` protocol gives users.
#[derive(Clone)]
pub struct Dashboard {
    ranges: Arc<dyn RangeStore>,
    pool: PortRange,
    images: Arc<dyn Images>,
    machine: Arc<dyn MachineProbe>,
    services: Vec<Service>,
    image: Option<ImageRef>,
    mount: Option<MountPath>,
    gpu: GpuSelector,
    limits: ContainerLimits,
    term: Term,
    downloads: Option<Downloads>,
}

impl Dashboard {
    /// Users get ten ports each of `pool`, which the host has to
    /// [set aside](gpurent_core::allocation::PortPools::set_aside), and containers with any GPU.
    #[must_use]
    pub fn new(
        ranges: Arc<dyn RangeStore>,
        pool: PortRange,
        images: Arc<dyn Images>,
        machine: Arc<dyn MachineProbe>,
    ) -> Self {
        let service = |name: &str, offset, container| {
            let container = ContainerPort::try_from(container).ok()?;
            Some(Service { name: name.to_owned(), offset, container })
        };
        // Where the protocol's description names no port inside, one that such programs usually have.
        let usual = [
            service("code", 0, 8080),
            service("ssh", 1, 22),
            service("spice", 2, 5900),
            service("fm_ui", 3, 8081),
            service("fm", 4, 8082),
            service("jupyter", 8, 8888),
        ];
        Self {
            ranges,
            pool,
            images,
            machine,
            services: usual.into_iter().flatten().collect(),
            image: None,
            mount: None,
            gpu: GpuSelector::Any,
            limits: ContainerLimits::default(),
            term: Term::OpenEnded,
            downloads: None,
        }
    }

    /// The image of those who ask for none.
    #[must_use]
    pub fn with_image(self, image: ImageRef) -> Self {
        Self { image: Some(image), ..self }
    }

    /// Gives every user a folder that outlives their containers, which see it here: the host has a place for those.
    #[must_use]
    pub fn with_workspaces_at(self, mount: MountPath) -> Self {
        Self { mount: Some(mount), ..self }
    }

    /// Other services than the usual ones.
    ///
    /// # Errors
    /// Refuses a list without SSH (port 22), with one name, offset or port twice, or an offset above 9.
    pub fn with_services(mut self, services: Vec<Service>) -> Result<Self, ValidationError> {
        let wrong = |reason| Err(ValidationError::new("services", reason));
        if !services.iter().any(|service| service.container == gpurent_core::model::port::SSH) {
            return wrong("must have SSH, which is port 22");
        }
        if services.iter().any(|service| service.offset >= RANGE) {
            return wrong("must have offsets 0 to 9");
        }
        for (n, one) in services.iter().enumerate() {
            let same = |other: &Service| {
                one.name == other.name || one.offset == other.offset || one.container == other.container
            };
            if services[n + 1..].iter().any(same) {
                return wrong("must have each name, offset and port once");
            }
        }
        self.services = services;
        Ok(self)
    }

    /// Other ports of the container for some of the services, by name.
    ///
    /// # Errors
    /// Refuses one port for two of them.
    pub fn with_services_at(self, ports: &[(&str, ContainerPort)]) -> Result<Self, ValidationError> {
        let mut services = self.services.clone();
        for service in &mut services {
            if let Some((_, container)) = ports.iter().find(|(name, _)| *name == service.name) {
                service.container = *container;
            }
        }
        self.with_services(services)
    }

    /// Which GPUs users get; any by default.
    #[must_use]
    pub fn with_gpus(self, gpu: GpuSelector) -> Self {
        Self { gpu, ..self }
    }

    /// How much of the machine a container gets whose user does not say.
    #[must_use]
    pub fn with_limits(self, limits: ContainerLimits) -> Self {
        Self { limits, ..self }
    }

    /// How long a container may last; without an end by default.
    #[must_use]
    pub fn lasting(self, term: Term) -> Self {
        Self { term, ..self }
    }

    /// Offers a folder's files below `/downloads/` to everybody who [may call from where they are][from], without a key: the
    /// desktop client has its users' browsers fetch installers there. There are none by default. Links that lead out of the
    /// folder are followed; what it holds is not listed. 64 files are sent at once, 16 to one address, each within half an hour.
    ///
    /// [from]: crate::middleware::auth::Authenticator::admits_from
    #[must_use]
    pub fn with_downloads(self, folder: impl Into<PathBuf>) -> Self {
        Self { downloads: Some(Downloads::of(folder.into())), ..self }
    }
}

impl FromRef<Own<Self>> for Arc<Dashboard> {
    fn from_ref(state: &Own<Self>) -> Self {
        Self::clone(&state.own)
    }
}

impl Dashboard {
    /// The protocol, as a host speaks it.
    pub(crate) fn protocol(self: Arc<Self>, state: &AppState) -> Protocol {
        let has_downloads = self.downloads.is_some();
        let state = state.own(self);
        let protocol = Protocol::new(routes().into_router().with_state(state.clone()))
            .with_busy(busy)
            .with_labels(&["dashboard."])
            .with_words_for_keys();
        if has_downloads { protocol.with_offered(open_routes().into_router().with_state(state)) } else { protocol }
    }
}

pub(crate) fn routes() -> Described<Own<Arc<Dashboard>>> {
    Described::new("dashboard")
        .post("/api/containers", ["make", "Makes a user's container"], Takes::Body, containers::create)
        .post("/api/containers/create", ["create", "Makes a user's container"], Takes::Body, containers::create)
        .get("/api/containers/{id}", ["show", "Shows a container"], containers::one)
        .post(
            "/api/containers/{id}/start",
            ["start", "Starts a container, made again where it is gone"],
            Takes::Optional,
            containers::start,
        )
        .post(
            "/api/containers/{id}/stop",
            ["stop", "Stops a container and keeps its files"],
            Takes::Nothing,
            containers::stop,
        )
        .post(
            "/api/containers/{id}/restart",
            ["restart", "Stops a container and starts it"],
            Takes::Nothing,
            containers::restart,
        )
        .post(
            "/api/containers/{id}/remove",
            ["remove", "Removes a container and keeps its user's ports"],
            Takes::Nothing,
            containers::remove,
        )
        .post("/api/containers/{id}/delete", ["delete", "Removes a container"], Takes::Optional, containers::delete)
        .post(
            "/api/containers/{id}/recreate",
            ["recreate", "Removes a container and makes it anew"],
            Takes::Optional,
            containers::remake,
        )
        .get("/api/containers/{id}/status", ["status", "Tells whether a container runs"], containers::status)
        .get("/api/containers/{id}/stats", ["stats", "Tells what a container uses"], containers::stats)
        .get("/api/containers/{id}/ports", ["ports", "Tells a container's ports"], containers::ports)
        .get("/get_containers", ["list", "Lists containers"], containers::list)
        .post("/api/ports/deallocate", ["deallocate", "Gives a user's ports back"], Takes::Body, containers::deallocate)
        .get("/get_system_stats", ["system_stats", "Tells how busy the machine is"], machine::load)
        .get("/get_resources", ["resources", "Tells how busy the machine is"], machine::load)
        .get("/get_docker_images", ["images", "Lists the engine's images"], machine::images)
        .get("/get_docker_image_details/{*id}", ["image", "Shows an image"], machine::image)
        .delete(
            "/delete_docker_image/{*id}",
            ["remove_image", "Deletes an image"],
            Takes::Optional,
            machine::remove_image,
        )
}

/// The routes that need no key.
pub(crate) fn open_routes() -> Described<Own<Arc<Dashboard>>> {
    let path = format!("{}/{{*file}}", downloads::PLACE);
    Described::new("dashboard").file(
        &path,
        ["download", "Sends a file that is offered to everybody"],
        downloads::download,
    )
}

/// A refusal, in the protocol's form.
#[derive(Debug)]
struct Refused(StatusCode, String);

impl Refused {
    fn new(error: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, error.into())
    }

    fn not_found() -> Self {
        Self::new("Container not found")
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"success": false, "error": self.1, "message": self.1}))).into_response()
    }
}

impl<E: ToRefusal + 'static> From<E> for Refused {
    fn from(error: E) -> Self {
        let refusal = refusal_of(&error);
        match refusal.code {
            // Its clients give no names: it is the user's own, which another request makes at this moment.
            "name-taken" => Self::new("the user's container is being made; ask again"),
            _ => Self::new(refusal.detail),
        }
    }
}

/// Whether the same would go without a GPU.
fn lacks_a_gpu(error: &RentError) -> bool {
    matches!(
        error,
        RentError::NotPlaced(
            PlacementError::UnknownGpu { .. } | PlacementError::NoGpuFree(_) | PlacementError::NoPlaceWithoutGpu
        )
    )
}

/// The answer when the host has more requests than it takes at once.
fn busy() -> Response {
    Refused::new("the host is busy; try again").into_response()
}

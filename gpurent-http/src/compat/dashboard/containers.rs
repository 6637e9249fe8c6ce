//! A user's container: made, stopped, started, deleted, and how it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::access::CredentialRequest;
use gpurent_core::gpu::GpuRequest;
use gpurent_core::id::{HostId, RenterId};
use gpurent_core::invalid::Invalid;
use gpurent_core::lifecycle::{Phase, State as RentalState, SuspendCause};
use gpurent_core::port::ranges::GivenBack;
use gpurent_core::port::{HostPort, PublishedPort};
use gpurent_core::rental::Rental;
use gpurent_core::rentals::{InsideError, RentError, Rentals};
use gpurent_core::spec::{Labels, Limits, RentalRequest, RentalSpec, Workspace, WorkspaceFolder};
use gpurent_core::store::{Claimed, Filter, MAX_PAGE};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::instances;
use super::super::waiting::{WAIT, until};
use super::{Dashboard, RANGE, Refused, lacks_a_gpu};
use crate::auth::Caller;
use crate::body::LooseJson;
use crate::listeners::Listeners;
use crate::words;

/// Marks rentals of this protocol, by what they were asked for: a GPU or none.
const GPU: &str = "dashboard.gpu";

/// A number, or a text such as `4` or `4g`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Amount {
    Number(f64),
    Text(String),
}

impl Amount {
    /// CPUs in thousandths.
    fn milli_cpus(&self) -> Result<u32, Invalid> {
        let wrong = || Invalid::new("cpu", "must be a number of CPUs");
        let cpus = match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.trim().parse().map_err(|_| wrong())?,
        };
        // 0.1 to 1024: what is beyond is refused with the limits.
        let milli = (cpus * 1000.0).round();
        if !(0.0..=2_000_000.0).contains(&milli) {
            return Err(wrong());
        }
        format!("{milli:.0}").parse().map_err(|_| wrong())
    }

    /// Bytes, as Docker writes them: `4g`, `512m`, or a plain number.
    fn bytes(&self) -> Result<u64, Invalid> {
        let wrong = || Invalid::new("memory", "must be bytes, such as 4g or 512m");
        let text = match self {
            Self::Number(number) => format!("{number:.0}"),
            Self::Text(text) => text.trim().to_ascii_lowercase(),
        };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match &text[digits.len()..] {
            "" | "b" => 1,
            "k" | "kb" => 1 << 10,
            "m" | "mb" => 1 << 20,
            "g" | "gb" => 1 << 30,
            _ => return Err(wrong()),
        };
        digits.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
    }
}

/// Whether a container gets a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum GpuWish {
    #[default]
    Required,
    Preferred,
    None,
}

#[derive(Deserialize)]
pub(super) struct CreateBody {
    #[serde(alias = "user")]
    username: String,
    /// Of the manager's own session; nothing here depends on it.
    #[serde(default, rename = "session_token")]
    _session_token: Option<Value>,
    image: Option<String>,
    #[serde(alias = "cpu_count")]
    cpu: Option<Amount>,
    #[serde(alias = "memory_limit")]
    memory: Option<Amount>,
    #[serde(default)]
    gpu: GpuWish,
}

type Offer = State<Option<Arc<Dashboard>>>;

fn offered(State(dashboard): Offer) -> Result<Arc<Dashboard>, Refused> {
    dashboard.ok_or_else(Refused::not_found)
}

fn read<T>(LooseJson(body): LooseJson<T>) -> Result<T, Refused> {
    body.map_err(|malformed| Refused::new(malformed.sentence()))
}

fn user(name: &str, caller: &Caller) -> Result<RenterId, Refused> {
    let user: RenterId = name.parse().map_err(|error: Invalid| error.named("username"))?;
    if caller.may_act_for(&user) { Ok(user) } else { Err(Refused::new("this key is another user's")) }
}

impl Dashboard {
    fn limits(&self, cpu: Option<&Amount>, memory: Option<&Amount>) -> Result<Limits, Invalid> {
        let mut limits = self.limits.clone();
        if let Some(cpu) = cpu {
            limits = limits.with_milli_cpus(cpu.milli_cpus()?)?;
        }
        if let Some(memory) = memory {
            limits = limits.with_memory_bytes(memory.bytes()?)?;
        }
        Ok(limits)
    }

    /// Lets a user's container have its user's own ports.
    async fn give_ports(&self, host: &HostId, spec: &mut RentalSpec) -> Result<(), Refused> {
        let range = self.ranges.own_range(host, &spec.renter, &self.pool, RANGE).await?;
        let range = range.ok_or_else(|| Refused::new("no ports are left for another user"))?;
        let port =
            |service: &super::Service| PublishedPort { container: service.container, host: range.port(service.offset) };
        spec.ports = self.services.iter().map(port).collect::<Vec<_>>().try_into()?;
        spec.sticky_ports = Some(range);
        Ok(())
    }

    /// The spec of a user's container, but for its GPU and ports.
    fn spec(&self, user: RenterId, body: &CreateBody) -> Result<RentalSpec, Invalid> {
        let image = match (&body.image, &self.image) {
            (Some(image), _) => image.parse()?,
            (None, Some(image)) => image.clone(),
            (None, None) => return Err(Invalid::new("image", "must be named")),
        };
        let mut spec = RentalSpec::new(user, None, image, self.term);
        spec.name = Some(name_of(&spec.renter)?);
        spec.limits = self.limits(body.cpu.as_ref(), body.memory.as_ref())?;
        if let Some(mount) = &self.mount {
            let folder = WorkspaceFolder::of(&spec.renter);
            spec.workspace = Some(Workspace { folder, mount: mount.clone() });
        }
        Ok(spec)
    }

    async fn rent(&self, rentals: &Rentals, mut spec: RentalSpec, wish: GpuWish) -> Result<Claimed, RentError> {
        let with_gpu = (wish != GpuWish::None).then(|| GpuRequest::one(self.gpu.clone()));
        for (gpu, word) in [(with_gpu, "gpu"), (None, "none")] {
            if gpu.is_none() && word == "gpu" {
                continue;
            }
            spec.gpu = gpu;
            let label = BTreeMap::from([(GPU.to_owned(), word.to_owned())]);
            // A word of ours under a name of ours.
            spec.labels = Labels::try_from(label).unwrap_or_default();
            match rentals.rent(RentalRequest::new(spec.clone(), CredentialRequest::Generate)).await {
                Err(error) if wish == GpuWish::Preferred && word == "gpu" && lacks_a_gpu(&error) => {}
                result => return result,
            }
        }
        Err(RentError::NotReconciled)
    }
}

/// One live container a user: the name says whose it is.
fn name_of(user: &RenterId) -> Result<gpurent_core::id::InstanceName, Invalid> {
    let mut name = "dashboard-".to_owned();
    for byte in user.as_str().bytes() {
        // Letters and digits stand for themselves, so that no two users have one name.
        if byte.is_ascii_alphanumeric() { name.push(char::from(byte)) } else { name.push_str(&format!("_{byte:02x}")) }
    }
    name.parse().map_err(|error: Invalid| error.named("username"))
}

pub(super) async fn create(
    State(rentals): State<Rentals>,
    dashboard: Offer,
    Extension(caller): Extension<Caller>,
    body: LooseJson<CreateBody>,
) -> Result<Response, Refused> {
    let rentals = caller.within_their_limits(&rentals);
    let (dashboard, body) = (offered(dashboard)?, read(body)?);
    let user = user(&body.username, &caller)?;
    let mut spec = dashboard.spec(user, &body)?;
    // Only for a request that can be carried out.
    dashboard.give_ports(rentals.host(), &mut spec).await?;
    let rental = up(&dashboard, &rentals, spec, body.gpu).await?;
    Ok(Json(json!({"success": true, "container": view(&dashboard, &rental)})).into_response())
}

/// Rents, and waits until the container is up, or for as long as an answer may take.
async fn up(dashboard: &Dashboard, rentals: &Rentals, spec: RentalSpec, wish: GpuWish) -> Result<Rental, Refused> {
    let deadline = Instant::now() + WAIT;
    let updates = rentals.subscribe();
    let claimed = dashboard.rent(rentals, spec, wish).await?;
    let rental = until(rentals, claimed.rental().clone(), updates, deadline, is_up_or_not_coming).await;
    if let Some(reason) = rental.state().end_reason() {
        return Err(Refused::new(reason.describe()));
    }
    // Given back in between, they may be somebody else's by now.
    let own = dashboard.ranges.range_of(rentals.host(), &rental.spec().renter).await?;
    if own != rental.spec().sticky_ports {
        rentals.cancel(rental.id()).await?;
        return Err(Refused::new("the user's ports were given back meanwhile; ask again"));
    }
    Ok(rental)
}

fn is_up_or_not_coming(rental: &Rental) -> bool {
    let state = rental.state();
    matches!(state, RentalState::Ready) || state.suspend_cause().is_some() || state.end_reason().is_some()
}

fn is_down(rental: &Rental) -> bool {
    matches!(rental.state(), RentalState::Suspended { .. } | RentalState::Ended { .. })
}

/// A rental of this protocol; by its own id, or that of a container that it has or had.
async fn find(rentals: &Rentals, caller: &Caller, id: &str) -> Result<Rental, Refused> {
    let rental = instances::find(rentals, id).await?;
    let is_ours = |rental: &Rental| rental.spec().labels.get(GPU).is_some() && caller.may_see(rental);
    rental.filter(is_ours).ok_or_else(Refused::not_found)
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct StartBody {
    /// Ports are the user's own whatever is sent.
    #[serde(rename = "ports")]
    _ports: Option<Value>,
    cpu_count: Option<Amount>,
    memory_limit: Option<Amount>,
    recreate_if_missing: bool,
}

/// Starts a container that was stopped; makes one that has ended again where that is asked for, as it was but for
/// the limits that are sent.
pub(super) async fn start(
    State(rentals): State<Rentals>,
    dashboard: Offer,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: LooseJson<StartBody>,
) -> Result<Response, Refused> {
    let rentals = caller.within_their_limits(&rentals);
    let (dashboard, body) = (offered(dashboard)?, read(body)?);
    let rental = find(&rentals, &caller, &id).await?;
    let rental = if rental.is_live() {
        resume(&rentals, &rental).await?
    } else if body.recreate_if_missing {
        recreate(&dashboard, &rentals, &rental, &body).await?
    } else {
        return Err(Refused::new("the container is gone; send recreate_if_missing to have it made again"));
    };
    Ok(Json(json!({"success": true, "container": view(&dashboard, &rental)})).into_response())
}

async fn recreate(
    dashboard: &Dashboard,
    rentals: &Rentals,
    before: &Rental,
    body: &StartBody,
) -> Result<Rental, Refused> {
    let mut spec = before.spec().clone();
    let range = dashboard.ranges.own_range(rentals.host(), &spec.renter, &dashboard.pool, RANGE).await?;
    let range = range.ok_or_else(|| Refused::new("no ports are left for another user"))?;
    let port =
        |service: &super::Service| PublishedPort { container: service.container, host: range.port(service.offset) };
    spec.ports = dashboard.services.iter().map(port).collect::<Vec<_>>().try_into()?;
    spec.sticky_ports = Some(range);
    if let Some(cpu) = &body.cpu_count {
        spec.limits = spec.limits.with_milli_cpus(cpu.milli_cpus()?)?;
    }
    if let Some(memory) = &body.memory_limit {
        spec.limits = spec.limits.with_memory_bytes(memory.bytes()?)?;
    }
    let wish = if spec.gpu.is_some() { GpuWish::Required } else { GpuWish::None };
    up(dashboard, rentals, spec, wish).await
}

async fn resume(rentals: &Rentals, rental: &Rental) -> Result<Rental, Refused> {
    let deadline = Instant::now() + WAIT;
    let updates = rentals.subscribe();
    let rental = rentals.resume(rental.id()).await?.ok_or_else(Refused::not_found)?;
    let rental = until(rentals, rental, updates, deadline, is_up_or_not_coming).await;
    match (rental.state().suspend_cause(), rental.state().end_reason()) {
        (Some(SuspendCause::Failed(failure)), _) => Err(Refused::new(failure.detail.clone())),
        (Some(_), _) => Err(Refused::new("it was stopped again")),
        (_, Some(reason)) => Err(Refused::new(reason.describe())),
        (None, None) => Ok(rental),
    }
}

async fn suspend(rentals: &Rentals, rental: &Rental) -> Result<Rental, Refused> {
    if rental.is_on_its_first_way_up() {
        return Err(Refused::new("it is still starting; ask again"));
    }
    let deadline = Instant::now() + WAIT;
    let updates = rentals.subscribe();
    let rental = rentals.suspend(rental.id()).await?.ok_or_else(Refused::not_found)?;
    let rental = until(rentals, rental, updates, deadline, is_down).await;
    if is_down(&rental) { Ok(rental) } else { Err(Refused::new("it is still being stopped; ask again")) }
}

pub(super) async fn stop(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let rentals = caller.within_their_limits(&rentals);
    let rental = find(&rentals, &caller, &id).await?;
    suspend(&rentals, &rental).await?;
    Ok(Json(json!({"success": true})).into_response())
}

pub(super) async fn restart(
    State(rentals): State<Rentals>,
    State(listeners): State<Listeners>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let rentals = caller.within_their_limits(&rentals);
    let rental = find(&rentals, &caller, &id).await?;
    // Goes on also if nobody waits for the answer: half a restart would be a stop.
    let restarting = listeners.tracker.spawn(async move {
        let rental = suspend(&rentals, &rental).await?;
        resume(&rentals, &rental).await.map(|_| ())
    });
    match tokio::time::timeout(WAIT, restarting).await {
        Ok(Ok(restarted)) => restarted?,
        Ok(Err(_panicked)) => return Err(Refused::new("the container was not restarted")),
        Err(_still) => return Err(Refused::new("it is still being restarted; ask for its status")),
    }
    Ok(Json(json!({"success": true})).into_response())
}

/// Whether a container was there to be stopped and removed.
async fn end(rentals: &Rentals, rental: &Rental) -> Result<bool, Refused> {
    let (deadline, had_one) = (Instant::now() + WAIT, rental.container().is_some() && rental.is_live());
    let updates = rentals.subscribe();
    let rental = rentals.cancel(rental.id()).await?.ok_or_else(Refused::not_found)?;
    let rental = until(rentals, rental, updates, deadline, |rental| !rental.is_live()).await;
    if rental.is_live() { Err(Refused::new("it is still being removed; ask again")) } else { Ok(had_one) }
}

/// The container goes; the user's ports and folder stay theirs.
pub(super) async fn remove(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let rental = find(&rentals, &caller, &id).await?;
    end(&rentals, &rental).await?;
    Ok(Json(json!({"success": true})).into_response())
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct DeleteBody {
    username: Option<String>,
    /// The manager's own number of the user.
    #[serde(rename = "user_id")]
    _user_id: Option<Value>,
}

/// The container goes, and the user's ports are given back; their folder stays.
pub(super) async fn delete(
    State(rentals): State<Rentals>,
    dashboard: Offer,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: LooseJson<DeleteBody>,
) -> Result<Response, Refused> {
    let (dashboard, body) = (offered(dashboard)?, read(body)?);
    let rental = find(&rentals, &caller, &id).await?;
    let user = rental.spec().renter.clone();
    if body.username.is_some_and(|name| name != user.as_str()) {
        return Err(Refused::new("the container is another user's"));
    }
    let had_one = end(&rentals, &rental).await?;
    let given_back = dashboard.ranges.give_back(rentals.host(), &user).await?;
    Ok(Json(json!({
        "success": true,
        "message": "Container deleted",
        "container_stopped": had_one,
        "container_removed": true,
        "ports_deallocated": given_back == GivenBack::Yes,
    }))
    .into_response())
}

pub(super) async fn status(
    State(rentals): State<Rentals>,
    dashboard: Offer,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let rental = find(&rentals, &caller, &id).await?;
    let container = view(&*offered(dashboard)?, &rental);
    Ok(Json(json!({"success": true, "status": container["status"], "container": container})).into_response())
}

pub(super) async fn stats(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let rental = find(&rentals, &caller, &id).await?;
    let usage = rentals.usage(&rental).await.map_err(|error| match error {
        InsideError::NotRunning => Refused::new("the container does not run"),
        other => {
            tracing::warn!(error = &other as &dyn std::error::Error, "usage cannot be told");
            Refused::new("the container's usage cannot be told now")
        }
    })?;
    let percent =
        if usage.memory_limit == 0 { 0.0 } else { usage.memory_used as f64 / usage.memory_limit as f64 * 100.0 };
    let rounded = |number: f64| (number * 100.0).round() / 100.0;
    Ok(Json(json!({"success": true, "stats": {
        "cpu_usage": rounded(usage.cpu_percent),
        "memory_usage": rounded(percent),
        "memory_used": usage.memory_used,
        "memory_limit": usage.memory_limit,
    }}))
    .into_response())
}

pub(super) async fn ports(
    State(rentals): State<Rentals>,
    dashboard: Offer,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let (dashboard, rental) = (offered(dashboard)?, find(&rentals, &caller, &id).await?);
    let range = dashboard.ranges.range_of(rentals.host(), &rental.spec().renter).await?;
    let named = |service: &super::Service| {
        // As the protocol calls them here.
        let name = match service.name.as_str() {
            "code" => "code_port",
            "ssh" => "ssh_port",
            other => other,
        };
        (name.to_owned(), json!(range.as_ref().and_then(|range| range.port(service.offset))))
    };
    let ports: serde_json::Map<String, Value> = dashboard.services.iter().map(named).collect();
    Ok(Json(json!({"success": true, "port_info": ports})).into_response())
}

pub(super) async fn list(
    State(rentals): State<Rentals>,
    dashboard: Offer,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refused> {
    let dashboard = offered(dashboard)?;
    let mut live = rentals.active().await?;
    let filter = Filter { renter: caller.scope(), phases: vec![Phase::Suspended], ..Filter::default() };
    live.extend(rentals.list(&filter, None, MAX_PAGE).await?);
    let ours = live.iter().filter(|rental| rental.spec().labels.get(GPU).is_some() && caller.may_see(rental));
    let containers: Vec<_> = ours.map(|rental| view(&dashboard, rental)).collect();
    Ok(Json(json!({"success": true, "containers": containers})).into_response())
}

#[derive(Deserialize)]
pub(super) struct DeallocateBody {
    username: String,
}

pub(super) async fn deallocate(
    State(rentals): State<Rentals>,
    dashboard: Offer,
    Extension(caller): Extension<Caller>,
    body: LooseJson<DeallocateBody>,
) -> Result<Response, Refused> {
    let (dashboard, body) = (offered(dashboard)?, read(body)?);
    let user = user(&body.username, &caller)?;
    match dashboard.ranges.give_back(rentals.host(), &user).await? {
        GivenBack::Yes => Ok(Json(json!({"success": true, "message": "Ports deallocated"})).into_response()),
        GivenBack::NothingThere => Err(Refused::new("the user has no ports")),
        GivenBack::InUse => Err(Refused::new("the user's ports are in use")),
    }
}

fn view(dashboard: &Dashboard, rental: &Rental) -> Value {
    let spec = rental.spec();
    let own = |service: &super::Service| -> Option<HostPort> { spec.sticky_ports.as_ref()?.port(service.offset) };
    let ports: serde_json::Map<String, Value> =
        dashboard.services.iter().map(|service| (service.name.clone(), json!(own(service)))).collect();
    json!({
        "id": rental.id(),
        "container_id": rental.container(),
        "name": rental.name(),
        "username": spec.renter,
        "image": spec.image,
        "status": words::dashboard(rental.state()),
        "port_map": ports,
        "gpu": if spec.gpu.is_some() { "gpu" } else { "none" },
        "created_at": rental.created_at(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_docker_writes_them() {
        let text = |text: &str| Amount::Text(text.to_owned());
        assert_eq!(text("4g").bytes().unwrap(), 4 << 30);
        assert_eq!(text("512m").bytes().unwrap(), 512 << 20);
        assert_eq!(Amount::Number(1024.0).bytes().unwrap(), 1024);
        assert_eq!(Amount::Number(4.0).milli_cpus().unwrap(), 4000);
        assert_eq!(text("1.5").milli_cpus().unwrap(), 1500);
        for wrong in ["", "g", "4x", "-1g", "99999999999999999999g", "1e3g"] {
            assert!(text(wrong).bytes().is_err(), "{wrong}");
        }
        assert!(Amount::Number(f64::NAN).milli_cpus().is_err());
        assert!(Amount::Number(-1.0).milli_cpus().is_err());
    }

    #[test]
    fn no_two_users_have_one_name() {
        let name = |user: &str| name_of(&user.parse().unwrap()).unwrap().to_string();
        assert_eq!(name("user1"), "dashboard-user1");
        assert_ne!(name("a/b"), name("a_2fb"));
    }
}

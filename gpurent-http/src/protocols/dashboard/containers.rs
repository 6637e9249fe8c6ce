//! A user's container: made, stopped, started, deleted, and how it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream;
use futures_util::stream::StreamExt;
use gpurent_core::error::ValidationError;
use gpurent_core::host::{RentError, Rentals};
use gpurent_core::id::{HostId, RenterId};
use gpurent_core::model::{
    ContainerLimits, CredentialRequest, GpuRequest, Labels, PublishedPort, Rental, RentalRequest, RentalSpec,
    RentalState, Size, SuspendCause, Workspace, WorkspaceFolder,
};
use gpurent_core::runtime::Usage;
use gpurent_core::store::{ClaimOutcome, GivenBack};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::caller::Caller;
use crate::extract::LooseJson;
use crate::protocols::dashboard::names::{GPU, of_user};
use crate::protocols::dashboard::{Dashboard, RANGE, Refused, lacks_a_gpu, names, show};
use crate::protocols::wait::{WAIT_LIMIT, until};
use crate::subscribers::Subscribers;

/// How long answers take at most whose clients give up after 15 seconds.
const SHORT_WAIT: Duration = Duration::from_secs(11);
/// Such whose clients wait for 30.
const LONG_WAIT: Duration = Duration::from_secs(20);

/// How long a container may take to stop before it is started again.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How many containers are asked at once how much they use, and how long that may take.
const ASKED_AT_ONCE: usize = 8;
const USAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// A number, or a text such as `4` or `4g`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Amount {
    Number(f64),
    Text(String),
}

impl Amount {
    /// CPUs in thousandths.
    fn milli_cpus(&self) -> Result<u32, ValidationError> {
        let wrong = || ValidationError::new("cpu", "must be a number of CPUs");
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
    fn bytes(&self) -> Result<u64, ValidationError> {
        let size = match self {
            Self::Number(number) => format!("{number:.0}").parse(),
            Self::Text(text) => text.parse(),
        };
        size.map(Size::bytes).map_err(|error: ValidationError| error.named("memory"))
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
    #[serde(default)]
    resources: Resources,
}

/// The same, as the manager's page sends it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    cpu_count: Option<Amount>,
    memory_limit: Option<Amount>,
    /// For people, such as `1 core, 12GB`.
    #[serde(rename = "gpu")]
    _gpu: Option<Value>,
}

impl CreateBody {
    /// The container of a user of whom nothing else is known.
    fn of_user(user: &RenterId) -> Self {
        Self {
            username: user.to_string(),
            _session_token: None,
            image: None,
            cpu: None,
            memory: None,
            gpu: GpuWish::default(),
            resources: Resources::default(),
        }
    }
}

fn read<T>(LooseJson(body): LooseJson<T>) -> Result<T, Refused> {
    body.map_err(|malformed| Refused::new(malformed.sentence()))
}

fn user(name: &str, caller: &Caller) -> Result<RenterId, Refused> {
    let user: RenterId = name.parse().map_err(|error: ValidationError| error.named("username"))?;
    if caller.may_act_for(&user) { Ok(user) } else { Err(Refused::new("this key is another user's")) }
}

impl Dashboard {
    fn limits(&self, cpu: Option<&Amount>, memory: Option<&Amount>) -> Result<ContainerLimits, ValidationError> {
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
        let port = |service: &crate::protocols::dashboard::Service| {
            PublishedPort::tcp(service.container, range.port(service.offset))
        };
        spec.ports = self.services.iter().map(port).collect::<Vec<_>>().try_into()?;
        spec.sticky_ports = Some(range);
        Ok(())
    }

    /// The spec of a user's container, but for its GPU and ports.
    fn spec(&self, user: RenterId, body: &CreateBody) -> Result<RentalSpec, ValidationError> {
        let image = match (&body.image, &self.image) {
            (Some(image), _) => image.parse()?,
            (None, Some(image)) => image.clone(),
            (None, None) => return Err(ValidationError::new("image", "must be named")),
        };
        let mut spec = RentalSpec::new(user, None, image, self.term);
        spec.name = Some(names::name_of(&spec.renter)?);
        let (cpu, memory) = (body.cpu.as_ref(), body.memory.as_ref());
        spec.limits =
            self.limits(cpu.or(body.resources.cpu_count.as_ref()), memory.or(body.resources.memory_limit.as_ref()))?;
        if let Some(mount) = &self.mount {
            let folder = WorkspaceFolder::of(&spec.renter);
            spec.workspace = Some(Workspace { folder, mount: mount.clone() });
        }
        Ok(spec)
    }

    async fn rent(&self, rentals: &Rentals, mut spec: RentalSpec, wish: GpuWish) -> Result<ClaimOutcome, RentError> {
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

pub(super) async fn create(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
    body: LooseJson<CreateBody>,
) -> Result<Response, Refused> {
    let rentals = caller.within_their_limits(&rentals);
    let body = read(body)?;
    let user = user(&body.username, &caller)?;
    // A user has one, whatever is asked for beside it.
    if let Some(there) = of_user(&rentals, &user).await?.filter(Rental::is_live) {
        return Ok(Json(json!({"success": true, "container": show::container(&dashboard, &there)})).into_response());
    }
    let rental = make(&dashboard, &rentals, user, &body, WAIT_LIMIT).await?;
    Ok(Json(json!({"success": true, "container": show::container(&dashboard, &rental)})).into_response())
}

async fn make(
    dashboard: &Dashboard,
    rentals: &Rentals,
    user: RenterId,
    body: &CreateBody,
    wait: Duration,
) -> Result<Rental, Refused> {
    let mut spec = dashboard.spec(user, body)?;
    // Only for a request that can be carried out.
    dashboard.give_ports(rentals.host(), &mut spec).await?;
    up(dashboard, rentals, spec, body.gpu, wait).await
}

/// Rents, and waits until the container is up, or for as long as an answer may take.
async fn up(
    dashboard: &Dashboard,
    rentals: &Rentals,
    spec: RentalSpec,
    wish: GpuWish,
    wait: Duration,
) -> Result<Rental, Refused> {
    let deadline = Instant::now() + wait;
    let updates = rentals.subscribe();
    let user = spec.renter.clone();
    let claimed = match dashboard.rent(rentals, spec, wish).await {
        // Asked for twice at once: it is the same container.
        Err(RentError::NameTaken(name)) => {
            let there = of_user(rentals, &user).await?.filter(Rental::is_live);
            there.ok_or(RentError::NameTaken(name))?
        }
        claimed => claimed?.rental().clone(),
    };
    let rental = until(rentals, claimed, updates, deadline, is_up_or_not_coming).await;
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

/// The container that somebody means, by any of its names.
async fn find(rentals: &Rentals, caller: &Caller, id: &str) -> Result<Rental, Refused> {
    names::find(rentals, caller, id).await?.ok_or_else(Refused::not_found)
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct StartBody {
    /// Ports are the user's own whatever is sent.
    #[serde(rename = "ports")]
    _ports: Option<Value>,
    cpu_count: Option<Amount>,
    memory_limit: Option<Amount>,
    /// A container that is gone is made again unless somebody says that it must not be: clients say nothing.
    recreate_if_missing: Option<bool>,
}

/// Starts a container that was stopped; makes one that has ended again, as it was but for the limits that are sent, and one
/// that never was, for the user whose name it has.
pub(super) async fn start(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: LooseJson<StartBody>,
) -> Result<Response, Refused> {
    let rentals = caller.within_their_limits(&rentals);
    let body = read(body)?;
    let rental = started(&dashboard, &rentals, &caller, &id, &body).await?;
    Ok(Json(json!({"success": true, "container": show::container(&dashboard, &rental)})).into_response())
}

async fn started(
    dashboard: &Dashboard,
    rentals: &Rentals,
    caller: &Caller,
    id: &str,
    body: &StartBody,
) -> Result<Rental, Refused> {
    match names::find(rentals, caller, id).await? {
        Some(rental) if rental.is_live() => resume(rentals, &rental, SHORT_WAIT).await,
        _ if body.recreate_if_missing == Some(false) => Err(Refused::not_found()),
        Some(ended) => recreate(dashboard, rentals, &ended, body).await,
        None => {
            let named = names::user_of(id).ok_or_else(Refused::not_found)?;
            let user = user(named.as_str(), caller)?;
            make(dashboard, rentals, user.clone(), &CreateBody::of_user(&user), SHORT_WAIT).await
        }
    }
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
    let port = |service: &crate::protocols::dashboard::Service| {
        PublishedPort::tcp(service.container, range.port(service.offset))
    };
    spec.ports = dashboard.services.iter().map(port).collect::<Vec<_>>().try_into()?;
    spec.sticky_ports = Some(range);
    if let Some(cpu) = &body.cpu_count {
        spec.limits = spec.limits.with_milli_cpus(cpu.milli_cpus()?)?;
    }
    if let Some(memory) = &body.memory_limit {
        spec.limits = spec.limits.with_memory_bytes(memory.bytes()?)?;
    }
    let wish = if spec.gpu.is_some() { GpuWish::Required } else { GpuWish::None };
    up(dashboard, rentals, spec, wish, SHORT_WAIT).await
}

async fn resume(rentals: &Rentals, rental: &Rental, wait: Duration) -> Result<Rental, Refused> {
    let deadline = Instant::now() + wait;
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

/// Stops a container, or begins to: one that never was up ends instead.
async fn suspend(rentals: &Rentals, rental: &Rental, wait: Duration) -> Result<Rental, Refused> {
    let deadline = Instant::now() + wait;
    let updates = rentals.subscribe();
    let rental = rentals.suspend(rental.id()).await?.ok_or_else(Refused::not_found)?;
    Ok(until(rentals, rental, updates, deadline, is_down).await)
}

pub(super) async fn stop(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let rentals = caller.within_their_limits(&rentals);
    let rental = find(&rentals, &caller, &id).await?;
    let message = match suspend(&rentals, &rental, SHORT_WAIT).await? {
        stopped if is_down(&stopped) => "Container stopped",
        // It is stopped whatever happens; the client would only wait no longer.
        _ => "Container is being stopped",
    };
    Ok(Json(json!({"success": true, "message": message})).into_response())
}

pub(super) async fn restart(
    State(rentals): State<Rentals>,
    State(subscribers): State<Subscribers>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let rentals = caller.within_their_limits(&rentals);
    // Goes on also if nobody waits for the answer: half a restart would be a stop.
    let restarting = subscribers.tracker.spawn(async move {
        if let Some(rental) = names::find(&rentals, &caller, &id).await?.filter(Rental::is_live) {
            suspend(&rentals, &rental, STOP_LIMIT).await?;
        }
        let restarted = started(&dashboard, &rentals, &caller, &id, &StartBody::default()).await;
        if let Err(refused) = &restarted {
            // Whoever asked may not be there any more.
            tracing::warn!(container = id, "restarted by half: {}", refused.1);
        }
        restarted
    });
    let message = match tokio::time::timeout(SHORT_WAIT, restarting).await {
        Ok(Ok(restarted)) => {
            restarted?;
            "Container restarted"
        }
        Ok(Err(_panicked)) => return Err(Refused::new("the container was not restarted")),
        Err(_still) => "Container is being restarted",
    };
    Ok(Json(json!({"success": true, "message": message})).into_response())
}

/// A container goes, or is on its way: whether there was one.
async fn end(rentals: &Rentals, rental: &Rental, wait: Duration) -> Result<bool, Refused> {
    let (deadline, had_one) = (Instant::now() + wait, rental.container().is_some() && rental.is_live());
    let updates = rentals.subscribe();
    let rental = rentals.cancel(rental.id()).await?.ok_or_else(Refused::not_found)?;
    let rental = until(rentals, rental, updates, deadline, |rental| !rental.is_live()).await;
    if rental.is_live() { Err(Refused::new("the container is still being removed; ask again")) } else { Ok(had_one) }
}

/// The container goes; the user's ports and folder stay theirs. One that is gone is removed already.
pub(super) async fn remove(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    if let Some(rental) = names::find(&rentals, &caller, &id).await? {
        end(&rentals, &rental, SHORT_WAIT).await?;
    }
    Ok(Json(json!({"success": true, "message": "Container removed"})).into_response())
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct DeleteBody {
    username: Option<String>,
    /// The manager's own number of the user.
    #[serde(rename = "user_id")]
    _user_id: Option<Value>,
}

/// The container goes; the user's ports are given back where the user is named (an administrator's page names none, and the
/// user comes back); their folder stays. One that is gone is deleted already.
pub(super) async fn delete(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: LooseJson<DeleteBody>,
) -> Result<Response, Refused> {
    let body = read(body)?;
    let rental = names::find(&rentals, &caller, &id).await?.filter(Rental::is_live);
    let named = body.username.as_deref().map(|name| user(name, &caller)).transpose()?;
    if let (Some(rental), Some(user)) = (&rental, &named)
        && rental.spec().renter != *user
    {
        return Err(Refused::new("the container is another user's"));
    }
    let had_one = match &rental {
        Some(rental) => end(&rentals, rental, LONG_WAIT).await?,
        None => false,
    };
    let mut freed = Vec::new();
    if let Some(user) = &named {
        let range = dashboard.ranges.range_of(rentals.host(), user).await?;
        if dashboard.ranges.give_back(rentals.host(), user).await? == GivenBack::Yes {
            let own = |service: &crate::protocols::dashboard::Service| range.as_ref()?.port(service.offset);
            freed.extend(dashboard.services.iter().filter_map(own));
        }
    }
    let message = if rental.is_some() { "Container deleted" } else { "Container not found: deleted already" };
    Ok(Json(json!({
        "success": true,
        "message": message,
        "container_stopped": had_one,
        "container_removed": rental.is_some(),
        "ports_deallocated": !freed.is_empty(),
        "deallocated_ports": freed,
    }))
    .into_response())
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RecreateBody {
    wipe_data: bool,
}

/// The container goes, and is made anew as it was asked for; the user's folder stays.
pub(super) async fn remake(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: LooseJson<RecreateBody>,
) -> Result<Response, Refused> {
    let rentals = caller.within_their_limits(&rentals);
    let body = read(body)?;
    if body.wipe_data {
        return Err(Refused::new("this host wipes no user's folder: send wipe_data: false, and empty it from inside"));
    }
    let rental = find(&rentals, &caller, &id).await?;
    let had_one = end(&rentals, &rental, LONG_WAIT).await?;
    let made = recreate(&dashboard, &rentals, &rental, &StartBody::default()).await?;
    Ok(Json(json!({
        "success": true,
        "message": "Container recreated",
        "container_stopped": had_one,
        "container_removed": true,
        "data_wiped": false,
        "container_created": true,
        "container": show::container(&dashboard, &made),
    }))
    .into_response())
}

/// A container that is gone, or never was, is one that is stopped: so clients offer to start it.
pub(super) async fn status(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let found = names::find(&rentals, &caller, &id).await?;
    let Some(rental) = found.filter(Rental::is_live) else {
        return Ok(Json(json!({"success": true, "status": "stopped", "id": null, "name": id})).into_response());
    };
    let container = show::container(&dashboard, &rental);
    Ok(Json(json!({
        "success": true,
        "status": container["status"],
        "id": container["id"],
        "name": container["name"],
        "container": container,
    }))
    .into_response())
}

/// One container.
pub(super) async fn one(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let found = names::find(&rentals, &caller, &id).await?.filter(Rental::is_live);
    let rental = found.ok_or_else(|| Refused(StatusCode::NOT_FOUND, Refused::not_found().1))?;
    Ok(Json(json!({"success": true, "container": show::container(&dashboard, &rental)})).into_response())
}

/// How much a container uses; `None` where it does not run, or is not told in time.
async fn usage_of(rentals: &Rentals, rental: &Rental) -> Option<Usage> {
    if !rental.state().is_up() {
        return None;
    }
    match tokio::time::timeout(USAGE_TIMEOUT, rentals.usage(rental)).await {
        Ok(Ok(usage)) => Some(usage),
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "usage cannot be told");
            None
        }
        Err(_late) => None,
    }
}

pub(super) async fn stats(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let rental = find(&rentals, &caller, &id).await?;
    let usage = usage_of(&rentals, &rental).await;
    let running = rental.state().is_up();
    if running && usage.is_none() {
        return Err(Refused::new("the container's usage cannot be told now"));
    }
    Ok(Json(json!({"success": true, "running": running, "stats": show::stats(usage.as_ref())})).into_response())
}

/// A user's ports, also while there is no container; both inside `port_info` and beside it, as older agents had it.
pub(super) async fn ports(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let user = match names::find(&rentals, &caller, &id).await? {
        Some(rental) => rental.spec().renter.clone(),
        None => {
            let named = names::user_of(&id).or_else(|| id.parse().ok());
            named.filter(|user| caller.may_act_for(user)).ok_or_else(Refused::not_found)?
        }
    };
    let range = dashboard.ranges.range_of(rentals.host(), &user).await?.ok_or_else(Refused::not_found)?;
    let ports = show::ports(&dashboard, |offset| range.port(offset));
    let mut answer = ports.clone();
    answer.extend([("success".to_owned(), json!(true)), ("port_info".to_owned(), Value::Object(ports))]);
    Ok(Json(Value::Object(answer)).into_response())
}

pub(super) async fn list(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refused> {
    let all = names::all(&rentals, &caller).await?;
    let now = rentals.now().wall;
    let rows = stream::iter(all).map(|rental| {
        let (rentals, dashboard) = (&rentals, &dashboard);
        async move {
            let usage = usage_of(rentals, &rental).await;
            show::row(dashboard, &rental, usage.as_ref(), now)
        }
    });
    let containers: Vec<Value> = rows.buffered(ASKED_AT_ONCE).collect().await;
    Ok(Json(json!({"success": true, "total_count": containers.len(), "containers": containers})).into_response())
}

#[derive(Deserialize)]
pub(super) struct DeallocateBody {
    username: String,
}

pub(super) async fn deallocate(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
    body: LooseJson<DeallocateBody>,
) -> Result<Response, Refused> {
    let body = read(body)?;
    let user = user(&body.username, &caller)?;
    match dashboard.ranges.give_back(rentals.host(), &user).await? {
        GivenBack::Yes => Ok(Json(json!({"success": true, "message": "Ports deallocated"})).into_response()),
        GivenBack::NothingThere => Err(Refused::new("the user has no ports")),
        GivenBack::InUse => Err(Refused::new("the user's ports are in use")),
    }
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
}

//! How busy the machine is, and the images that lie on it. These are the operator's: users see the load only.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::host::Rentals;
use gpurent_core::model::{Gpu, Phase, Rental};
use gpurent_core::runtime::{GpuLoad, Image, ImageDetails, ImageStep, ProbeError, RemoveImageError};
use gpurent_core::store::{Filter, MAX_PAGE};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::caller::Caller;
use crate::extract::LooseJson;
use crate::protocols::dashboard::show::{rounded, uptime};
use crate::protocols::dashboard::{Dashboard, Refused};

fn expect_operator(caller: &Caller) -> Result<(), Refused> {
    if caller.runs_the_machine() { Ok(()) } else { Err(Refused::new("only an operator's key may do this")) }
}

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// How busy the machine is: in the words of the protocol's description, and in those that its manager reads, which places
/// users by them.
pub(super) async fn load(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
) -> Result<Response, Refused> {
    let (load, gpus) = tokio::join!(dashboard.machine.load(), dashboard.machine.gpus());
    let rented = rentals.active().await?;
    let suspended = Filter { phases: vec![Phase::Suspended], ..Filter::default() };
    let suspended = rentals.list(&suspended, None, MAX_PAGE).await?.len();
    let up: Vec<&Rental> = rented.iter().filter(|rental| rental.state().is_up()).collect();
    // Whoever asks for no size has the part of the machine that goes with the GPUs.
    let part = |rental: &Rental| {
        let all = rentals.gpus().len().max(1) as f64;
        (rental.gpus().len() as f64 / all).min(1.0)
    };
    let cpus = f64::from(load.cpu_count);
    let memory = load.memory_total as f64 / GIB;
    let of = |rental: &&Rental| {
        let limits = &rental.spec().limits;
        let cpu = limits.milli_cpus().map_or(part(rental) * cpus, |milli| f64::from(milli) / 1000.0);
        (cpu, limits.memory_bytes().map_or(part(rental) * memory, |bytes| bytes as f64 / GIB))
    };
    let (cpu, used) = up.iter().map(of).fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let mut answer = json!(load);
    let of_the_manager = json!({
        "total_memory": rounded(memory),
        "host_cpu_used": load.cpu_percent,
        "host_memory_used": rounded(load.memory_total.saturating_sub(load.memory_available) as f64 / GIB),
        "total_disk": rounded(load.disk_total as f64 / GIB),
        "used_disk": rounded(load.disk_total.saturating_sub(load.disk_free) as f64 / GIB),
        "uptime": uptime(i64::try_from(load.uptime_seconds).unwrap_or(0)),
        "docker_instances": rented.len() + suspended,
        "running_containers": up.len(),
        "allocated_cpu": rounded(cpu),
        "allocated_memory": rounded(used),
        "remaining_cpu": rounded((cpus - cpu).max(0.0)),
        "remaining_memory": rounded((memory - used).max(0.0)),
        "gpu_info": gpu_info(rentals.gpus(), &gpus),
    });
    if let (Value::Object(answer), Value::Object(more)) = (&mut answer, of_the_manager) {
        answer.extend(more);
    }
    Ok(Json(answer).into_response())
}

/// The host's GPUs, and how busy they are. What a driver does not tell is left out: clients take that for zero.
fn gpu_info(gpus: &[Gpu], loads: &Result<Vec<GpuLoad>, ProbeError>) -> Value {
    let is_told = |gpu: &&Gpu| gpu.simulated || loads.is_ok();
    let told: Vec<&Gpu> = gpus.iter().filter(is_told).collect();
    if told.is_empty() {
        let error = match loads {
            Err(error) => {
                tracing::debug!(error = error as &dyn std::error::Error, "the GPUs' load is not known");
                "the GPUs' driver does not answer"
            }
            Ok(_) => "this host has no GPU",
        };
        return json!({"available": false, "error": error});
    }
    let (mut rows, mut total, mut used, mut utilization) = (Vec::new(), 0, 0, 0.0);
    for gpu in &told {
        let load = loads.iter().flatten().find(|load| load.uuid == gpu.uuid);
        // Nothing ever runs on one that is simulated.
        let idle = if gpu.simulated { Some(0) } else { None };
        let busy = load.and_then(|load| load.utilization_percent).or(idle);
        let memory = load.and_then(|load| load.memory_used_mib).or(idle.map(u64::from));
        let mut row = Map::new();
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                row.insert(name.to_owned(), value);
            }
        };
        put("index", json!(gpu.index));
        put("name", json!(gpu.model));
        put("uuid", json!(gpu.uuid));
        put("memory_total", json!(gpu.memory_mib));
        put("memory_used", json!(memory));
        put("utilization", json!(busy));
        let share = memory.filter(|_| gpu.memory_mib > 0).map(|used| used as f64 / gpu.memory_mib as f64 * 100.0);
        put("memory_utilization", json!(share.map(rounded)));
        put("temperature", json!(load.and_then(|load| load.temperature_celsius)));
        put("power_draw", json!(load.and_then(|load| load.power_watts).map(rounded)));
        put("power_limit", json!(load.and_then(|load| load.power_limit_watts).map(rounded)));
        rows.push(Value::Object(row));
        (total, used) = (total + gpu.memory_mib, used + memory.unwrap_or(0));
        utilization += f64::from(busy.unwrap_or(0));
    }
    let of_all = if total == 0 { 0.0 } else { used as f64 / total as f64 * 100.0 };
    json!({
        "available": true,
        "count": rows.len(),
        "total_memory": total,
        "total_memory_used": used,
        "avg_utilization": rounded(utilization / rows.len() as f64),
        "avg_memory_utilization": rounded(of_all),
        "gpus": rows,
    })
}

/// The images, a row for each of their names: so the manager's page shows them.
pub(super) async fn images(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refused> {
    expect_operator(&caller)?;
    let images = dashboard.images.images().await?;
    let size: u64 = images.iter().map(|image| image.size).sum();
    let rows: Vec<Value> = images.iter().flat_map(rows_of).collect();
    Ok(Json(json!({
        "success": true,
        "total_count": rows.len(),
        "total_size": size,
        "timestamp": rentals.now().wall,
        "images": rows,
    }))
    .into_response())
}

fn rows_of(image: &Image) -> Vec<Value> {
    let short: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
    let nameless = ["<none>:<none>".to_owned()];
    let tags = if image.tags.is_empty() { &nameless[..] } else { &image.tags[..] };
    let row = |full: &String| {
        // A port of the registry is no tag.
        let (repository, tag) = match full.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (full.as_str(), "latest"),
        };
        json!({
            "id": image.id,
            "short_id": short,
            "tags": image.tags,
            "repository": repository,
            "tag": tag,
            "full_tag": full,
            "size": image.size,
            "virtual_size": image.size,
            "created": image.created_at,
            "created_at": image.created_at,
            "architecture": image.architecture,
            "os": image.os,
            "parent": image.parent,
            "comment": image.comment,
            "author": image.author,
            "config": {},
            "containers": image.containers,
        })
    };
    tags.iter().map(row).collect()
}

pub(super) async fn image(
    State(rentals): State<Rentals>,
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    expect_operator(&caller)?;
    match dashboard.images.image(&id).await? {
        Some(image) => {
            let details = image.details.as_deref().cloned().unwrap_or_default();
            let layer = |(index, id): (usize, &String)| json!({"index": index, "id": id, "size": size_of_layer(&details, index)});
            let layers: Vec<Value> = details.layers.iter().enumerate().map(layer).collect();
            let step = |step: &ImageStep| {
                json!({
                    "created": step.created_at,
                    "created_by": step.created_by,
                    "size": step.size,
                    "comment": step.comment,
                })
            };
            Ok(Json(json!({
                "success": true,
                "image": image,
                "image_id": image.id,
                "layers": layers,
                "history": details.history.iter().map(step).collect::<Vec<_>>(),
                "config": {
                    "Entrypoint": details.entrypoint,
                    "Cmd": details.command,
                    "Env": details.environment,
                    "User": details.user,
                    "WorkingDir": details.working_dir,
                    "ExposedPorts": details.exposed_ports,
                },
                "architecture": image.architecture,
                "os": image.os,
                "timestamp": rentals.now().wall,
            }))
            .into_response())
        }
        None => Err(Refused::new("there is no such image")),
    }
}

/// The size of a layer: the steps of a history that made one have a size, and are told from the latest on.
fn size_of_layer(details: &ImageDetails, index: usize) -> u64 {
    details.history.iter().rev().filter(|step| step.size > 0).nth(index).map_or(0, |step| step.size)
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RemoveBody {
    force: bool,
}

pub(super) async fn remove_image(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    LooseJson(body): LooseJson<RemoveBody>,
) -> Result<Response, Refused> {
    expect_operator(&caller)?;
    let body = body.map_err(|malformed| Refused::new(malformed.sentence()))?;
    match dashboard.images.remove_image(&id, body.force).await {
        Ok(()) => Ok(Json(json!({"success": true, "message": "Image deleted"})).into_response()),
        Err(RemoveImageError::Runtime(error)) => Err(error.into()),
        Err(refused) => Err(Refused::new(refused.to_string())),
    }
}

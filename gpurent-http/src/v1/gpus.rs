//! `/v1/gpus`: what this host has, and what of it is free.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::host::Rentals;
use gpurent_core::id::RentalId;
use serde::Serialize;
use utoipa::ToSchema;

use crate::caller::Caller;
use crate::problem::Problem;
use crate::v1::view::GpuView;
use crate::v1::{Refusals, view};

/// A GPU and who has it.
#[derive(Serialize, ToSchema)]
struct OnHost<'a> {
    #[serde(flatten)]
    gpu: GpuView<'a>,
    /// `free` or `rented`
    state: &'static str,
    /// For those who may see the rental.
    #[schema(value_type = Option<String>, format = Uuid)]
    rental_id: Option<RentalId>,
}

/// The GPUs of this host.
#[derive(Serialize, ToSchema)]
struct GpuList<'a> {
    gpus: Vec<OnHost<'a>>,
}

/// Lists this host's GPUs, and which are free
#[utoipa::path(
    get, path = "/v1/gpus", operation_id = "list_gpus", tag = "host",
    responses((status = 200, description = "The host's GPUs", body = GpuList<'static>), Refusals)
)]
pub(super) async fn list(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let active = rentals.active().await?;
    let holders: BTreeMap<_, _> =
        active.iter().flat_map(|rental| rental.gpus().iter().map(move |gpu| (&gpu.uuid, rental))).collect();
    let gpus = rentals.gpus().iter().map(|gpu| {
        let holder = holders.get(&gpu.uuid);
        OnHost {
            gpu: view::gpu(gpu),
            state: if holder.is_some() { "rented" } else { "free" },
            rental_id: holder.filter(|rental| caller.may_see(rental)).map(|rental| rental.id()),
        }
    });
    Ok(Json(GpuList { gpus: gpus.collect() }).into_response())
}

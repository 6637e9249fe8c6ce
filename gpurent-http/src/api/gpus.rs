//! `/v1/gpus`: what this host has, and what of it is free.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::id::RentalId;
use gpurent_core::rentals::Rentals;
use serde::Serialize;
use serde_json::json;

use super::view::{self, GpuView};
use crate::auth::Caller;
use crate::problem::Problem;

/// A GPU and who has it.
#[derive(Serialize)]
struct OnHost<'a> {
    #[serde(flatten)]
    gpu: GpuView<'a>,
    state: &'static str,
    /// For those who may see the rental.
    rental_id: Option<RentalId>,
}

pub(super) async fn list(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let live = rentals.live().await?;
    let holders: BTreeMap<_, _> =
        live.iter().flat_map(|rental| rental.gpus().iter().map(move |gpu| (&gpu.uuid, rental))).collect();
    let gpus = rentals.gpus().iter().map(|gpu| {
        let holder = holders.get(&gpu.uuid);
        OnHost {
            gpu: view::gpu(gpu),
            state: if holder.is_some() { "rented" } else { "free" },
            rental_id: holder.filter(|rental| caller.may_see(rental)).map(|rental| rental.id()),
        }
    });
    let gpus: Vec<_> = gpus.collect();
    Ok(Json(json!({"gpus": gpus})).into_response())
}

//! `/v1/gpus`: what this host has, and what of it is free.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::rentals::Rentals;
use serde_json::json;

use super::view;
use crate::auth::Caller;
use crate::problem::Problem;

pub(super) async fn list(
    State(rentals): State<Rentals>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let live = rentals.live().await?;
    let holders: BTreeMap<_, _> =
        live.iter().flat_map(|rental| rental.gpus().iter().map(move |gpu| (&gpu.uuid, rental))).collect();
    let gpus: Vec<_> = rentals
        .gpus()
        .iter()
        .map(|gpu| {
            let holder = holders.get(&gpu.uuid);
            let mut view = view::gpu(gpu);
            view["state"] = json!(if holder.is_some() { "rented" } else { "free" });
            // Whose it is, is for those who may see the rental.
            view["rental_id"] = json!(holder.filter(|rental| caller.may_see(rental)).map(|rental| rental.id()));
            view
        })
        .collect();
    Ok(Json(json!({"gpus": gpus})).into_response())
}

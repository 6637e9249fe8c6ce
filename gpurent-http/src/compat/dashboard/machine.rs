//! How busy the machine is, and the images that lie on it. These are the operator's: users see the load only.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use gpurent_core::machine::RemoveImageError;
use gpurent_core::runtime::RuntimeError;
use serde::Deserialize;
use serde_json::json;

use super::{Dashboard, Refused};
use crate::auth::Caller;
use crate::body::LooseJson;

type Offer = State<Option<Arc<Dashboard>>>;

fn offered(State(dashboard): Offer) -> Result<Arc<Dashboard>, Refused> {
    dashboard.ok_or_else(Refused::not_found)
}

impl From<RuntimeError> for Refused {
    fn from(error: RuntimeError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "dashboard request refused");
        Self::new("the host's container engine does not answer; try again")
    }
}

fn expect_operator(caller: &Caller) -> Result<(), Refused> {
    if caller.runs_the_machine() { Ok(()) } else { Err(Refused::new("only an operator's key may do this")) }
}

pub(super) async fn load(dashboard: Offer) -> Result<Response, Refused> {
    Ok(Json(offered(dashboard)?.machine.load().await).into_response())
}

pub(super) async fn images(dashboard: Offer, Extension(caller): Extension<Caller>) -> Result<Response, Refused> {
    expect_operator(&caller)?;
    let images = offered(dashboard)?.images.images().await?;
    Ok(Json(json!({"success": true, "images": images})).into_response())
}

pub(super) async fn image(
    dashboard: Offer,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    expect_operator(&caller)?;
    match offered(dashboard)?.images.image(&id).await? {
        Some(image) => Ok(Json(json!({"success": true, "image": image})).into_response()),
        None => Err(Refused::new("there is no such image")),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RemoveBody {
    force: bool,
}

pub(super) async fn remove_image(
    dashboard: Offer,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    LooseJson(body): LooseJson<RemoveBody>,
) -> Result<Response, Refused> {
    expect_operator(&caller)?;
    let body = body.map_err(|malformed| Refused::new(malformed.sentence()))?;
    match offered(dashboard)?.images.remove_image(&id, body.force).await {
        Ok(()) => Ok(Json(json!({"success": true, "message": "Image deleted"})).into_response()),
        Err(RemoveImageError::Runtime(error)) => Err(error.into()),
        Err(refused) => Err(Refused::new(refused.to_string())),
    }
}

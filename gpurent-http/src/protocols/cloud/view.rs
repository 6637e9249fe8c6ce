//! An instance as this protocol shows it.

use axum::http::StatusCode;
use gpurent_core::host::Rentals;
use gpurent_core::id::RentalId;
use gpurent_core::model::{Credential, GpuModel, MicroUnits, Quote, Rental, RentalState};
use serde_json::{Value, json};

use crate::protocols::cloud::{ACCESS, Refused, STORAGE, TEMPLATE};
use crate::protocols::services::jupyter_url;
use crate::protocols::{services, state_names};

/// `inst_` and the rental's id: a name that needs no table.
pub(super) fn name_of(id: RentalId) -> String {
    format!("inst_{}", id.as_uuid().simple())
}

/// An instance; with its password only where one was asked for alone.
pub(super) async fn view(rentals: &Rentals, rental: &Rental, with_secrets: bool) -> Result<Value, Refused> {
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

pub(super) fn billing(quote: &Quote) -> Value {
    json!({"rate": in_units(quote.rate.per_hour()), "unit": "hour", "currency": quote.currency})
}

/// A number as the protocol has it; all sums are made elsewhere, and not of these.
pub(super) fn in_units(amount: MicroUnits) -> f64 {
    amount.get() as f64 / 1_000_000.0
}

/// Without the maker's words: "RTX 5090".
pub(super) fn short_name(model: &GpuModel) -> String {
    let text = model.to_string();
    let short = text.trim_start_matches("NVIDIA ").trim_start_matches("GeForce ");
    short.to_owned()
}

//! The protocols of existing platforms, as they are spoken in the field.

pub mod cloud;
pub mod dashboard;
pub(crate) mod described;
mod fastapi;
mod instance_id;
pub mod instances;
mod lax;
pub mod rent;
mod services;
pub(crate) mod state_names;
pub(crate) mod updates;
mod wait;

/// The beginnings of labels that mark rentals of these protocols, whether or not a host speaks them now.
pub(crate) const LABELS: &[&[&str]] = &[rent::LABELS, instances::LABELS, dashboard::LABELS, cloud::LABELS];

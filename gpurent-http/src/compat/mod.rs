//! The protocols of existing platforms, as they are spoken in the field.

pub mod cloud;
pub mod dashboard;
pub(crate) mod described;
pub mod instances;
mod lax;
pub mod rent;
pub(crate) mod rent_ws;
mod services;
mod waiting;

//! The protocols of existing platforms, as they are spoken in the field.

pub mod rent;
pub(crate) mod rent_ws;
mod services;

//! The protocols of existing platforms, as they are spoken in the field. Each is a feature of this crate.

#[cfg(feature = "cloud")]
pub mod cloud;
#[cfg(feature = "dashboard")]
pub mod dashboard;
#[cfg(any(feature = "cloud", feature = "dashboard", feature = "instances", feature = "rent"))]
pub(crate) mod described;
#[cfg(any(feature = "instances", feature = "rent"))]
mod fastapi;
#[cfg(any(feature = "dashboard", feature = "instances", feature = "rent"))]
mod instance_id;
#[cfg(feature = "instances")]
pub mod instances;
#[cfg(any(feature = "instances", feature = "rent"))]
mod lax;
#[cfg(feature = "rent")]
pub mod rent;
#[cfg(any(feature = "cloud", feature = "dashboard", feature = "instances", feature = "rent"))]
mod services;
pub(crate) mod state_names;
#[cfg(any(feature = "instances", feature = "rent"))]
pub(crate) mod updates;
#[cfg(any(feature = "cloud", feature = "dashboard", feature = "instances", feature = "rent"))]
mod wait;

/// The beginnings of labels that mark rentals of these protocols, whether or not a host speaks them now, or is compiled to: no
/// renter sets them.
pub(crate) const LABELS: &[&str] = &["cloud.", "dashboard.", "instances.", "rent."];

//! The commands: a file each.

pub mod archive;
pub mod audit;
pub mod doctor;
pub mod force_end;
pub mod gpus;
pub mod keys;
pub mod reconcile;
pub mod rent;
pub mod rentals;
mod show;
pub mod ssh;

pub use show::escape_control;

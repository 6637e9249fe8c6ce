//! The GPUs and ports that live rentals hold.

use std::collections::BTreeSet;

use crate::model::{GpuUuid, HostPort, Rental};

/// The GPUs and ports that the host's live rentals hold.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    /// GPUs.
    pub gpus: BTreeSet<GpuUuid>,
    /// Host ports.
    pub ports: BTreeSet<HostPort>,
    /// Rentals without a GPU that have, or may have, a container.
    pub without_gpu: u32,
}

impl Holds {
    /// The GPUs and ports that one rental holds.
    #[must_use]
    pub fn of(rental: &Rental) -> Self {
        Self {
            gpus: rental.gpus().iter().map(|gpu| gpu.uuid.clone()).collect(),
            ports: rental.ports().iter().map(|binding| binding.host).collect(),
            without_gpu: u32::from(rental.has_a_place_without_gpu()),
        }
    }

    /// Adds what a rental holds.
    pub fn add(&mut self, rental: &Rental) {
        let more = Self::of(rental);
        self.gpus.extend(more.gpus);
        self.ports.extend(more.ports);
        self.without_gpu = self.without_gpu.saturating_add(more.without_gpu);
    }
}

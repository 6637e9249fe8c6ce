//! Which of the free GPUs a rental gets.

use crate::allocation::Holds;
use crate::id::RenterId;
use crate::model::{Gpu, GpuRequest, GpuSelector, RentalSpec};

/// A request for GPUs, and what a policy may go by: who asks for what, and what is rented already.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AllocationRequest<'r> {
    /// The rental that is asked for: its renter, its labels, its term.
    pub spec: &'r RentalSpec,
    /// The GPUs that it asks for.
    pub gpu: &'r GpuRequest,
    /// All of the host's GPUs.
    pub gpus: &'r [Gpu],
    /// GPUs and ports that are held, by others and by quarantine.
    pub held: &'r Holds,
}

impl<'r> AllocationRequest<'r> {
    /// A request of `spec` for `gpu` on a host with `gpus`, of which `held` are not free.
    #[must_use]
    pub fn new(spec: &'r RentalSpec, gpu: &'r GpuRequest, gpus: &'r [Gpu], held: &'r Holds) -> Self {
        Self { spec, gpu, gpus, held }
    }

    /// The renter who asks.
    #[must_use]
    pub fn renter(&self) -> &'r RenterId {
        &self.spec.renter
    }

    /// The GPUs of the host that are held.
    pub fn held_gpus(&self) -> impl Iterator<Item = &'r Gpu> {
        let held = self.held;
        self.gpus.iter().filter(move |gpu| held.gpus.contains(&gpu.uuid))
    }
}

/// Chooses GPUs. Pure, and unable to invent one: what it returns borrows from what it was given.
///
/// Called inside the store's claim, perhaps several times for one rental, so it must not block. An implementation proves
/// itself with [`allocator_suite!`](crate::allocator_suite).
pub trait Allocator: Send + Sync + 'static {
    /// Chooses as many of `free` as are asked for, or `None` where they do not suffice. `free` may lack GPUs that are not held:
    /// those on which launches failed lately are offered only where the others do not suffice.
    fn choose<'a>(&self, request: &AllocationRequest<'_>, free: &[&'a Gpu]) -> Option<Vec<&'a Gpu>>;
}

/// Gives the least capable GPU that answers the request, so that the better ones stay free for those
/// who ask for them: a card whose name is exactly the one asked for before one that merely answers to
/// it, then less memory before more, then the lower index.
#[derive(Clone, Copy, Debug, Default)]
pub struct BestFit;

impl Allocator for BestFit {
    fn choose<'a>(&self, request: &AllocationRequest<'_>, free: &[&'a Gpu]) -> Option<Vec<&'a Gpu>> {
        let request = request.gpu;
        let mut fitting: Vec<&Gpu> = free.iter().copied().filter(|gpu| request.selector.matches(gpu)).collect();
        let differs = |gpu: &Gpu| match &request.selector {
            GpuSelector::Model(model) => gpu.model.normalised() != model.normalised(),
            GpuSelector::Uuid(_) | GpuSelector::AtLeast(_) | GpuSelector::Any => false,
        };
        fitting.sort_by_key(|gpu| (differs(gpu), gpu.memory_mib, gpu.index));
        let count = usize::from(request.count.get());
        (fitting.len() >= count).then(|| fitting[..count].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32, model: &str, memory_mib: u64) -> Gpu {
        Gpu {
            uuid: format!("GPU-{index:08x}").parse().unwrap(),
            index,
            model: model.parse().unwrap(),
            memory_mib,
            device_node: None,
            simulated: true,
        }
    }

    fn chosen(request: &GpuRequest, gpus: &[Gpu]) -> Option<Vec<u32>> {
        let free: Vec<_> = gpus.iter().collect();
        let held = Holds::default();
        let term = crate::model::Term::hours(1).unwrap();
        let spec = RentalSpec::new("me".parse().unwrap(), request.clone(), "a:1".parse().unwrap(), term);
        let request = AllocationRequest::new(&spec, request, gpus, &held);
        BestFit.choose(&request, &free).map(|gpus| gpus.iter().map(|gpu| gpu.index).collect())
    }

    #[test]
    fn the_least_that_does_is_given() {
        let gpus = [gpu(0, "NVIDIA A100-SXM4-80GB", 81920), gpu(1, "NVIDIA A100-SXM4-40GB", 40960)];
        let a100 = |count| GpuRequest::new("A100".parse().unwrap(), count).unwrap();
        assert_eq!(chosen(&a100(1), &gpus), Some(vec![1]));
        assert_eq!(chosen(&a100(2), &gpus), Some(vec![1, 0]));
        assert_eq!(chosen(&a100(3), &gpus), None);
        assert_eq!(chosen(&GpuRequest::one("A100-SXM4-80GB".parse().unwrap()), &gpus), Some(vec![0]));
    }

    #[test]
    fn a_uuid_means_that_very_gpu() {
        let gpus = [gpu(0, "NVIDIA H200", 1), gpu(1, "NVIDIA H200", 1)];
        assert_eq!(chosen(&GpuRequest::one("GPU-00000001".parse().unwrap()), &gpus), Some(vec![1]));
        assert_eq!(chosen(&GpuRequest::one("GPU-00000009".parse().unwrap()), &gpus), None);
    }
}

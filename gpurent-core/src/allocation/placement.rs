//! Placing a rental: GPUs by the allocator, ports from the pools, out of what is not held.
//!
//! Every store calls [`Placement::place`] inside its claim, so that the policy exists once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::allocation::{
    AllocationRequest, Allocator, BestFit, Capacity, DiskLimit, DiskProbe, Division, Holds, NoDiskProbe, NoPortProbe,
    PortError, PortPools, PortProbe, Quarantine, RenterLimits, TooMany,
};
use crate::error::ValidationError;
use crate::id::{Attempt, LaunchId};
use crate::model::{
    Gpu, GpuModel, GpuRequest, GpuSelector, GpuUuid, PortBinding, Quote, RateCard, Rental, RentalSpec, Retained,
    SuspendCause, Transport,
};

/// The place that a rental was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The rental's GPUs.
    pub gpus: Vec<Gpu>,
    /// The rental's ports.
    pub ports: Vec<PortBinding>,
    /// The rental's price, where prices are on.
    pub quote: Option<Quote>,
}

/// Models with their numbers, for people: at most eight.
fn listed(there: &BTreeMap<GpuModel, u32>) -> String {
    let each = |(model, count): (&GpuModel, &u32)| format!("{count} x {model}");
    let some: Vec<String> = there.iter().take(8).map(each).collect();
    if some.is_empty() { "none".to_owned() } else { some.join(", ") }
}

/// Why a rental has no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// The host has no such GPU at all, or not so many: asking again is of no use.
    #[error("this host has no {} GPU{}: it has {}", .asked.selector, if .asked.count.get() > 1 { "s, or not so many" } else { "" }, listed(.there))]
    UnknownGpu {
        /// The request that cannot be met.
        asked: GpuRequest,
        /// The models that there are, and how many of each.
        there: BTreeMap<GpuModel, u32>,
    },
    /// Every GPU of this kind is rented; a later attempt may succeed.
    #[error("every {0} GPU of this host is rented")]
    NoGpuFree(GpuSelector),
    /// Prices are on, and the rate card has none for this model.
    #[error("no price is set for {0}")]
    NoRate(GpuModel),
    /// A workspace is asked for, and the operator has set none up.
    #[error("this host has no place for workspaces")]
    WorkspacesNotSupported,
    /// A port for UDP is asked for, and the container engine publishes none.
    #[error("this host publishes no UDP ports")]
    UdpNotSupported,
    /// No GPU is asked for, and the operator rents GPUs only.
    #[error("this host rents nothing without a GPU")]
    GpuRequired,
    /// Every place for a container without a GPU is rented; a later attempt may succeed.
    #[error("every place of this host for a container without a GPU is rented")]
    NoPlaceWithoutGpu,
    /// Prices are on, and the rate card has none for a container without a GPU.
    #[error("no price is set for a container without a GPU")]
    NoRateWithoutGpu,
    /// The renter has as much as one may have.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// More of the machine is asked for than it has.
    #[error(transparent)]
    TooMuch(ValidationError),
    /// Images are pulled before anything is claimed here, and nobody knows whether this one is here.
    #[error("the image is not known to be here")]
    ImageNotHere,
    /// The container engine does not answer: what is claimed now would wait for it, perhaps for long.
    #[error("this host's container engine does not answer")]
    EngineUnavailable,
    /// The host's disks are almost full; what is left is for those who are here already.
    #[error("this host's disks are almost full")]
    DiskFull,
    /// The ports are the problem.
    #[error(transparent)]
    NoPort(#[from] PortError),
}

/// The rental's place before it was suspended, and whether its last launch failed.
#[derive(Clone, Copy)]
struct Before<'a> {
    retained: &'a Retained,
    failed: bool,
}

/// A host's GPUs and ports, and how they are given out.
#[derive(Clone)]
pub struct Placement {
    /// The GPUs that may be rented.
    pub gpus: Arc<[Gpu]>,
    /// The policy that chooses among the free GPUs.
    pub allocator: Arc<dyn Allocator>,
    /// The ports that may be given out.
    pub pools: PortPools,
    /// The probe that knows which ports other programs use.
    pub port_probe: Arc<dyn PortProbe>,
    /// The machine's capacity; `None` where it is not known.
    pub capacity: Option<Capacity>,
    /// The rates of GPUs; `None` where nothing is charged.
    pub prices: Option<Arc<RateCard>>,
    /// The GPUs and ports that must not be given out, though the store says that they are free.
    pub quarantine: Arc<Quarantine>,
    /// How much one renter may have at once. Checked by the store, which counts it with the claim itself.
    pub renter_limits: RenterLimits,
    /// Whether there is a place for workspaces.
    pub workspaces: bool,
    /// Whether ports for UDP are published.
    pub udp: bool,
    /// How many containers without a GPU are rented at once.
    pub without_gpu: u32,
    /// The limit that is reached where the workspace that is asked for would be one more of the renter's than one may have.
    pub one_workspace_too_many: Option<TooMany>,
    /// Whether the image has to be here before anything is claimed for it, and is not known to be.
    pub awaits_image: bool,
    /// Whether the container engine is known not to answer: nothing is claimed then.
    pub engine_unavailable: bool,
    /// The probe that knows whether the host's disks have room for another rental.
    pub disks: Arc<dyn DiskProbe>,
    /// How much of them a rental may fill.
    pub disk_limit: DiskLimit,
}

impl Placement {
    /// Gives out `gpus` and the ports of `pools`, best fit first, for nothing; knows of no limit of the machine.
    #[must_use]
    pub fn new(gpus: impl Into<Arc<[Gpu]>>, pools: PortPools) -> Self {
        Self {
            gpus: gpus.into(),
            allocator: Arc::new(BestFit),
            pools,
            port_probe: Arc::new(NoPortProbe),
            capacity: None,
            prices: None,
            quarantine: Arc::default(),
            renter_limits: RenterLimits::default(),
            workspaces: false,
            udp: false,
            without_gpu: 0,
            one_workspace_too_many: None,
            awaits_image: false,
            engine_unavailable: false,
            disks: Arc::new(NoDiskProbe),
            disk_limit: DiskLimit::default(),
        }
    }

    /// Finds GPUs and ports for `spec` among what is not held.
    ///
    /// # Errors
    /// [`PlacementError`], naming what is missing.
    pub fn place(&self, launch: LaunchId, spec: &RentalSpec, held: &Holds) -> Result<Placed, PlacementError> {
        self.place_near(launch, spec, held, None)
    }

    /// Finds GPUs and ports for a rental that is resumed: those of its stopped container, where it may have them again.
    ///
    /// # Errors
    /// [`PlacementError`], naming what is missing.
    pub fn place_again(&self, rental: &Rental, held: &Holds) -> Result<Placed, PlacementError> {
        // Where its last launch failed it may be better off on another one.
        let failed = matches!(rental.state().suspend_cause(), Some(SuspendCause::Failed(_)));
        let before = rental.retained().map(|retained| Before { retained, failed });
        self.place_near(rental.launch().next(), rental.spec(), held, before)
    }

    fn place_near(
        &self,
        launch: LaunchId,
        spec: &RentalSpec,
        held: &Holds,
        before: Option<Before<'_>>,
    ) -> Result<Placed, PlacementError> {
        // What was granted once is granted again: limits may be others by then.
        if let Some(capacity) = self.capacity.filter(|_| launch.attempt == Attempt::new(1)) {
            let gpus = spec.gpu.as_ref().map_or(0, |wanted| usize::from(wanted.count.get()));
            capacity.check(&spec.limits, self.division().part(gpus)).map_err(PlacementError::TooMuch)?;
        }
        if spec.workspace.is_some() && !self.workspaces {
            return Err(PlacementError::WorkspacesNotSupported);
        }
        if !self.udp && spec.ports.as_slice().iter().any(|port| port.transport == Transport::Udp) {
            return Err(PlacementError::UdpNotSupported);
        }
        if let Some(wanted) = &spec.gpu {
            let known = self.gpus.iter().filter(|gpu| wanted.selector.matches(gpu)).count();
            if known < usize::from(wanted.count.get()) {
                let mut there = BTreeMap::new();
                for gpu in self.gpus.iter() {
                    *there.entry(gpu.model.clone()).or_insert(0) += 1;
                }
                return Err(PlacementError::UnknownGpu { asked: wanted.clone(), there });
            }
        }
        if self.engine_unavailable {
            return Err(PlacementError::EngineUnavailable);
        }
        if !self.disks.has_room() {
            return Err(PlacementError::DiskFull);
        }
        let held = &self.quarantine.add_to(held, launch.rental);
        let (chosen, quote) = match &spec.gpu {
            Some(wanted) => {
                let chosen = self.choose(spec, wanted, held, before)?;
                let quote = self.quote(&chosen)?;
                (chosen, quote)
            }
            None if self.without_gpu == 0 => return Err(PlacementError::GpuRequired),
            None if held.without_gpu >= self.without_gpu => return Err(PlacementError::NoPlaceWithoutGpu),
            None => (Vec::new(), self.quote_without_gpu()?),
        };
        let again = before.and_then(|before| {
            self.pools.again(&spec.ports, &before.retained.ports, &held.ports, self.port_probe.as_ref())
        });
        let ports = again.map_or_else(|| self.ports(launch, spec, held), Ok)?;
        if let Some(Before { retained: before, .. }) = before {
            let is_same = before.ports == ports && before.gpus.iter().eq(chosen.iter().map(|gpu| &gpu.uuid));
            // Otherwise its files are copied, and are there twice for a while. A size that the engine did not tell in time
            // counts as the most that the rental may have.
            let most =
                || self.disk_limit.allowed(self.division().part(chosen.len())).map_or(0, |most| most.container_bytes());
            if !is_same && !self.disks.has_room_for(before.bytes.unwrap_or_else(most)) {
                return Err(PlacementError::DiskFull);
            }
        }
        if let Some(limit) = self.one_workspace_too_many {
            return Err(limit.into());
        }
        // The last question, so that nothing is pulled for whom there is no place.
        if self.awaits_image {
            return Err(PlacementError::ImageNotHere);
        }
        Ok(Placed { quote, ports, gpus: chosen.into_iter().cloned().collect() })
    }

    /// How the machine is divided.
    #[must_use]
    pub fn division(&self) -> Division {
        Division { gpus: u32::try_from(self.gpus.len()).unwrap_or(u32::MAX), without_gpu: self.without_gpu }
    }

    fn choose(
        &self,
        spec: &RentalSpec,
        wanted: &GpuRequest,
        held: &Holds,
        before: Option<Before<'_>>,
    ) -> Result<Vec<&Gpu>, PlacementError> {
        let free: Vec<&Gpu> = self.gpus.iter().filter(|gpu| !held.gpus.contains(&gpu.uuid)).collect();
        if let Some(before) = before {
            let shuns = |gpu: &Gpu| before.failed && self.quarantine.is_suspect(gpu);
            let is_it = |gpu: &&Gpu, uuid: &GpuUuid| gpu.uuid == *uuid && wanted.selector.matches(gpu) && !shuns(gpu);
            let had = |uuid: &GpuUuid| free.iter().copied().find(|gpu| is_it(gpu, uuid));
            let again: Option<Vec<&Gpu>> = before.retained.gpus.iter().map(had).collect();
            if let Some(again) = again.filter(|again| again.len() == usize::from(wanted.count.get())) {
                return Ok(again);
            }
        }
        // A card on which launches fail would fail the next one too, while a sibling may be fine.
        let trusted: Vec<&Gpu> = free.iter().copied().filter(|gpu| !self.quarantine.is_suspect(gpu)).collect();
        let request = AllocationRequest::new(spec, wanted, &self.gpus, held);
        let chosen = self.allocator.choose(&request, &trusted).or_else(|| self.allocator.choose(&request, &free));
        let chosen = chosen.unwrap_or_default();
        let distinct: BTreeSet<_> = chosen.iter().map(|gpu| &gpu.uuid).collect();
        if distinct.len() != usize::from(wanted.count.get()) {
            return Err(PlacementError::NoGpuFree(wanted.selector.clone()));
        }
        Ok(chosen)
    }

    fn quote_without_gpu(&self) -> Result<Option<Quote>, PlacementError> {
        let quote = |prices: &Arc<RateCard>| prices.quote_without_gpu().ok_or(PlacementError::NoRateWithoutGpu);
        self.prices.as_ref().map(quote).transpose()
    }

    /// The price of all chosen GPUs together; cards that answer to one name may have several prices.
    fn quote(&self, chosen: &[&Gpu]) -> Result<Option<Quote>, PlacementError> {
        let Some(prices) = &self.prices else { return Ok(None) };
        let mut sum: Option<Quote> = None;
        for gpu in chosen {
            let one = prices.quote_of(gpu).ok_or_else(|| PlacementError::NoRate(gpu.model.clone()))?;
            sum = Some(match sum {
                Some(sum) => Quote { rate: sum.rate.plus(one.rate), ..one },
                None => one,
            });
        }
        Ok(sum)
    }

    /// Finds ports alone: for a launch that is tried again because one was taken.
    ///
    /// # Errors
    /// [`PortError`], naming what is missing.
    pub fn ports(&self, launch: LaunchId, spec: &RentalSpec, held: &Holds) -> Result<Vec<PortBinding>, PortError> {
        let held = self.quarantine.add_to(held, launch.rental);
        self.pools.assign(&spec.ports, spec.sticky_ports.as_ref(), launch, &held.ports, self.port_probe.as_ref())
    }
}

//! A rental, the pure function that changes it, and the pure function that says what to do next.
//!
//! No I/O and no clock: [`Rental::apply`] is given the time, [`Rental::next`] is asked with it. Both the
//! conformance suites and a restart after a crash rest on the same property: folding the stored events
//! gives the stored rental.

mod launch;
mod next_action;
mod paid_time;
#[cfg(test)]
pub(crate) mod tests;
mod transition;

use jiff::{SignedDuration, Timestamp};
pub use next_action::{Action, Next, RentalTiming};
use serde::{Deserialize, Serialize};
pub use transition::{IllegalTransition, Outcome};

use crate::clock::Moment;
use crate::id::{Attempt, ContainerId, HostId, InstanceName, LaunchId, RentalId, Revision, Seq};
use crate::model::event::is_zero;
use crate::model::port::SSH;
use crate::model::rental::launch::Launch;
use crate::model::{
    ContainerPort, CredentialKind, Exit, Files, Gpu, HostPort, ImageDigest, PortBinding, Quote, RentalSpec,
    RentalState, ResolvedImage, Retained, Segment, Service, Transport,
};

/// One rental, from its claim to its final bill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rental {
    id: RentalId,
    host: HostId,
    name: InstanceName,
    spec: RentalSpec,
    credential: CredentialKind,
    gpus: Vec<Gpu>,
    ports: Vec<PortBinding>,
    quote: Option<Quote>,
    /// When it was claimed or last resumed, on both clocks: time limits hold whatever the wall clock does.
    #[serde(rename = "claimed")]
    claimed_at: Moment,
    due: Timestamp,
    created_at: Timestamp,
    revision: Revision,
    last_seq: Seq,
    state: RentalState,
    #[serde(flatten)]
    launch: Launch,
    /// The first launch since it was claimed or resumed.
    brought_up_as: Attempt,
    segments: Vec<Segment>,
    pinned: Option<ImageDigest>,
    /// The image that its container was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<Box<ResolvedImage>>,
    /// How often it was resumed.
    #[serde(default, skip_serializing_if = "is_zero")]
    resumed: u32,
    /// The container whose files its next one takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retained: Option<Retained>,
    /// The bytes that were copied into its container.
    #[serde(default, skip_serializing_if = "is_zero")]
    copied_bytes: u64,
    /// When its renter was last warned of what it writes on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk_warned_at: Option<Timestamp>,
    /// Paid time of earlier launches that no segment tells of: the store lost them.
    #[serde(default, skip_serializing_if = "SignedDuration::is_zero")]
    lost_use: SignedDuration,
}

impl Rental {
    /// The services that have answered on its published ports since its container was verified, each as it was heard first.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.launch.services
    }

    /// The published ports, besides SSH's, at which nothing has answered yet; none unless it is ready.
    pub(crate) fn silent_ports(&self) -> impl Iterator<Item = PortBinding> {
        let is_silent = |port: &PortBinding| {
            port.may_lead_to_a_service()
                && !self.launch.services.iter().any(|service| service.container == port.container)
        };
        let ports = if matches!(self.state, RentalState::Ready) { self.ports.as_slice() } else { &[] };
        ports.iter().copied().filter(is_silent)
    }

    /// Whether its renter heard within the last hour that it writes much on the disk: often enough.
    pub(crate) fn was_warned_of_the_disk(&self, now: Timestamp) -> bool {
        self.disk_warned_at.is_some_and(|at| now.duration_since(at).abs() < SignedDuration::from_hours(1))
    }

    /// The rental's id.
    #[must_use]
    pub fn id(&self) -> RentalId {
        self.id
    }

    /// The host it is on.
    #[must_use]
    pub fn host(&self) -> &HostId {
        &self.host
    }

    /// The rental's name, unique among its renter's live rentals on the host.
    #[must_use]
    pub fn name(&self) -> &InstanceName {
        &self.name
    }

    /// The rental's specification.
    #[must_use]
    pub fn spec(&self) -> &RentalSpec {
        &self.spec
    }

    /// Password or key.
    #[must_use]
    pub fn credential(&self) -> CredentialKind {
        self.credential
    }

    /// The rental's GPUs. Held until it has ended, or is suspended: then it has none.
    #[must_use]
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// Whether it has one of the places for containers without a GPU: until it has ended, or is suspended.
    #[must_use]
    pub fn has_a_place_without_gpu(&self) -> bool {
        self.spec.gpu.is_none() && !matches!(self.state, RentalState::Suspended { .. } | RentalState::Ended { .. })
    }

    /// The rental's ports. Held until it has ended, or is suspended: then it has none.
    #[must_use]
    pub fn ports(&self) -> &[PortBinding] {
        &self.ports
    }

    /// The host's port that leads to a port of the container, by connections.
    #[must_use]
    pub fn host_port(&self, container: ContainerPort) -> Option<HostPort> {
        let leads_there =
            |binding: &&PortBinding| binding.container == container && binding.transport == Transport::Tcp;
        self.ports.iter().find(leads_there).map(|binding| binding.host)
    }

    /// The host's port that leads to SSH.
    #[must_use]
    pub fn ssh_port(&self) -> Option<HostPort> {
        self.host_port(SSH)
    }

    /// The price it was started at.
    #[must_use]
    pub fn quote(&self) -> Option<&Quote> {
        self.quote.as_ref()
    }

    /// The image that its container was made of; `None` before, and where the engine does not tell.
    #[must_use]
    pub fn image(&self) -> Option<&ResolvedImage> {
        self.image.as_deref()
    }

    /// The digest that its image is pinned to.
    #[must_use]
    pub fn pinned(&self) -> Option<&ImageDigest> {
        self.pinned.as_ref()
    }

    /// Whether its container still lets in by a former credential.
    #[must_use]
    pub fn access_outdated(&self) -> bool {
        self.launch.access_outdated
    }

    /// When it was claimed.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// How many launches there were.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.launch.attempt
    }

    /// How often it was launched again since it was claimed or resumed.
    #[must_use]
    pub fn relaunches(&self) -> u64 {
        self.launch.attempt.get().saturating_sub(self.brought_up_as.get()).into()
    }

    /// How often it was resumed.
    #[must_use]
    pub fn resumed(&self) -> u32 {
        self.resumed
    }

    /// The stopped container that holds its files: while it is suspended, and from its resumption until it is ready again.
    #[must_use]
    pub fn retained(&self) -> Option<&Retained> {
        self.retained.as_ref()
    }

    /// The source of its container's files.
    #[must_use]
    pub fn files(&self) -> Files {
        self.launch.files
    }

    /// The bytes of files that were copied into its container: on the disk below what it writes itself.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    /// Whether a container of its present launch or an earlier one may hold what it needs: its present container does, and
    /// while there is none, the one that was kept does. In that are the files of all before it.
    #[must_use]
    pub fn may_need(&self, attempt: Attempt) -> bool {
        match (&self.state, &self.retained) {
            _ if attempt > self.launch.attempt => false,
            (RentalState::Suspended { .. }, kept) => kept.as_ref().is_none_or(|kept| attempt >= kept.attempt),
            // Its next container has not been made.
            (RentalState::Provisioning | RentalState::Suspending { .. }, Some(kept))
                if self.launch.container.is_none() =>
            {
                attempt >= kept.attempt
            }
            (RentalState::Ended { .. }, _) => false,
            _ => attempt == self.launch.attempt,
        }
    }

    /// The rental's current launch.
    #[must_use]
    pub fn launch(&self) -> LaunchId {
        LaunchId { rental: self.id, attempt: self.launch.attempt }
    }

    /// The rental's version, for a write that names the one it saw.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The number of its last event.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// The rental's state.
    #[must_use]
    pub fn state(&self) -> &RentalState {
        &self.state
    }

    /// Whether it still holds anything.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !matches!(self.state, RentalState::Ended { .. })
    }

    /// The engine's id of its container, once there is one.
    #[must_use]
    pub fn container(&self) -> Option<&ContainerId> {
        self.launch.container.as_ref()
    }

    /// Whether the engine attached its GPUs; simulated ones cannot always be.
    #[must_use]
    pub fn gpus_attached(&self) -> bool {
        self.launch.gpus_attached && self.launch.container.is_some()
    }

    /// The earliest moment at which its container may have started: when that was made, or the rental claimed.
    #[must_use]
    pub fn not_started_before(&self) -> &Moment {
        self.launch.created.as_ref().unwrap_or(&self.claimed_at)
    }

    /// From when its paid time counts, once it is ready.
    #[must_use]
    pub fn paid_from(&self) -> Option<&Moment> {
        self.launch.paid_from.as_ref()
    }

    /// When its container started, by our own clocks; `None` before, and of a container that was adopted.
    #[must_use]
    pub fn started(&self) -> Option<&Moment> {
        self.launch.started.as_ref()
    }

    /// When its container started, by the engine's own record.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        self.launch.started_at
    }

    /// The rental's usage.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// How its container ended.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        self.launch.exit.as_ref()
    }
}

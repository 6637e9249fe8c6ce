//! A rental as `/v1` shows it. Secrets are never part of it, and neither is the renter's environment.

use gpurent_core::access::{CredentialKind, LoginUser};
use gpurent_core::billing::{Bill, Segment};
use gpurent_core::gpu::{Gpu, GpuModel, GpuUuid};
use gpurent_core::id::{Attempt, ContainerId, InstanceName, RentalId, RenterId, Revision};
use gpurent_core::lifecycle::{EndReason, Exit, FailureKind, Fault, State, SuspendCause};
use gpurent_core::port::PortBinding;
use gpurent_core::rental::Rental;
use gpurent_core::rentals::Rentals;
use gpurent_core::spec::{ImageDigest, ImageRef, Labels};
use jiff::Timestamp;
use serde::Serialize;

use crate::words;

/// A rental, with its bill as it stands.
#[derive(Serialize)]
pub(crate) struct RentalView<'a> {
    id: RentalId,
    name: &'a InstanceName,
    renter: &'a RenterId,
    state: &'static str,
    end: Option<EndView<'a>>,
    suspension: Option<SuspensionView<'a>>,
    gpus: Vec<GpuView<'a>>,
    gpus_attached: bool,
    image: &'a ImageRef,
    image_digest: Option<&'a ImageDigest>,
    duration_seconds: Option<i64>,
    user: &'a LoginUser,
    auth: CredentialKind,
    ports: &'a [PortBinding],
    labels: &'a Labels,
    container_id: Option<&'a ContainerId>,
    attempt: Attempt,
    revision: Revision,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    exit: Option<&'a Exit>,
    segments: &'a [Segment],
    bill: Bill,
}

/// Why a rental ends or ended.
#[derive(Serialize)]
pub(crate) struct EndView<'a> {
    message: String,
    fault: Fault,
    retryable: bool,
    failure: Option<FailureView<'a>>,
}

/// Why a rental is suspended.
#[derive(Serialize)]
pub(crate) struct SuspensionView<'a> {
    message: &'a str,
    failure: Option<FailureView<'a>>,
}

#[derive(Serialize)]
struct FailureView<'a> {
    kind: FailureKind,
    log_tail: &'a [String],
}

/// A GPU.
#[derive(Serialize)]
pub(crate) struct GpuView<'a> {
    uuid: &'a GpuUuid,
    index: u32,
    model: &'a GpuModel,
    memory_mib: u64,
    simulated: bool,
}

pub(crate) fn rental<'a>(rentals: &Rentals, rental: &'a Rental) -> RentalView<'a> {
    let spec = rental.spec();
    RentalView {
        id: rental.id(),
        name: rental.name(),
        renter: &spec.renter,
        state: words::v1(rental.state()),
        end: rental.state().end_reason().map(end),
        suspension: rental.state().suspend_cause().map(suspension),
        gpus: rental.gpus().iter().map(gpu).collect(),
        gpus_attached: rental.gpus_attached(),
        image: &spec.image,
        image_digest: rental.pinned(),
        duration_seconds: spec.term.duration().map(|duration| duration.as_secs()),
        user: &spec.login,
        auth: rental.credential(),
        ports: rental.ports(),
        labels: &spec.labels,
        container_id: rental.container(),
        attempt: rental.attempt(),
        revision: rental.revision(),
        created_at: rental.created_at(),
        started_at: rental.started_at(),
        expires_at: rental.expires_at(),
        ended_at: match rental.state() {
            State::Ended { at, .. } => Some(*at),
            _ => None,
        },
        exit: rental.exit(),
        segments: rental.segments(),
        bill: rental.bill(rentals.now().wall),
    }
}

pub(crate) fn end(reason: &EndReason) -> EndView<'_> {
    let failure = match reason {
        EndReason::Failed(failure) => Some(FailureView { kind: failure.kind, log_tail: &failure.log_tail }),
        _ => None,
    };
    EndView { message: reason.describe(), fault: reason.fault(), retryable: reason.retryable(), failure }
}

pub(crate) fn suspension(cause: &SuspendCause) -> SuspensionView<'_> {
    match cause {
        SuspendCause::Failed(failure) => SuspensionView {
            message: &failure.detail,
            failure: Some(FailureView { kind: failure.kind, log_tail: &failure.log_tail }),
        },
        _ => SuspensionView { message: "Suspended on request", failure: None },
    }
}

pub(crate) fn gpu(gpu: &Gpu) -> GpuView<'_> {
    GpuView {
        uuid: &gpu.uuid,
        index: gpu.index,
        model: &gpu.model,
        memory_mib: gpu.memory_mib,
        simulated: gpu.simulated,
    }
}

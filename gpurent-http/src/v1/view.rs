//! A rental as `/v1` shows it. Secrets are never part of it, and neither is the renter's environment.

use gpurent_core::host::Rentals;
use gpurent_core::id::{Attempt, ContainerId, InstanceName, RentalId, RenterId, Revision};
use gpurent_core::model::{
    Bill, Blame, ContainerPort, CredentialKind, EndReason, Exit, FailureKind, Files, Gpu, GpuModel, GpuUuid, HostPort,
    ImageDigest, ImageRef, Labels, LoginUser, PortBinding, Protocol, Rental, RentalState, Segment, Service,
    SuspendCause,
};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::protocols::state_names;

/// A rental, with its bill as it stands.
#[derive(Serialize, ToSchema)]
pub(crate) struct RentalView<'a> {
    #[schema(value_type = String, format = Uuid)]
    id: RentalId,
    #[schema(value_type = String)]
    name: &'a InstanceName,
    #[schema(value_type = String)]
    renter: &'a RenterId,
    #[schema(value_type = StateSchema)]
    state: &'static str,
    end: Option<EndView<'a>>,
    suspension: Option<SuspensionView<'a>>,
    waiting: Option<WaitingView>,
    gpus: Vec<GpuView<'a>>,
    gpus_attached: bool,
    #[schema(value_type = String)]
    image: &'a ImageRef,
    /// The digest of the image that its container is made of, or that it is pinned to; none where it was never in a registry.
    #[schema(value_type = Option<String>)]
    image_digest: Option<&'a ImageDigest>,
    /// The time at which that image was built, as far as its maker says so.
    #[schema(value_type = Option<String>, format = DateTime)]
    image_built_at: Option<Timestamp>,
    /// The time at which the host last fetched the image under its tag; none where it is pinned, since then the registry was
    /// asked.
    #[schema(value_type = Option<String>, format = DateTime)]
    image_fetched_at: Option<Timestamp>,
    duration_seconds: Option<i64>,
    #[schema(value_type = String)]
    user: &'a LoginUser,
    #[schema(value_type = CredentialSchema)]
    auth: CredentialKind,
    #[schema(value_type = Vec<PortSchema>)]
    ports: &'a [PortBinding],
    services: Vec<ServiceView>,
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    labels: &'a Labels,
    #[schema(value_type = Option<String>)]
    container_id: Option<&'a ContainerId>,
    #[schema(value_type = FilesSchema)]
    files: Files,
    #[schema(value_type = u64)]
    attempt: Attempt,
    #[schema(value_type = u64)]
    revision: Revision,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
    #[schema(value_type = Option<ExitSchema>)]
    exit: Option<&'a Exit>,
    #[schema(value_type = Vec<SegmentSchema>)]
    segments: &'a [Segment],
    #[schema(value_type = BillSchema)]
    bill: Bill,
}

/// A published port at which something has answered, besides SSH.
#[derive(Serialize, ToSchema)]
pub(crate) struct ServiceView {
    #[schema(value_type = u16)]
    container: ContainerPort,
    #[schema(value_type = u16)]
    host: HostPort,
    #[schema(value_type = ProtocolSchema)]
    protocol: Protocol,
    /// The address for a browser or a viewer, where the protocol has one.
    url: Option<String>,
}

/// Services with the addresses that reach them.
pub(crate) fn services(public_host: &str, services: &[Service]) -> Vec<ServiceView> {
    let view = |service: &Service| {
        let Service { container, host, protocol } = *service;
        ServiceView { container, host, protocol, url: service.url(public_host) }
    };
    services.iter().map(view).collect()
}

/// The condition that holds a rental up: its next step failed, and is tried again.
#[derive(Serialize, ToSchema)]
pub(crate) struct WaitingView {
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// The number of tries since then, all in vain.
    tries: u32,
    message: String,
}

/// Why a rental ends or ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct EndView<'a> {
    message: String,
    #[schema(value_type = FaultSchema)]
    fault: Blame,
    retryable: bool,
    failure: Option<FailureView<'a>>,
}

/// A rental's suspension: why, and what is kept until when.
#[derive(Serialize, ToSchema)]
pub(crate) struct SuspensionView<'a> {
    message: &'a str,
    failure: Option<FailureView<'a>>,
    /// The paid time that is left, in seconds; none where the term is open.
    time_left_seconds: Option<i64>,
    /// The time at which the rental ends, unless it is resumed before.
    #[schema(value_type = Option<String>, format = DateTime)]
    kept_until: Option<Timestamp>,
    /// Whether the files in its container are kept.
    files_kept: bool,
    /// The size of what the container wrote, where the engine told it soon.
    files_bytes: Option<u64>,
}

/// Why a rental begins to be suspended.
#[derive(Serialize)]
pub(super) struct CauseView<'a> {
    message: &'a str,
    failure: Option<FailureView<'a>>,
}

#[derive(Serialize, ToSchema)]
struct FailureView<'a> {
    #[schema(value_type = FailureKindSchema)]
    kind: FailureKind,
    log_tail: &'a [String],
}

/// A GPU.
#[derive(Serialize, ToSchema)]
pub(crate) struct GpuView<'a> {
    #[schema(value_type = String)]
    uuid: &'a GpuUuid,
    index: u32,
    #[schema(value_type = String)]
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
        state: state_names::v1(rental.state()),
        end: rental.state().end_reason().map(end),
        suspension: rental.state().suspend_cause().map(|cause| suspension(rentals, rental, cause)),
        waiting: rentals.waiting(rental.id()).map(|waiting| WaitingView {
            since: waiting.since,
            tries: waiting.failures,
            message: waiting.message,
        }),
        gpus: rental.gpus().iter().map(gpu).collect(),
        gpus_attached: rental.gpus_attached(),
        image: &spec.image,
        image_digest: rental.pinned().or_else(|| rental.image()?.digest.as_ref()),
        image_built_at: rental.image().and_then(|image| image.built_at),
        image_fetched_at: rental.image().and_then(|image| image.fetched_at).filter(|_| rental.pinned().is_none()),
        duration_seconds: spec.term.duration().map(|duration| duration.as_secs()),
        user: &spec.login,
        auth: rental.credential(),
        ports: rental.ports(),
        services: services(rentals.public_host(), rental.services()),
        labels: &spec.labels,
        container_id: rental.container(),
        files: rental.files(),
        attempt: rental.attempt(),
        revision: rental.revision(),
        created_at: rental.created_at(),
        started_at: rental.started_at(),
        expires_at: rental.expires_at(),
        ended_at: match rental.state() {
            RentalState::Ended { at, .. } => Some(*at),
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

fn suspension<'a>(rentals: &Rentals, rental: &'a Rental, cause: &'a SuspendCause) -> SuspensionView<'a> {
    let CauseView { message, failure } = crate::v1::view::cause(cause);
    let is_done = matches!(rental.state(), RentalState::Suspended { .. });
    SuspensionView {
        message,
        failure,
        time_left_seconds: rental.time_left(&rentals.now()).map(|left| left.as_secs().max(0)),
        kept_until: rentals.kept_until(rental),
        // On its way down it has them still.
        files_kept: rental.retained().is_some() || !is_done,
        files_bytes: rental.retained().and_then(|retained| retained.bytes),
    }
}

pub(super) fn cause(cause: &SuspendCause) -> CauseView<'_> {
    match cause {
        SuspendCause::Failed(failure) => CauseView {
            message: &failure.detail,
            failure: Some(FailureView { kind: failure.kind, log_tail: &failure.log_tail }),
        },
        _ => CauseView { message: "Suspended on request", failure: None },
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

// What the core's own types look like in JSON.

/// How its renter logs in.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) enum CredentialSchema {
    Password,
    PublicKey,
}

/// The source of the files in a rental's container: its image, the container before it was suspended (the same one, or a copy), or
/// its image because that container is gone.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) enum FilesSchema {
    New,
    Same,
    Copied,
    Lost,
}

/// A rental's state: its phase, and of one that has ended, how.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) enum StateSchema {
    Provisioning,
    Running,
    Ready,
    Suspending,
    Suspended,
    Stopping,
    Expired,
    Failed,
    Terminated,
}

/// Kinds of failures before a rental is ready. More may come.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) enum FailureKindSchema {
    ImageUnavailable,
    PullStalled,
    ExitedEarly,
    AccessTimeout,
    NoLogin,
    NoServer,
    WrongArchitecture,
    DeadlineExceeded,
    GpuRuntimeMissing,
    PortTaken,
    WrongDevices,
    Refused,
    Vanished,
    DriverTooOld,
}

/// The party that has to do something about an end.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) enum FaultSchema {
    Nobody,
    Renter,
    Host,
}

/// A port of the container, and the host's that leads to it.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) struct PortSchema {
    container: u16,
    /// Left out for TCP.
    transport: Option<TransportSchema>,
    host: u16,
}

/// The way in which a port is spoken to.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) enum TransportSchema {
    Tcp,
    Udp,
}

/// How a container ended, by the engine's own record.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) struct ExitSchema {
    #[schema(format = DateTime)]
    finished_at: String,
    code: i64,
    out_of_memory: bool,
}

/// A stretch of paid time.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) struct SegmentSchema {
    #[schema(format = DateTime)]
    started_at: String,
    /// Null while it lasts.
    #[schema(format = DateTime, required)]
    ended_at: Option<String>,
}

/// The bill of a rental, in millionths of the currency's unit.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) struct BillSchema {
    used_micros: i64,
    lines: Vec<BillLineSchema>,
    total: i64,
    #[schema(required)]
    currency: Option<String>,
}

/// One line of a bill.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) struct BillLineSchema {
    /// `usage` or `minimum`
    kind: String,
    amount: i64,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
}

/// The language of a service, as far as its first words tell.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what is serialised elsewhere")]
pub(crate) enum ProtocolSchema {
    Http,
    Https,
    Vnc,
    Ssh,
    Other,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn every_protocol_is_described() {
        let described: Value = json!(ProtocolSchema::schema());
        assert_eq!(described["enum"], json!(Protocol::ALL));
    }

    #[test]
    fn every_kind_of_failure_is_described() {
        let described: Value = json!(FailureKindSchema::schema());
        let kinds: Vec<Value> = FailureKind::ALL.iter().map(|kind| json!(kind)).collect();
        assert_eq!(described["enum"], json!(kinds));
    }
}

//! The values that a rental is made of, without traits of backends and without anything asynchronous.
//!
//! A [`RentalSpec`] is what somebody asks for; a [`Rental`] is what became of it, changed by [`RentalEvent`]s alone. The other
//! modules are the words of both: GPUs, ports, money, credentials.

pub mod billing;
pub mod credential;
pub mod disk_use;
pub mod event;
pub mod gpu;
pub mod lifecycle;
pub mod money;
pub mod port;
pub mod port_range;
pub mod rental;
pub mod retained;
pub mod seal;
pub mod service;
pub mod spec;

pub use billing::{Bill, BillLine, Segment};
pub use credential::{
    Credential, CredentialKind, CredentialRequest, GeneratedHostKeys, HostKey, HostKeySource, HostKeys, LoginUser,
    Password, PublicKey, PublicKeys, RegistryLogin, Secrets,
};
pub use disk_use::DiskUse;
pub use event::{Adoption, Claim, JournalEntry, RecordedEvent, RentalEvent, Resumption};
pub use gpu::{Gpu, GpuModel, GpuRequest, GpuSelector, GpuUuid};
pub use lifecycle::{Blame, EndKind, EndReason, Exit, Failure, FailureKind, Phase, RentalState, SuspendCause};
pub use money::{Currency, HourlyRate, MicroUnits, Quote, RateCard};
pub use port::{ContainerPort, HostPort, PortBinding, PublishedPort, PublishedPorts, Transport};
pub use port_range::PortRange;
pub use rental::{Action, IllegalTransition, Next, Outcome, Rental, RentalTiming};
pub use retained::{Files, Retained};
pub use seal::{Fingerprint, SealError, SealKey, Sealed, Sealer};
pub use service::{Protocol, Service};
pub use spec::{
    ContainerLimits, Environment, ImageDigest, ImageRef, Labels, MountPath, RentalRequest, RentalSpec, ResolvedImage,
    Size, Term, Workspace, WorkspaceFolder,
};

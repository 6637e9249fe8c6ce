//! One shape for every error that a caller of [`Rentals`](crate::host::Rentals) may have to be told: what kind it is, what
//! it is called, and what to do about it. A protocol renders kinds, and need not know the errors.

use std::error::Error;
use std::time::Duration;

use crate::allocation::{PlacementError, PortError, TooMany};
use crate::error::ValidationError;
use crate::host::{
    AccessError, ChangeAccessError, ExecError, ExtendError, LogsError, RentError, ResumeError, SuspendError,
};
use crate::id::RentalId;
use crate::runtime::RuntimeError;
use crate::store::StoreError;

/// The kinds of refusals, by what the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The request has to be another one.
    Invalid,
    /// The request does not go with what there is: another rental, or the rental's state.
    Conflict,
    /// All that is asked for is taken; it may be free later.
    NoCapacity,
    /// The caller asked too often, and has to wait.
    RateLimited,
    /// The request is about to be possible.
    NotReady,
    /// Something that the host needs does not answer; the same request may succeed later.
    Unavailable,
    /// A request that this host never carries out.
    NotSupported,
    /// The host's own fault; its operator finds why in the log.
    Internal,
}

/// A refusal, as a caller is told of it. Nothing in it is the host's own: no address, no path, no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The refusal's kind.
    pub kind: RefusalKind,
    /// A name for programs that never changes, such as `no-gpu-free`.
    pub code: &'static str,
    /// A title for people, the same for every refusal of this code.
    pub title: &'static str,
    /// A sentence for people.
    pub detail: String,
    /// The field of the request that is to blame.
    pub field: Option<String>,
    /// After how long the same request may succeed.
    pub retry_after: Option<Duration>,
    /// The rental that may exist all the same.
    pub rental: Option<RentalId>,
}

impl Refusal {
    fn new(kind: RefusalKind, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, code, title, detail: detail.into(), field: None, retry_after: None, rental: None }
    }

    fn conflict(code: &'static str, title: &'static str, error: &dyn Error) -> Self {
        Self::new(RefusalKind::Conflict, code, title, error.to_string())
    }

    fn no_capacity(code: &'static str, title: &'static str, error: &dyn Error) -> Self {
        Self::new(RefusalKind::NoCapacity, code, title, error.to_string())
    }

    fn invalid(code: &'static str, title: &'static str, field: &str, error: &dyn Error) -> Self {
        Self::new(RefusalKind::Invalid, code, title, error.to_string()).about(field)
    }

    fn rental_over(error: &dyn Error) -> Self {
        Self::conflict("rental-over", "Too late", error)
    }

    fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(RefusalKind::Unavailable, "unavailable", "Not now", detail).retry_after(5)
    }

    fn engine() -> Self {
        Self::unavailable("the host's container engine does not answer; try again")
    }

    fn internal() -> Self {
        Self::new(RefusalKind::Internal, "internal", "Internal error", "see the host's log")
    }

    fn about(self, field: &str) -> Self {
        Self { field: Some(field.to_owned()), ..self }
    }

    fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(Duration::from_secs(seconds)), ..self }
    }
}

/// An error that a caller may have to be told.
pub trait ToRefusal: Error {
    /// The refusal, without what is the host's own.
    fn refusal(&self) -> Refusal;

    /// The store's error that this one is, if it is one.
    fn store_error(&self) -> Option<&StoreError> {
        None
    }
}

impl ToRefusal for ValidationError {
    fn refusal(&self) -> Refusal {
        Refusal::invalid("invalid", "Invalid request", self.field(), self)
    }
}

impl ToRefusal for StoreError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Unavailable(_) | Self::Conflict | Self::Fenced => {
                Refusal::unavailable("the host's database does not answer; try again")
            }
            Self::HostPinned(_) | Self::Misconfigured(_) | Self::Corrupt(_) => Refusal::internal(),
        }
    }

    fn store_error(&self) -> Option<&StoreError> {
        Some(self)
    }
}

impl ToRefusal for RuntimeError {
    fn refusal(&self) -> Refusal {
        Refusal::engine()
    }
}

impl ToRefusal for AccessError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Store(error) => error.refusal(),
            Self::Seal(_) => Refusal::internal(),
        }
    }

    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Seal(_) => None,
        }
    }
}

impl ToRefusal for PlacementError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::UnknownGpu { .. } => Refusal::invalid("unknown-gpu", "No such GPU here", "gpu", self),
            Self::NoGpuFree(_) => Refusal::no_capacity("no-gpu-free", "No GPU free", self).about("gpu"),
            Self::NoPlaceWithoutGpu => Refusal::no_capacity("no-capacity", "No place free", self),
            Self::GpuRequired => Refusal::invalid("gpu-required", "A GPU has to be asked for", "gpu", self),
            Self::TooMuch(invalid) => invalid.refusal(),
            Self::TooMany(too_many) => too_many.refusal(),
            Self::DiskFull => {
                let kind = RefusalKind::Unavailable;
                Refusal::new(kind, "disk-full", "Disk almost full", self.to_string()).retry_after(60)
            }
            Self::EngineUnavailable => {
                let title = "The container engine does not answer";
                Refusal::new(RefusalKind::Unavailable, "engine-unavailable", title, self.to_string()).retry_after(10)
            }
            Self::WorkspacesNotSupported => {
                Refusal::invalid("workspaces-not-supported", "No workspaces here", "workspace", self)
            }
            Self::UdpNotSupported => Refusal::invalid("udp-not-supported", "No UDP ports here", "ports", self),
            Self::NoRateWithoutGpu => Refusal::invalid("no-price", "No price without a GPU", "gpu", self),
            Self::NoRate(_) => Refusal::invalid("no-price", "No price for this GPU", "gpu", self),
            Self::NoPort(PortError::NotAllowed(_)) => {
                Refusal::invalid("port-not-allowed", "Port not allowed", "ports", self)
            }
            Self::NoPort(_) => Refusal::no_capacity("port-taken", "Port taken", self).about("ports"),
            // Asked about before anybody is refused: see `Rentals::rent`.
            Self::ImageNotHere => Refusal::unavailable(self.to_string()),
        }
    }
}

impl ToRefusal for TooMany {
    fn refusal(&self) -> Refusal {
        match self {
            Self::InVain(_) => {
                let (kind, title) = (RefusalKind::RateLimited, "Too many came to nothing");
                Refusal::new(kind, "renter-limit", title, self.to_string()).retry_after(600)
            }
            _ => Refusal::no_capacity("renter-limit", "As much as one renter may have", self),
        }
    }
}

impl ToRefusal for RentError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::NotPlaced(error) => error.refusal(),
            Self::NameTaken(_) => Refusal::conflict("name-taken", "Name taken", self).about("name"),
            Self::KeyReused => {
                let title = "Key used for another request";
                Refusal::invalid("idempotency-key-reused", title, "Idempotency-Key", self)
            }
            Self::Pulling(_) => {
                let (kind, title) = (RefusalKind::NotReady, "Image is being pulled");
                Refusal::new(kind, "image-pulling", title, self.to_string()).about("image").retry_after(5)
            }
            Self::Unpullable(_) => Refusal::invalid("image-unavailable", "Image cannot be pulled", "image", self),
            Self::Starting => Refusal::unavailable(self.to_string()).retry_after(2),
            Self::Store(error) => error.refusal(),
            Self::Unconfirmed { id, .. } => {
                let (kind, title) = (RefusalKind::Unavailable, "Outcome unknown");
                let refusal = Refusal::new(kind, "outcome-unknown", title, self.to_string()).retry_after(5);
                Refusal { rental: Some(*id), ..refusal }
            }
            Self::NotReconciled | Self::Seal(_) => Refusal::unavailable(self.to_string()),
        }
    }

    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl ToRefusal for ExtendError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Over => Refusal::rental_over(self),
            Self::OpenEnded => Refusal::conflict("open-ended", "Nothing to extend", self),
            Self::Invalid(invalid) => invalid.refusal(),
            Self::Unkept(_) => Refusal::unavailable(self.to_string()),
            Self::Store(error) => error.refusal(),
        }
    }

    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl ToRefusal for ChangeAccessError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Invalid(invalid) => invalid.refusal(),
            Self::ByPassword => Refusal::conflict("login-by-password", "No keys to change", self),
            Self::Over => Refusal::rental_over(self),
            Self::Seal(_) => Refusal::internal(),
            Self::Store(error) => error.refusal(),
        }
    }

    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl ToRefusal for SuspendError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Over => Refusal::rental_over(self),
            Self::TooMany(too_many) => too_many.refusal(),
            Self::Store(error) => error.refusal(),
        }
    }

    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl ToRefusal for ResumeError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Over => Refusal::rental_over(self),
            Self::StillSuspending => {
                let (kind, title) = (RefusalKind::NotReady, "Not suspended yet");
                Refusal::new(kind, "still-suspending", title, self.to_string()).retry_after(2)
            }
            Self::NotPlaced(error) => error.refusal(),
            Self::NotReconciled => Refusal::unavailable(self.to_string()),
            Self::Starting => Refusal::unavailable(self.to_string()).retry_after(2),
            Self::Store(error) => error.refusal(),
        }
    }

    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl ToRefusal for ExecError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::NotRunning | Self::Runtime(RuntimeError::Missing) => {
                Refusal::new(RefusalKind::NotReady, "not-ready", "Not ready", self.to_string())
            }
            Self::NotSupported => {
                Refusal::new(RefusalKind::NotSupported, "not-supported", "Not offered", self.to_string())
            }
            Self::Runtime(_) => Refusal::engine(),
        }
    }
}

impl ToRefusal for LogsError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Runtime(_) => Refusal::engine(),
            Self::Store(error) => error.refusal(),
        }
    }

    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Runtime(_) => None,
        }
    }
}

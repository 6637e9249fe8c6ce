//! Names of things: hosts, rentals, renters, containers, and the counters that fence writes.
//!
//! Every identifier is its own type, so that a host's name can never stand where a renter's is meant,
//! and is checked once, where it enters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::ValidationError;

/// Declares a text identifier with a maximum length and a test of its characters.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $field:literal, $max:literal, $allowed:expr, $hint:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = ValidationError;

            fn try_from(text: String) -> Result<Self, ValidationError> {
                let allowed: fn(char) -> bool = $allowed;
                if text.is_empty() || text.len() > $max || !text.chars().all(allowed) {
                    return Err(ValidationError::new($field, concat!("must be 1 to ", $max, " characters of ", $hint)));
                }
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = ValidationError;

            fn from_str(text: &str) -> Result<Self, ValidationError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

text_id!(
    /// The host that rentals are placed on: one agent, one container engine.
    HostId, "host_id", 128, plain, "letters, digits, '.', '_' and '-'"
);
text_id!(
    /// The renter's name for the rental; unique among the renter's live rentals on a host.
    InstanceName, "instance_name", 128, plain, "letters, digits, '.', '_' and '-'"
);
text_id!(
    /// The renter of a rental: who may see and end it.
    RenterId, "renter", 128, |c| plain(c) || matches!(c, '@' | ':' | '/' | '+'),
    "letters, digits and any of . _ - @ : / +"
);
text_id!(
    /// The engine's own id of a container.
    ContainerId, "container_id", 128, plain, "letters, digits, '.', '_' and '-'"
);
text_id!(
    /// The identity of a container engine (Docker's daemon id). A host is pinned to one engine, so that
    /// two machines configured with one host id cannot both act.
    EngineId, "engine", 256, |c| plain(c) || c == ':', "letters, digits and any of . _ - :"
);

text_id!(
    /// The machine of an engine, as far as this process can tell: two machines that were cloned from one image have one
    /// [`EngineId`], and two engines of one machine may have one too.
    MachineId, "machine", 128, plain, "letters, digits, '.', '_' and '-'"
);

text_id!(
    /// A renter's own name for one request: however often it is sent, it makes at most one rental.
    IdempotencyKey, "idempotency_key", 255, |c: char| c.is_ascii_graphic(), "visible ASCII characters"
);

text_id!(
    /// Names an API key without telling it.
    ApiKeyId, "api_key_id", 64, plain, "letters, digits and any of . _ -"
);

/// Identifies a rental for ever, in every protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RentalId(Uuid);

impl RentalId {
    /// A new random (version 4) id.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id as a UUID.
    #[must_use]
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl From<Uuid> for RentalId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl FromStr for RentalId {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        Uuid::try_parse(text).map(Self).map_err(|_| ValidationError::new("rental_id", "must be a UUID"))
    }
}

impl fmt::Display for RentalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Declares a counter that only grows.
macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($int);

        impl $name {
            /// Before the first.
            pub const ZERO: Self = Self(0);

            /// The counter with this value.
            #[must_use]
            pub const fn new(value: $int) -> Self {
                Self(value)
            }

            /// The counter's value.
            #[must_use]
            pub const fn get(self) -> $int {
                self.0
            }

            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// The version of a rental: greater with every write. A write names the one it saw (compare and swap).
    ///
    /// Versions are the times of the writes in microseconds, and not counted: a store that is set back would count
    /// its next write like one that somebody saw before, and take a change of that for one of its own.
    Revision(u64)
);
counter!(
    /// Grows with every launch of a rental's container. It alone is in container names, so that the
    /// clean-up of an old launch can never hit a newer one.
    Attempt(u32)
);
counter!(
    /// Grows each time a process takes over a host; writes of observations carry it (fencing).
    Epoch(u64)
);
counter!(
    /// The number of an event within its rental: 1 to n without a gap.
    Seq(u64)
);
counter!(
    /// The number of an event within its host's journal, given after the commit; readers resume from it.
    Position(u64)
);

/// One launch of a rental's container: what every call to a [`ContainerRuntime`] is about.
///
/// [`ContainerRuntime`]: crate::runtime::ContainerRuntime
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LaunchId {
    /// The rental that the container belongs to.
    pub rental: RentalId,
    /// Which of its launches.
    pub attempt: Attempt,
}

impl LaunchId {
    /// The rental's next launch.
    #[must_use]
    pub fn next(self) -> Self {
        Self { attempt: self.attempt.next(), ..self }
    }

    /// The container's deterministic name, `gpurent-<hash>`: a crash between creating a container and recording it is
    /// repaired by finding it again under this name. An engine tells its names to other containers (reverse DNS), so it
    /// says nothing of the rental to those who do not know its id already, which is random.
    #[must_use]
    pub fn container_name(&self) -> String {
        let hash = Sha256::digest(format!("gpurent containers of {}", self.rental));
        let name: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("gpurent-{name}-{}", self.attempt)
    }
}

impl fmt::Display for LaunchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.rental, self.attempt)
    }
}

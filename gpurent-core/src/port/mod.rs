//! Ports: what a renter publishes, and which ports of the host they get.

mod pools;
pub mod ranges;

pub use pools::{NoPort, PortPools, PortProbe, PortRange, TrustBooks};

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;

/// Declares a TCP port of one side, so that the two cannot be swapped.
macro_rules! port {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(NonZeroU16);

        impl $name {
            /// The port's number.
            #[must_use]
            pub const fn get(self) -> u16 {
                self.0.get()
            }
        }

        impl TryFrom<u16> for $name {
            type Error = Invalid;

            fn try_from(number: u16) -> Result<Self, Invalid> {
                NonZeroU16::new(number).map(Self).ok_or_else(|| Invalid::new("ports", "must be 1 to 65535"))
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                text.parse().map(Self).map_err(|_| Invalid::new("ports", "must be 1 to 65535"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

port!(
    /// A TCP port inside a container.
    ContainerPort
);
port!(
    /// A TCP port of the host.
    HostPort
);

/// Where SSH answers inside every container.
pub const SSH: ContainerPort = ContainerPort(NonZeroU16::new(22).unwrap());
/// Where a container's web service is expected when nothing else is said.
pub const WEB: ContainerPort = ContainerPort(NonZeroU16::new(8080).unwrap());

/// A container port that the renter wants reachable, and perhaps where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The port inside.
    pub container: ContainerPort,
    /// The host's port, if the renter asks for a certain one.
    pub host: Option<HostPort>,
}

/// The ports a renter publishes, each once. SSH is always among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<PublishedPort>", into = "Vec<PublishedPort>")]
pub struct PublishedPorts(Vec<PublishedPort>);

/// How many ports one rental may publish.
pub const MAX_PUBLISHED: usize = 32;

impl PublishedPorts {
    /// The ports in order of their container side.
    #[must_use]
    pub fn as_slice(&self) -> &[PublishedPort] {
        &self.0
    }
}

impl Default for PublishedPorts {
    fn default() -> Self {
        Self(vec![PublishedPort { container: SSH, host: None }])
    }
}

impl TryFrom<Vec<PublishedPort>> for PublishedPorts {
    type Error = Invalid;

    fn try_from(mut ports: Vec<PublishedPort>) -> Result<Self, Invalid> {
        if !ports.iter().any(|port| port.container == SSH) {
            ports.push(PublishedPort { container: SSH, host: None });
        }
        if ports.len() > MAX_PUBLISHED {
            return Err(Invalid::new("ports", format!("must be at most {MAX_PUBLISHED}, SSH included")));
        }
        ports.sort_by_key(|port| port.container);
        if ports.windows(2).any(|pair| pair[0].container == pair[1].container) {
            return Err(Invalid::new("ports", "must name each container port once"));
        }
        let asked: Vec<_> = ports.iter().filter_map(|port| port.host).collect();
        if asked.iter().collect::<BTreeSet<_>>().len() != asked.len() {
            return Err(Invalid::new("ports", "must name each host port once"));
        }
        Ok(Self(ports))
    }
}

impl From<PublishedPorts> for Vec<PublishedPort> {
    fn from(ports: PublishedPorts) -> Self {
        ports.0
    }
}

/// A container port and the host's port that leads to it, held until the rental has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// The port inside.
    pub container: ContainerPort,
    /// The host's port.
    pub host: HostPort,
}

//! Ports: what a renter publishes, and which ports of the host they get.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ValidationError;

/// Declares a port of one side, so that the two cannot be swapped.
macro_rules! port {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(NonZeroU16);

        impl From<NonZeroU16> for $name {
            fn from(number: NonZeroU16) -> Self {
                Self(number)
            }
        }

        impl $name {
            /// The port's number.
            #[must_use]
            pub const fn get(self) -> u16 {
                self.0.get()
            }
        }

        impl TryFrom<u16> for $name {
            type Error = ValidationError;

            fn try_from(number: u16) -> Result<Self, ValidationError> {
                NonZeroU16::new(number).map(Self).ok_or_else(|| ValidationError::new("ports", "must be 1 to 65535"))
            }
        }

        impl FromStr for $name {
            type Err = ValidationError;

            fn from_str(text: &str) -> Result<Self, ValidationError> {
                text.parse().map(Self).map_err(|_| ValidationError::new("ports", "must be 1 to 65535"))
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
    /// A port inside a container.
    ContainerPort
);
port!(
    /// A port of the host, which belongs to one rental for TCP and UDP alike.
    HostPort
);

/// Where SSH answers inside every container.
pub const SSH: ContainerPort = ContainerPort(NonZeroU16::new(22).unwrap());
/// Where a container's web service is expected when nothing else is said.
pub const WEB: ContainerPort = ContainerPort(NonZeroU16::new(8080).unwrap());

/// The way in which a port is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Connections; where nothing else is said.
    #[default]
    Tcp,
    /// Datagrams. Only [where the engine can](crate::runtime::ContainerRuntime::publishes_udp), and nobody looks whether
    /// something answers.
    Udp,
}

impl Transport {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
    const fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Transport {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(ValidationError::new("ports", "must be tcp or udp")),
        }
    }
}

/// A container port that the renter wants reachable, and perhaps where. As text `9000`, `9000/udp` or, with the host's port,
/// `9000:30000/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The port inside.
    pub container: ContainerPort,
    /// The way in which it is spoken to.
    #[serde(default, skip_serializing_if = "Transport::is_tcp")]
    pub transport: Transport,
    /// The host's port, if the renter asks for a certain one.
    pub host: Option<HostPort>,
}

impl PublishedPort {
    /// A port for connections, at a certain port of the host or at any.
    #[must_use]
    pub const fn tcp(container: ContainerPort, host: Option<HostPort>) -> Self {
        Self { container, transport: Transport::Tcp, host }
    }

    /// Whether it leads to SSH.
    #[must_use]
    pub fn is_ssh(&self) -> bool {
        self.container == SSH && self.transport.is_tcp()
    }
}

impl FromStr for PublishedPort {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let (numbers, transport) = match text.split_once('/') {
            Some((numbers, transport)) => (numbers, transport.parse()?),
            None => (text, Transport::Tcp),
        };
        let (container, host) = match numbers.split_once(':') {
            Some((container, host)) => (container, Some(host.parse()?)),
            None => (numbers, None),
        };
        Ok(Self { container: container.parse()?, transport, host })
    }
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
        Self(vec![PublishedPort::tcp(SSH, None)])
    }
}

impl TryFrom<Vec<PublishedPort>> for PublishedPorts {
    type Error = ValidationError;

    fn try_from(mut ports: Vec<PublishedPort>) -> Result<Self, ValidationError> {
        if !ports.iter().any(PublishedPort::is_ssh) {
            ports.push(PublishedPort::tcp(SSH, None));
        }
        if ports.len() > MAX_PUBLISHED {
            return Err(ValidationError::new("ports", format!("must be at most {MAX_PUBLISHED}, SSH included")));
        }
        ports.sort_by_key(|port| (port.container, port.transport));
        if ports.windows(2).any(|pair| (pair[0].container, pair[0].transport) == (pair[1].container, pair[1].transport))
        {
            return Err(ValidationError::new("ports", "must name each container port once"));
        }
        let asked: Vec<_> = ports.iter().filter_map(|port| port.host).collect();
        if asked.iter().collect::<BTreeSet<_>>().len() != asked.len() {
            return Err(ValidationError::new("ports", "must name each host port once"));
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
    /// The way in which both are spoken to.
    #[serde(default, skip_serializing_if = "Transport::is_tcp")]
    pub transport: Transport,
    /// The host's port.
    pub host: HostPort,
}

impl PortBinding {
    /// A port for connections.
    #[must_use]
    pub const fn tcp(container: ContainerPort, host: HostPort) -> Self {
        Self { container, transport: Transport::Tcp, host }
    }

    /// Whether it leads to SSH.
    #[must_use]
    pub fn is_ssh(&self) -> bool {
        self.container == SSH && self.transport.is_tcp()
    }

    /// Whether a service may be looked for there: who is spoken to by datagrams may have no answer for strangers.
    pub(crate) fn may_lead_to_a_service(&self) -> bool {
        self.transport.is_tcp() && !self.is_ssh()
    }
}

impl fmt::Display for PortBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}", self.host, self.container)?;
        if self.transport.is_tcp() { Ok(()) } else { write!(f, "/{}", self.transport) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_people_write_them() {
        let port = |container: u16, transport, host: Option<u16>| PublishedPort {
            container: container.try_into().unwrap(),
            transport,
            host: host.map(|host| host.try_into().unwrap()),
        };
        for (text, read) in [
            ("9000", port(9000, Transport::Tcp, None)),
            ("9000/tcp", port(9000, Transport::Tcp, None)),
            ("9000/udp", port(9000, Transport::Udp, None)),
            ("9000:30000", port(9000, Transport::Tcp, Some(30000))),
            ("9000:30000/udp", port(9000, Transport::Udp, Some(30000))),
        ] {
            assert_eq!(text.parse(), Ok(read), "{text}");
        }
        for text in ["", "0", "70000", "9000/sctp", "9000/", "/udp", "9000:", ":9000", "1:2:3"] {
            assert!(text.parse::<PublishedPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn one_number_may_be_published_for_both_transports_and_ssh_is_always_there() {
        let udp = |number: u16| PublishedPort {
            container: number.try_into().unwrap(),
            transport: Transport::Udp,
            host: None,
        };
        let ports = PublishedPorts::try_from(vec![udp(22), udp(8080), PublishedPort::tcp(WEB, None)]).unwrap();
        let texts: Vec<_> =
            ports.as_slice().iter().map(|port| format!("{}/{}", port.container, port.transport)).collect();
        assert_eq!(texts, ["22/tcp", "22/udp", "8080/tcp", "8080/udp"]);
        assert!(PublishedPorts::try_from(vec![udp(8080), udp(8080)]).is_err());
    }

    #[test]
    fn what_was_stored_before_there_was_udp_is_read_and_tcp_is_written_as_then() {
        let text = r#"{"container":8080,"host":9000}"#;
        let binding: PortBinding = serde_json::from_str(text).unwrap();
        assert_eq!(binding, PortBinding::tcp(WEB, 9000.try_into().unwrap()));
        assert_eq!(serde_json::to_string(&binding).unwrap(), text);
        let udp = PortBinding { transport: Transport::Udp, ..binding };
        assert_eq!(serde_json::to_string(&udp).unwrap(), r#"{"container":8080,"transport":"udp","host":9000}"#);
    }
}

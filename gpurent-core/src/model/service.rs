//! Services that a rental's programs offer on its published ports: Jupyter, a web page, a desktop. They come up when they
//! like, long after the rental is ready or never, so the host looks again and again, and tells when one answers.

use serde::{Deserialize, Serialize};

use crate::model::{ContainerPort, HostPort};

/// A published port at which something answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The port inside the container.
    pub container: ContainerPort,
    /// The host's port that leads to it.
    pub host: HostPort,
    /// The language that was heard there.
    pub protocol: Protocol,
}

impl Service {
    /// The address for a browser or a viewer on the host of this name or address, where the protocol has one.
    #[must_use]
    pub fn url(&self, host: &str) -> Option<String> {
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::Https => "https",
            Protocol::Vnc => "vnc",
            Protocol::Ssh | Protocol::Other => return None,
        };
        // RFC 3986, section 3.2.2.
        let is_ipv6 = host.contains(':') && !host.starts_with('[');
        let host = if is_ipv6 { format!("[{host}]") } else { host.to_owned() };
        Some(format!("{scheme}://{host}:{}", self.host))
    }
}

/// The language of a service, as far as its first words tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP (RFC 9112).
    Http,
    /// TLS (RFC 8446): as a rule, HTTP within it.
    Https,
    /// The remote framebuffer protocol (RFC 6143).
    Vnc,
    /// SSH (RFC 4253), of another server than the host's own.
    Ssh,
    /// Another one.
    Other,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 5] = [Self::Http, Self::Https, Self::Vnc, Self::Ssh, Self::Other];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_that_a_browser_takes() {
        let at = |protocol, host| {
            let service = Service { container: crate::model::port::WEB, host: "8001".parse().unwrap(), protocol };
            service.url(host)
        };
        assert_eq!(at(Protocol::Http, "gpu.example").as_deref(), Some("http://gpu.example:8001"));
        assert_eq!(at(Protocol::Https, "2001:db8::1").as_deref(), Some("https://[2001:db8::1]:8001"));
        assert_eq!(at(Protocol::Vnc, "[::1]").as_deref(), Some("vnc://[::1]:8001"));
        assert_eq!(at(Protocol::Ssh, "gpu.example"), None);
    }
}

//! Which registries the engine is sent to. An image's name makes the engine ask whatever host it begins with, from the
//! engine's own network: without a limit a renter reaches by it what firewall rules keep their container from.
//!
//! Three things are not checked here, since the engine alone sees them: where a registry that may be asked redirects to, where it
//! sends the engine for a token, and to what its name resolves a moment later. Only a proxy or a network namespace of the
//! engine's own limits that (`docs/threats.md`), or a list of registries that are trusted not to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use gpurent_core::model::ImageRef;

/// How long a registry's name may take to resolve.
pub(crate) const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Docker Hub, as it is named in lists.
const DOCKER_HUB: &str = "docker.io";

/// The registries that images may be pulled from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Registries {
    /// All whose name is public: no address, no name without a dot, and none that resolves to an address which the
    /// world does not reach.
    #[default]
    Public,
    /// Certain ones only, wherever they are; see [`Registries::only`].
    Only(BTreeSet<String>),
    /// All that an image can name: only where those who rent may reach everything that the engine reaches.
    Any,
}

/// Why a registry is not asked. These are words for renters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAsked {
    #[error("this host pulls from certain registries only, and this is none of them")]
    NotListed,
    #[error("images are pulled from registries with a public name only")]
    NotPublic,
    #[error("the name of its registry does not resolve")]
    Unknown,
    #[error("the name of its registry does not resolve now")]
    NotNow,
}

impl Registries {
    /// Certain ones only, wherever they are: `host`, or `host:port`; `docker.io` for Docker Hub.
    #[must_use]
    pub fn only(registries: impl IntoIterator<Item = String>) -> Self {
        let lowercase = |name: String| match name.to_ascii_lowercase() {
            hub if hub == "index.docker.io" => DOCKER_HUB.to_owned(),
            other => other,
        };
        Self::Only(registries.into_iter().map(lowercase).collect())
    }

    /// Whether the registry of an image may be asked.
    ///
    /// `by_proxy`: the engine asks by way of a proxy, which may know names that this machine does not.
    pub(crate) async fn expect_allowed(&self, image: &ImageRef, by_proxy: bool) -> Result<(), NotAsked> {
        let registry = registry(image);
        match self {
            Self::Any => return Ok(()),
            Self::Only(listed) if listed.contains(&registry) => return Ok(()),
            Self::Only(_) => return Err(NotAsked::NotListed),
            Self::Public => {}
        }
        let (host, port) = registry.rsplit_once(':').unwrap_or((&registry, "443"));
        if !is_public_name(host) {
            return Err(NotAsked::NotPublic);
        }
        // Nobody who rents says what Docker Hub's name resolves to: a mirror of the operator's own is theirs to have.
        if host == DOCKER_HUB {
            return Ok(());
        }
        let lookup = tokio::net::lookup_host((host, port.parse().unwrap_or(443)));
        match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
            Ok(Ok(mut found)) => {
                if found.all(|address| is_public(address.ip())) {
                    Ok(())
                } else {
                    Err(NotAsked::NotPublic)
                }
            }
            // Then the engine's proxy knows it, or nobody.
            _ if by_proxy => Ok(()),
            // It may resolve for the engine in a moment, to anything.
            Ok(Err(error)) if !error.to_string().contains("Temporary failure") => Err(NotAsked::Unknown),
            _ => Err(NotAsked::NotNow),
        }
    }
}

/// The registry that a name leads to, by the rule of Docker's own clients.
fn registry(image: &ImageRef) -> String {
    match image.name().split_once('/') {
        Some(("index.docker.io", _)) => DOCKER_HUB.to_owned(),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host.to_ascii_lowercase(),
        _ => DOCKER_HUB.to_owned(),
    }
}

/// Whether a name can be one of the world's. What looks like a number is an address in one of its many forms
/// (`127.1`, `0x7f.1`), and a top-level domain is never one.
fn is_public_name(host: &str) -> bool {
    let mut labels = host.trim_end_matches('.').rsplit('.');
    let top = labels.next().unwrap_or_default();
    let inner = ["localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "test"];
    labels.next().is_some() && top.starts_with(|c: char| c.is_ascii_alphabetic()) && !inner.contains(&top)
}

/// Whether the world reaches an address: IANA's special-purpose registries
/// (<https://www.iana.org/assignments/iana-ipv4-special-registry>), and a service of Azure's for its machines alone.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        || address == Ipv4Addr::new(168, 63, 129, 16);
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // IPv4 in IPv6's clothes: mapped, compatible, and through NAT64 and 6to4.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        [0x2001, 0xdb8 | 0, ..] => false,
        // Global unicast.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn allowed(registries: &Registries, image: &str) -> Result<(), NotAsked> {
        registries.expect_allowed(&image.parse().unwrap(), false).await
    }

    #[tokio::test]
    async fn an_image_names_no_address_and_no_inner_name() {
        let public = Registries::Public;
        for image in [
            "127.0.0.1:9183/x:1",
            "127.1/x",
            "0x7f.1/x",
            "2130706433:80/x",
            "10.0.0.5:5000/x",
            "169.254.169.254/latest/meta-data",
            "localhost/x",
            "localhost:5000/x",
            "registry:5000/x",
            "vault.internal:8200/x",
            "metadata.google.internal/x",
            "printer.local/x",
        ] {
            assert_eq!(allowed(&public, image).await, Err(NotAsked::NotPublic), "{image}");
        }
        for image in ["ubuntu:22.04", "docker.io/library/ubuntu", "pytorch/pytorch:latest"] {
            assert_eq!(allowed(&public, image).await, Ok(()), "{image}");
        }
        assert_eq!(
            allowed(&public, "registry.invalid/x").await,
            Err(NotAsked::Unknown),
            "it resolves in a moment, perhaps"
        );
        let by_proxy = public.expect_allowed(&"registry.invalid/x".parse().unwrap(), true).await;
        assert_eq!(by_proxy, Ok(()));
    }

    #[tokio::test]
    async fn a_list_is_all_there_is() {
        let only = Registries::only(["GHCR.io".to_owned(), "10.0.0.5:5000".to_owned()]);
        assert_eq!(allowed(&only, "ghcr.io/a/b").await, Ok(()));
        assert_eq!(allowed(&only, "10.0.0.5:5000/x").await, Ok(()));
        for image in ["ubuntu", "10.0.0.5/x", "ghcr.io:444/a", "evil.example/ghcr.io/a"] {
            assert_eq!(allowed(&only, image).await, Err(NotAsked::NotListed), "{image}");
        }
        assert_eq!(allowed(&Registries::only(["docker.io".to_owned()]), "index.docker.io/a/b").await, Ok(()));
    }

    #[test]
    fn addresses_that_the_world_does_not_reach() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "168.63.129.16",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001:db8::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}

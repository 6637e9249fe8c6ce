//! Which of the host's ports rentals get.

use std::collections::BTreeSet;

use crate::error::ValidationError;
use crate::id::{Attempt, LaunchId};
use crate::model::{HostPort, PortBinding, PortRange, PublishedPort, PublishedPorts, Transport};

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

/// Tells whether somebody outside our books listens on a port of the host.
pub trait PortProbe: Send + Sync {
    /// Whether the port can be bound now.
    fn is_free(&self, port: HostPort, transport: Transport) -> bool;
}

/// Trusts the books alone: for fakes, and for engines on another machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPortProbe;

impl PortProbe for NoPortProbe {
    fn is_free(&self, _port: HostPort, _transport: Transport) -> bool {
        true
    }
}

/// Why a rental got no ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The operator does not let renters choose this port.
    #[error("host port {0} may not be asked for on this host")]
    NotAllowed(HostPort),
    /// The port that was asked for is in use.
    #[error("host port {0} is taken")]
    Taken(HostPort),
    /// Every port of the pool is in use.
    #[error("no free port is left in the pool {0}")]
    Exhausted(PortRange),
}

/// Ports over which machines like this one are steered, by engines (2375 to 2377, 4243), clusters (2379, 2380, 6443,
/// 7946, 10250, 10255 to 10257, 10259), configuration management (4505, 4506, 8140) GPUs' own monitoring (5555, 9400), and
/// networks laid over others (4789, 6081, 8285, 8472, 51820, 51821, all UDP).
/// No renter gets one, unless in a range of their own: what asks there on this machine, now or later, trusts what answers.
const OF_THE_MACHINE: [u16; 25] = [
    2375, 2376, 2377, 2379, 2380, 4243, 4505, 4506, 4789, 5555, 6081, 6443, 7946, 8140, 8285, 8472, 9400, 10_250,
    10_255, 10_256, 10_257, 10_258, 10_259, 51_820, 51_821,
];

fn is_of_the_machine(port: HostPort) -> bool {
    OF_THE_MACHINE.contains(&port.get())
}

/// The host's ports that rentals may get.
#[derive(Clone, Debug)]
pub struct PortPools {
    ssh: PortRange,
    web: PortRange,
    requestable: Option<PortRange>,
    sticky: Option<PortRange>,
    reserved: BTreeSet<HostPort>,
}

impl PortPools {
    /// SSH ports come from `ssh`, all others from `web`.
    ///
    /// # Errors
    /// Refuses pools that overlap.
    pub fn new(ssh: PortRange, web: PortRange) -> Result<Self, ValidationError> {
        if ssh.overlaps(&web) {
            return Err(ValidationError::new("port pools", format!("must not overlap ({ssh} and {web} do)")));
        }
        Ok(Self { ssh, web, requestable: None, sticky: None, reserved: BTreeSet::new() })
    }

    /// Lets renters ask for a certain host port within `range`.
    #[must_use]
    pub fn allow_requests(mut self, range: PortRange) -> Self {
        self.requestable = Some(range);
        self
    }

    /// Sets `range` aside for renters who have ports of their own there (see [`ranges`](crate::store::port_ranges)); nobody
    /// else gets one of them.
    ///
    /// # Errors
    /// Refuses a range that overlaps a pool.
    pub fn set_aside(mut self, range: PortRange) -> Result<Self, ValidationError> {
        if let Some(pool) = [&self.ssh, &self.web].into_iter().find(|pool| pool.overlaps(&range)) {
            return Err(ValidationError::new("port pools", format!("must not overlap ({range} and {pool} do)")));
        }
        self.sticky = Some(range);
        Ok(self)
    }

    /// The range that is set aside for renters with ports of their own.
    #[must_use]
    pub fn sticky(&self) -> Option<&PortRange> {
        self.sticky.as_ref()
    }

    /// Never hands out `port`: we listen on it ourselves.
    #[must_use]
    pub fn reserve(mut self, port: HostPort) -> Self {
        self.reserved.insert(port);
        self
    }

    /// Chooses a host port for every published one, none of them in `held`.
    ///
    /// # Errors
    /// [`PortError`]: nothing is chosen then.
    pub fn assign(
        &self,
        wanted: &PublishedPorts,
        own: Option<&PortRange>,
        launch: LaunchId,
        held: &BTreeSet<HostPort>,
        probe: &dyn PortProbe,
    ) -> Result<Vec<PortBinding>, PortError> {
        // Another launch looks elsewhere first: what was taken there may be taken still.
        let salt = launch.rental.as_uuid().as_u64_pair().1.wrapping_add(u64::from(launch.attempt.get()) * 7919);
        let asked: BTreeSet<_> = wanted.as_slice().iter().filter_map(|port| port.host).collect();
        let mut chosen = BTreeSet::new();
        let mut bindings = Vec::with_capacity(wanted.as_slice().len());
        for port in wanted.as_slice() {
            let host = match port.host {
                Some(host) => {
                    let lies_in = |range: Option<&PortRange>| range.is_some_and(|range| range.contains(host));
                    let (sticky, requestable) = (lies_in(self.sticky.as_ref()), lies_in(self.requestable.as_ref()));
                    // A range of the renter's own was given to them; so was what they are launched with again.
                    let is_new = !sticky && launch.attempt == Attempt::new(1);
                    // What somebody's clients know as the port of their SSH nobody chooses.
                    let of_ssh = is_new && lies_in(Some(&self.ssh));
                    let allowed = if sticky { lies_in(own) } else { requestable && !of_ssh };
                    if !allowed || self.reserved.contains(&host) || (is_new && is_of_the_machine(host)) {
                        return Err(PortError::NotAllowed(host));
                    }
                    if held.contains(&host) || !probe.is_free(host, port.transport) {
                        return Err(PortError::Taken(host));
                    }
                    host
                }
                None => {
                    let pool = if port.is_ssh() { &self.ssh } else { &self.web };
                    pool.shuffled(salt)
                        .find(|host| {
                            ![held, &chosen, &asked, &self.reserved].iter().any(|set| set.contains(host))
                                && !is_of_the_machine(*host)
                                && probe.is_free(*host, port.transport)
                        })
                        .ok_or_else(|| PortError::Exhausted(pool.clone()))?
                }
            };
            chosen.insert(host);
            bindings.push(PortBinding { container: port.container, transport: port.transport, host });
        }
        Ok(bindings)
    }

    /// The ports that a rental had before, where it may have all of them again.
    #[must_use]
    pub fn again(
        &self,
        wanted: &PublishedPorts,
        before: &[PortBinding],
        held: &BTreeSet<HostPort>,
        probe: &dyn PortProbe,
    ) -> Option<Vec<PortBinding>> {
        let wanted = wanted.as_slice();
        let is_as_wanted = |(port, binding): (&PublishedPort, &PortBinding)| {
            let pool = if port.is_ssh() { &self.ssh } else { &self.web };
            let host = binding.host;
            (port.container, port.transport) == (binding.container, binding.transport)
                && port.host.map_or_else(|| pool.contains(host), |asked| asked == host)
                && ![held, &self.reserved].iter().any(|set| set.contains(&host))
                && !is_of_the_machine(host)
                && probe.is_free(host, port.transport)
        };
        let all = wanted.len() == before.len() && wanted.iter().zip(before).all(is_as_wanted);
        all.then(|| before.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::port::WEB;
    use crate::model::{ContainerPort, PublishedPort};

    fn launch(uuid: u128) -> LaunchId {
        LaunchId { rental: uuid::Uuid::from_u128(uuid).into(), attempt: crate::id::Attempt::new(1) }
    }

    fn pools() -> PortPools {
        PortPools::new("22000-22009".parse().unwrap(), "8000-8009".parse().unwrap())
            .unwrap()
            .allow_requests("1024-65535".parse().unwrap())
            .reserve(HostPort::try_from(8000).unwrap())
    }

    fn published(ports: &[(u16, Option<u16>)]) -> Result<PublishedPorts, ValidationError> {
        ports
            .iter()
            .map(|(c, h)| Ok(PublishedPort::tcp(ContainerPort::try_from(*c)?, h.map(HostPort::try_from).transpose()?)))
            .collect::<Result<Vec<_>, ValidationError>>()?
            .try_into()
    }

    #[test]
    fn doubled_ports_are_refused() {
        assert!(published(&[(80, None), (80, None)]).is_err());
        assert!(published(&[(80, Some(9000)), (81, Some(9000))]).is_err());
        assert!(published(&[(0, None)]).is_err());
    }

    #[test]
    fn overlapping_pools_are_refused() {
        assert!(PortPools::new("8000-9000".parse().unwrap(), "9000-9100".parse().unwrap()).is_err());
    }

    #[test]
    fn a_port_asked_for_is_granted_or_refused_by_name() {
        let id = launch(7);
        let port = |n| HostPort::try_from(n).unwrap();
        let wanted = published(&[(8080, Some(8080))]).unwrap();
        let got = pools().assign(&wanted, None, id, &BTreeSet::new(), &NoPortProbe).unwrap();
        assert!(got.iter().any(|b| b.host == port(8080) && b.container == WEB));
        assert_eq!(
            pools().assign(&wanted, None, id, &BTreeSet::from([port(8080)]), &NoPortProbe),
            Err(PortError::Taken(port(8080)))
        );
        for (host, why) in [(22, "low"), (8000, "ours"), (2375, "an engine's"), (22004, "of SSH")] {
            let wanted = published(&[(8080, Some(host))]).unwrap();
            let refused = pools().assign(&wanted, None, id, &BTreeSet::new(), &NoPortProbe);
            assert_eq!(refused, Err(PortError::NotAllowed(port(host))), "{why}");
        }
    }

    proptest! {
        #[test]
        fn a_pool_gives_each_port_once_until_it_is_empty(uuid in any::<u128>()) {
            let id = launch(uuid);
            let mut held = BTreeSet::new();
            for _ in 0..10 {
                let got = pools().assign(&PublishedPorts::default(), None, id, &held, &NoPortProbe).unwrap();
                prop_assert!(got.iter().all(|binding| held.insert(binding.host)));
            }
            let empty = pools().assign(&PublishedPorts::default(), None, id, &held, &NoPortProbe);
            prop_assert!(matches!(empty, Err(PortError::Exhausted(_))));
        }
    }
}

//! Places for those who have opened a WebSocket and have yet to show their key: so many in all, and a share of them for
//! each address, so that nobody silent keeps others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many may wait.
const MOST: usize = 256;
/// Of these, from one address.
const MOST_OF_AN_ADDRESS: usize = 16;

/// How many wait from each address; `None` for those of whom that is not known.
#[derive(Default)]
pub(crate) struct PendingSockets(Mutex<HashMap<Option<IpAddr>, usize>>);

/// A place, until it is dropped.
pub(crate) struct PendingPermit {
    room: Arc<PendingSockets>,
    from: Option<IpAddr>,
}

impl PendingSockets {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Option<IpAddr>, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for somebody from this address, if there is one.
    pub(crate) fn enter(self: &Arc<Self>, from: Option<IpAddr>) -> Option<PendingPermit> {
        // From this machine comes what a proxy passes on, for everybody.
        let has_a_share = !from.is_some_and(|from| from.is_loopback());
        let from = from.map(network_of);
        let mut waiting = self.waiting();
        let all: usize = waiting.values().sum();
        let theirs = waiting.get(&from).copied().unwrap_or(0);
        if all >= MOST || (has_a_share && theirs >= MOST_OF_AN_ADDRESS) {
            return None;
        }
        waiting.insert(from, theirs + 1);
        Some(PendingPermit { room: Arc::clone(self), from })
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        let mut waiting = self.room.waiting();
        if let Some(count) = waiting.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.from);
            }
        }
    }
}

/// The network of an address: an IPv6 client has the 64 bits below its own too (RFC 4291, section 2.5.4).
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_a_share_and_all_have_an_end() {
        let room = Arc::new(PendingSockets::default());
        let from = |text: &str| Some(text.parse().unwrap());
        let silent: Vec<_> = (0..MOST).map_while(|n| room.enter(from(&format!("2001:db8::{n:x}")))).collect();
        assert_eq!(silent.len(), MOST_OF_AN_ADDRESS);
        let browser = room.enter(from("192.0.2.1")).unwrap();
        drop(silent);
        assert!(room.enter(from("2001:db8::1")).is_some());
        let many: Vec<_> =
            (0..2 * MOST).map_while(|n| room.enter(from(&format!("10.0.{}.{}", n / 250, n % 250)))).collect();
        assert_eq!(many.len(), MOST - 1, "the browser still waits");
        drop(many);
        let by_a_proxy: Vec<_> = (0..2 * MOST).map_while(|_| room.enter(from("127.0.0.1"))).collect();
        assert_eq!(by_a_proxy.len(), MOST - 1);
        drop((browser, by_a_proxy));
        assert!(room.waiting().is_empty());
    }
}

//! How many connections there are, whose they are, and which one has to go for a new one: the one that was idle
//! longest. Who holds thousands of sockets open and sends nothing takes them from themselves, and from nobody else.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// All connections of a server.
#[derive(Clone)]
pub(crate) struct Connections {
    most: usize,
    most_of_an_address: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Open>,
    of_address: HashMap<IpAddr, usize>,
    /// When each idle one began to be, as a number that only grows.
    idle: BTreeMap<u64, u64>,
    idle_of_address: HashMap<IpAddr, BTreeMap<u64, u64>>,
}

struct Open {
    address: IpAddr,
    /// The connection's number among the idle ones; `None` while it is used.
    idle: Option<u64>,
    closed: CancellationToken,
}

/// One connection, counted until it is dropped.
pub(crate) struct Connection {
    id: u64,
    table: Arc<Mutex<Table>>,
    /// Cancelled when it has to go.
    pub(crate) closed: CancellationToken,
}

/// A request on a connection, or what became of it; the connection is idle again once it is dropped.
pub(crate) struct InUse {
    id: u64,
    table: Arc<Mutex<Table>>,
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    pub(crate) fn new(most: usize, most_of_an_address: usize) -> Self {
        Self { most, most_of_an_address, table: Arc::default() }
    }

    /// Counts a new connection. `None` where there are too many, and every one is in use.
    pub(crate) fn open(&self, address: IpAddr) -> Option<Connection> {
        let mut table = lock(&self.table);
        if table.of_address.get(&address).is_some_and(|count| *count >= self.most_of_an_address) {
            let oldest = table.idle_of_address.get(&address)?.values().next().copied()?;
            table.close(oldest);
        }
        if table.open.len() >= self.most {
            let oldest = table.idle.values().next().copied()?;
            table.close(oldest);
        }
        let id = table.next;
        table.next += 1;
        let closed = CancellationToken::new();
        table.open.insert(id, Open { address, idle: None, closed: closed.clone() });
        *table.of_address.entry(address).or_default() += 1;
        table.begin_idling(id);
        Some(Connection { id, table: Arc::clone(&self.table), closed })
    }
}

impl Table {
    fn begin_idling(&mut self, id: u64) {
        let number = self.next;
        self.next += 1;
        let Some(open) = self.open.get_mut(&id) else { return };
        open.idle = Some(number);
        self.idle.insert(number, id);
        self.idle_of_address.entry(open.address).or_default().insert(number, id);
    }

    fn end_idling(&mut self, id: u64) {
        let Some(open) = self.open.get_mut(&id) else { return };
        let Some(number) = open.idle.take() else { return };
        self.idle.remove(&number);
        if let Some(idle) = self.idle_of_address.get_mut(&open.address) {
            idle.remove(&number);
            if idle.is_empty() {
                self.idle_of_address.remove(&open.address);
            }
        }
    }

    fn close(&mut self, id: u64) {
        self.end_idling(id);
        let Some(open) = self.open.remove(&id) else { return };
        open.closed.cancel();
        if let Some(count) = self.of_address.get_mut(&open.address) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&open.address);
            }
        }
    }
}

impl Connection {
    /// A request has come.
    pub(crate) fn in_use(&self) -> InUse {
        lock(&self.table).end_idling(self.id);
        InUse { id: self.id, table: Arc::clone(&self.table) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.table).close(self.id);
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        lock(&self.table).begin_idling(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, n])
    }

    #[test]
    fn the_one_that_was_idle_longest_goes() {
        let connections = Connections::new(3, 100);
        let first = connections.open(address(1)).unwrap();
        let second = connections.open(address(2)).unwrap();
        let third = connections.open(address(3)).unwrap();
        let busy = first.in_use();
        let fourth = connections.open(address(4)).unwrap();
        assert!(second.closed.is_cancelled() && !first.closed.is_cancelled());
        let all_busy = (third.in_use(), fourth.in_use());
        assert!(connections.open(address(5)).is_none(), "nobody who is served is sent away");
        drop(busy);
        assert!(connections.open(address(5)).is_some());
        assert!(first.closed.is_cancelled());
        drop(all_busy);
    }

    #[test]
    fn who_takes_many_takes_them_from_themselves() {
        let connections = Connections::new(100, 2);
        let other = connections.open(address(1)).unwrap();
        let mut own = Vec::new();
        for _ in 0..50 {
            own.push(connections.open(address(2)).unwrap());
        }
        assert!(!other.closed.is_cancelled());
        assert_eq!(own.iter().filter(|one| !one.closed.is_cancelled()).count(), 2);
        drop(own);
        assert_eq!(lock(&connections.table).open.len(), 1);
        drop(other);
        let table = lock(&connections.table);
        assert!(table.open.is_empty() && table.idle.is_empty() && table.of_address.is_empty());
        assert!(table.idle_of_address.is_empty());
    }
}

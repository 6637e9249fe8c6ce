//! Which ports of this machine other programs use.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use gpurent_core::allocation::PortProbe;
use gpurent_core::model::{HostPort, Transport};

/// Finds out by binding: right only where agent and engine share a machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalPorts;

impl PortProbe for LocalPorts {
    fn is_free(&self, port: HostPort, transport: Transport) -> bool {
        let address = (Ipv4Addr::UNSPECIFIED, port.get());
        match transport {
            Transport::Tcp => TcpListener::bind(address).is_ok(),
            Transport::Udp => UdpSocket::bind(address).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_somebody_listens_on_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = HostPort::try_from(listener.local_addr().unwrap().port()).unwrap();
        assert!(!LocalPorts.is_free(port, Transport::Tcp));
        drop(listener);
        assert!(LocalPorts.is_free(port, Transport::Tcp));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port.get())).unwrap();
        assert!(!LocalPorts.is_free(port, Transport::Udp));
        assert!(LocalPorts.is_free(port, Transport::Tcp), "a resolver's question is in nobody's way");
        drop(socket);
    }
}

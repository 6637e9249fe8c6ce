//! Published ports for datagrams: they reach the tenant from wherever connections would, and never the one before.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::net::Ipv4Addr;
use std::time::Duration;

use gpurent_core::model::{HostPort, PortBinding, Transport};
use gpurent_core::runtime::ContainerRuntime as _;
use support::{Tenant, free_port, launch, password, runtime};
use tokio::net::UdpSocket;

/// A tenant that answers every datagram at port 9000 with its name before it, and connections not at all.
async fn echoes(name: &str, host: HostPort) -> Tenant {
    let mut launch = launch("gpurent-test/tools:1");
    let container = 9000.try_into().unwrap();
    launch.ports.push(PortBinding { container, transport: Transport::Udp, host });
    let tenant = Tenant::up(launch, &password()).await;
    let serve = format!(
        "nohup python3 -c \"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9000))
open('/tmp/listens', 'w')
while True:
    said, who = s.recvfrom(64); s.sendto(b'{name}:' + said, who)
\" >/dev/null 2>&1 & for n in $(seq 50); do [ -e /tmp/listens ] && break; sleep 0.1; done"
    );
    tenant.says(&serve).await;
    tenant
}

async fn answer(client: &UdpSocket, to: (Ipv4Addr, u16)) -> Option<String> {
    let mut datagram = [0; 64];
    client.send_to(b"hello", to).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(3), client.recv(&mut datagram)).await.ok()?;
    Some(String::from_utf8_lossy(&datagram[..heard.unwrap()]).into_owned())
}

#[tokio::test]
async fn datagrams_reach_a_tenant_and_not_the_one_that_had_the_port_before() {
    let runtime = runtime().await;
    assert!(runtime.publishes_udp());
    runtime.isolate().await.unwrap();
    let host = free_port();
    let to = (Ipv4Addr::LOCALHOST, host.get());
    // One client throughout: what the kernel remembers of its datagrams must not lead to a container that is gone.
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();

    let first = echoes("first", host).await;
    assert_eq!(answer(&client, to).await.as_deref(), Some("first:hello"));

    // A neighbour does not reach it by the host's addresses.
    let neighbour = Tenant::up(launch("gpurent-test/tools:1"), &password()).await;
    let ask = format!(
        "python3 -c \"
import socket
gateway = [l.split() for l in open('/proc/net/route') if l.split()[1] == '00000000'][0][2]
gateway = socket.inet_ntoa(bytes.fromhex(gateway)[::-1])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
try: s.sendto(b'neighbour', (gateway, {host})); print(s.recv(64))
except OSError: print('nothing')
\""
    );
    assert_eq!(neighbour.says(&ask).await, "nothing");
    neighbour.gone().await;
    first.gone().await;

    let second = echoes("second", host).await;
    assert_eq!(answer(&client, to).await.as_deref(), Some("second:hello"));
    second.gone().await;
}

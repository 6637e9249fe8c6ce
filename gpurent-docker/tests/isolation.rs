//! A tenant reaches the world, and nothing of the host, the cloud's metadata or its neighbours.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::net::TcpListener;

use gpurent_core::model::PortBinding;
use gpurent_core::model::port::WEB;
use gpurent_core::runtime::{ContainerRuntime, Isolation};
use gpurent_docker::AccessDir;
use support::{Tenant, docker, free_port, launch, password, runtime, text};
use tokio::process::Command;

async fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().await.unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {done:?}");
}

/// The world outside: a network namespace behind a cable, where somebody answers on port 80.
struct World {
    name: String,
    server: tokio::process::Child,
}

const WORLD: &str = "198.18.77.2";

impl World {
    async fn new() -> Self {
        let name = format!("gpw{:05}", std::process::id() % 100_000);
        let (here, there) = (format!("{name}a"), format!("{name}b"));
        ip(&["netns", "add", &name]).await;
        ip(&["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &name]).await;
        ip(&["addr", "add", "198.18.77.1/30", "dev", &here]).await;
        ip(&["link", "set", &here, "up"]).await;
        ip(&["-n", &name, "addr", "add", &format!("{WORLD}/30"), "dev", &there]).await;
        ip(&["-n", &name, "link", "set", &there, "up"]).await;
        let answer = "while true; do echo the world | busybox nc -l -p 80; done";
        let server = Command::new("ip")
            .args(["netns", "exec", &name, "busybox", "sh", "-c", answer])
            // What a failed test leaves must not hold somebody's pipe open.
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { name, server }
    }

    async fn end(mut self) {
        self.server.kill().await.unwrap();
        // What the server started lives in the namespace, and nowhere else.
        let inside = Command::new("ip").args(["netns", "pids", &self.name]).output().await.unwrap();
        for pid in text(&inside).lines() {
            assert!(Command::new("kill").args(["-9", pid]).status().await.unwrap().code().is_some());
        }
        ip(&["netns", "del", &self.name]).await;
    }
}

/// Whether the world answers there, seen from the host: between two connections its server begins anew.
async fn connects(address: &str) -> bool {
    for _ in 0..50 {
        if tokio::net::TcpStream::connect((address, 80)).await.is_ok() {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    false
}

/// Whether something answers there, seen from inside the tenant.
async fn reaches(tenant: &Tenant, address: &str, port: u16) -> bool {
    let connect = format!(
        "echo | busybox timeout 3 busybox nc -w 2 {address} {port} >/tmp/heard; echo $? $(busybox wc -c </tmp/heard)"
    );
    let said = text(&tenant.ssh("mySecurePassword123", &connect).await);
    assert!(said.split_whitespace().count() == 2, "{said}");
    // Connected, or heard anything at all.
    said.starts_with("0 ") || !said.ends_with(" 0")
}

/// What needs no connection: datagrams, to one and to all, and IPv6.
async fn speaks_to_nobody(neighbour: &Tenant, gateway: &str) {
    let tenant = Tenant::up(launch("gpurent-test/tools:1"), &password()).await;
    let listener = Tenant::up(launch("gpurent-test/tools:1"), &password()).await;
    assert_eq!(tenant.says("grep -c eth0 /proc/net/if_inet6").await, "0", "no address of IPv6");
    let hears = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let port = hears.local_addr().unwrap().port();
    let mut datagram = [0; 64];
    let from_here = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
    from_here.send_to(b"host", (gateway, port)).await.unwrap();
    assert_eq!(hears.recv(&mut datagram).await.unwrap(), 4, "whoever is meant to reach it does");
    // A neighbour listens for everything: one port, mDNS, broadcasts.
    let listen = "nohup python3 -c \"
import select, socket
def on(port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('', port)); return s
m = on(5353)
m.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton('224.0.0.251') + socket.inet_aton('0.0.0.0'))
all = [m, on(9999)]; open('/tmp/heard', 'w')
while True:
    for s in select.select(all, [], [])[0]: open('/tmp/heard', 'ab').write(s.recv(64) + b' ')
\" >/dev/null 2>&1 &";
    listener.says(listen).await;
    let own = "for n in $(seq 50); do [ -e /tmp/heard ] && break; sleep 0.1; done; echo own >/dev/udp/127.0.0.1/9999; sleep 0.3; cat /tmp/heard";
    assert!(listener.says(&format!("bash -c '{own}'")).await.contains("own"), "it listens");
    let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = docker(&["inspect", "--format", address, &listener.container]).await;
    let broadcast = format!("{}.255.255", gateway.split('.').take(2).collect::<Vec<_>>().join("."));
    let speak = format!(
        "python3 -c \"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for to in [('{address}', 9999), ('{address}', 5353), ('255.255.255.255', 9999), ('{broadcast}', 9999),
           ('224.0.0.251', 5353), ('224.0.0.1', 9999), ('{gateway}', {port}), ('198.18.77.1', {port})]:
    try: s.sendto(b'tenant', to)
    except OSError: pass
for to in ['::ffff:{address}', '::ffff:{gateway}']:
    try: socket.create_connection((to, 22), 1); print('OPEN', to)
    except OSError: pass
\""
    );
    assert_eq!(tenant.says(&speak).await, "");
    // The engine's own name server answers questions, and is nobody's to fill with connections.
    let names = "python3 -c \"
import socket
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(10)
u.sendto(bytes.fromhex('4711010000010000000000000967707572656e742d78000001' + '0001'), ('127.0.0.11', 53))
print(len(u.recv(512)) > 0)
held = []
for n in range(60):
    s = socket.socket(); s.settimeout(0.2)
    try: s.connect(('127.0.0.11', 53)); held.append(s)
    except OSError: pass
print(len(held))
\"";
    let said = tenant.says(names).await;
    let (answered, connections) = said.split_once('\n').unwrap_or((&said, ""));
    assert!(answered == "True" && connections.parse::<u32>().is_ok_and(|n| (1..=17).contains(&n)), "{said}");
    let heard = tokio::time::timeout(std::time::Duration::from_secs(2), hears.recv(&mut datagram)).await;
    assert!(heard.is_err(), "the host hears {:?}", String::from_utf8_lossy(&datagram));
    assert!(!listener.says("cat /tmp/heard").await.contains("tenant"), "a neighbour hears it");
    assert_eq!(neighbour.says("echo still here").await, "still here");
    listener.gone().await;
    tenant.gone().await;
}

#[tokio::test]
async fn a_tenant_reaches_the_world_but_not_the_host_the_metadata_or_its_neighbours() {
    assert_eq!(runtime().await.isolate().await.unwrap(), Isolation::Enforced);
    let world = World::new().await;

    let mut with_web = launch("gpurent-test/busybox:1");
    let web = free_port();
    with_web.ports.push(PortBinding::tcp(WEB, web));
    let neighbour = Tenant::up(with_web, &password()).await;
    let serve = "nohup busybox sh -c 'while true; do echo neighbour | busybox nc -l -p 8080; done' >/dev/null 2>&1 &";
    neighbour.ssh("mySecurePassword123", serve).await;
    let inspect = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}";
    let addresses = docker(&["inspect", "--format", inspect, &neighbour.container]).await;
    let (address, gateway) = addresses.split_once(' ').unwrap();

    // The host's own service, on all addresses; and one that poses as a cloud's metadata.
    let service = TcpListener::bind("0.0.0.0:0").unwrap();
    let service_port = service.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in service.incoming() {
            // Whoever has gone already need not be told.
            drop(std::io::Write::write_all(&mut stream.unwrap(), b"the host\n"));
        }
    });
    // Answered by the host itself, so that only a rule can be what keeps tenants off.
    ip(&["addr", "replace", "169.254.169.254/32", "dev", "lo"]).await;

    let tenant = Tenant::up(launch("gpurent-test/busybox:1"), &password()).await;
    let ssh = neighbour.launch.ssh_port().unwrap().get();
    // The operator's own network, beyond this host.
    ip(&["netns", "exec", &world.name, "ip", "addr", "add", "10.77.77.2/32", "dev", "lo"]).await;
    ip(&["route", "replace", "10.77.77.2/32", "via", WORLD]).await;
    // Whoever is meant to reach it does: from the host, the published ports answer.
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", web.get())).await.is_ok());
    assert!(tokio::net::TcpStream::connect((gateway, service_port)).await.is_ok());
    assert!(connects("10.77.77.2").await, "the operator's network is there");
    let mut tries = 0;
    while !reaches(&tenant, WORLD, 80).await {
        tries += 1;
        assert!(tries < 20, "the world is there");
    }
    for (what, address, port) in [
        ("a neighbour's address", address, 8080),
        ("a neighbour's SSH", address, 22),
        ("a neighbour's published port", gateway, web.get()),
        ("a neighbour's published SSH", gateway, ssh),
        ("the same by the host's other address", "198.18.77.1", web.get()),
        ("the tenant's own published port", gateway, tenant.launch.ssh_port().unwrap().get()),
        ("a service of the host", gateway, service_port),
        ("the same by the host's other address", "198.18.77.1", service_port),
        ("the operator's own network", "10.77.77.2", 80),
        ("the metadata address", "169.254.169.254", service_port),
    ] {
        assert!(!reaches(&tenant, address, port).await, "{what}: {address}:{port}");
    }
    speaks_to_nobody(&neighbour, gateway).await;
    // Nor does a probe. Of rules that look right and do not hold, it is the probe that tells.
    let prober = runtime().await;
    let probes = async || docker(&["ps", "-aq", "--filter", "name=gpurent-probe"]).await;
    let before = probes().await;
    assert_eq!(prober.probe_isolation().await.unwrap(), Isolation::Enforced);
    let first = |how: &'static str| ["-w", "5", how, "GPURENT-HOST", "-j", "RETURN"];
    assert!(Command::new("iptables").args(first("-I")).status().await.unwrap().success());
    let probed = prober.probe_isolation().await.unwrap();
    assert!(matches!(&probed, Isolation::Degraded(why) if why.contains("host's own services")), "{probed:?}");
    assert!(Command::new("iptables").args(first("-D")).status().await.unwrap().success());
    assert_eq!(prober.probe_isolation().await.unwrap(), Isolation::Enforced);
    assert!(probes().await.lines().all(|left| before.contains(left)), "nothing is left of them");
    // Rules that somebody flushes come back.
    let delete = ["-w", "5", "-D", "INPUT", "-i", "gpurent0", "-j", "GPURENT-HOST"];
    assert!(Command::new("iptables").args(delete).status().await.unwrap().success());
    assert!(reaches(&tenant, gateway, service_port).await, "without the rule it is open");
    assert_eq!(runtime().await.isolate().await.unwrap(), Isolation::Enforced);
    assert!(!reaches(&tenant, gateway, service_port).await);

    // So do rules that others' come before.
    let accept = async |how: &str| {
        let rule = ["-w", "5", how, "INPUT", "-i", "gpurent0", "-j", "ACCEPT"];
        assert!(Command::new("iptables").args(rule).status().await.unwrap().success());
    };
    accept("-I").await;
    assert!(reaches(&tenant, gateway, service_port).await, "behind another rule it is open");
    assert_eq!(runtime().await.isolate().await.unwrap(), Isolation::Enforced);
    assert!(!reaches(&tenant, gateway, service_port).await);
    accept("-D").await;
    // Neighbours are kept apart also where the kernel does not filter what a bridge passes on (usual beside libvirt).
    let filtered = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    std::fs::write(filtered, "0").unwrap();
    let reached = reaches(&tenant, address, 8080).await;
    std::fs::write(filtered, "1").unwrap();
    assert!(!reached, "over the bridge");

    ip(&["addr", "del", "169.254.169.254/32", "dev", "lo"]).await;
    tenant.gone().await;
    neighbour.gone().await;
    world.end().await;
}

#[tokio::test]
async fn an_engine_without_rules_says_so() {
    let runtime = runtime().await.without_firewall();
    assert!(matches!(runtime.isolate().await.unwrap(), Isolation::Degraded(_)));
    assert!(matches!(runtime.isolation(), Isolation::Degraded(why) if why.contains("switched off")));
}

#[tokio::test]
async fn an_access_folder_that_others_may_enter_is_refused_and_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let open = std::path::Path::new("/dev/shm/gpurent-test-open-to-all");
    std::fs::create_dir_all(open).unwrap();
    std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(AccessDir::new(open).is_err());
    assert_eq!(std::fs::metadata(open).unwrap().permissions().mode() & 0o777, 0o755);
    std::fs::remove_dir(open).unwrap();
    let on_disk = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap();
    let refused = AccessDir::new(on_disk.path()).expect_err("secrets would reach a disk");
    assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported);
}

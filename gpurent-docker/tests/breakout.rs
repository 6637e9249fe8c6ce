//! What root in a rented container tries against the kernel, the engine and the host's own files: every attempt fails, and
//! in the way that was meant.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::Duration;

use gpurent_core::id::RentalId;
use gpurent_core::runtime::{ContainerRuntime, LaunchSpec};
use gpurent_docker::DockerRuntime;
use support::image::Image;
use support::{Silent, Tenant, access_dir, docker, launch, password, runtime, secrets};

/// Attempts in Python, each a line `NAME ERRNO`, or `NAME OPEN` where it succeeded. Numbers of system calls are x86-64's.
const ATTEMPTS: &str = r#"
import ctypes, errno, os, socket, stat
c = ctypes.CDLL(None, use_errno=True)
def told(name, error): print(name, errno.errorcode.get(error, error))
def call(name, number, *arguments):
    ctypes.set_errno(0)
    result = c.syscall(number, *[ctypes.c_void_p(a) if a is None else a for a in arguments])
    print(name, 'OPEN') if result >= 0 else told(name, ctypes.get_errno())
def py(name, attempt):
    try: attempt(); print(name, 'OPEN')
    except OSError as error: told(name, error.errno)
py('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
py('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
py('audit', lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9))
py('vsock', lambda: socket.socket(40, socket.SOCK_STREAM))
call('thread-apart', 56, 0x10b00, 0, 0, 0, 0)
call('io_uring', 425, 8, ctypes.create_string_buffer(256))
buffer = ctypes.create_string_buffer(256)
call('mount', 165, b'none', b'/mnt', b'tmpfs', 0, None)
for folder in (b'/.gpurent/kit', b'/.gpurent/access'):
    call('remount', 165, None, folder, None, 0x1020, None)
for folder in (b'/.gpurent/kit', b'/.gpurent/access', b'/.gpurent/run', b'/proc'):
    call('umount', 166, folder, 2)
for flags in (0x10000000, 0x20000, 0x40000000): call('unshare', 272, flags)
call('setns', 308, os.open('/proc/self/ns/mnt', os.O_RDONLY), 0)
py('mknod-mem', lambda: os.mknod('/tmp/c', 0o600 | stat.S_IFCHR, os.makedev(1, 1)))
py('mknod-disk', lambda: os.mknod('/tmp/b', 0o600 | stat.S_IFBLK, os.makedev(8, 0)))
for path in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/sys/kernel/modprobe', '/sys/power/state'):
    py('write-' + path, lambda: open(path, 'w').write('x'))
hierarchy = '/sys/fs/cgroup/memory/x' if os.path.isdir('/sys/fs/cgroup/memory') else '/sys/fs/cgroup/x'
py('mkdir-cgroup', lambda: os.mkdir(hierarchy))
py('kmsg', lambda: open('/dev/kmsg'))
call('syslog', 103, 3, buffer, 64)
call('bpf', 321, 0, buffer, 64)
call('perf', 298, buffer, 0, -1, -1, 0)
call('userfaultfd', 323, 0)
call('keyctl', 250, 0, -3, 0)
call('handle', 304, -100, buffer, 0)
call('module', 175, buffer, 8, b'')
call('kexec', 246, 0, 0, None, 0)
for path in ('/.gpurent/kit/x', '/.gpurent/access/x', '/.gpurent/access/spec'):
    py('write-' + path, lambda: open(path, 'w'))
py('chmod-kit', lambda: os.chmod('/.gpurent/kit/access', 0o777))
py('remove-kit', lambda: os.remove('/.gpurent/kit/access'))
for path in ('/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock'):
    py('socket-' + path, lambda: os.stat(path))
print('kcore', len(open('/proc/kcore', 'rb').read(16)))
print('access', ' '.join(sorted(os.listdir('/.gpurent/access'))))
"#;

impl Tenant {
    async fn tries(&self, script: &str) -> String {
        self.says(&format!("python3 - <<'END'\n{script}\nEND")).await
    }
}

#[tokio::test]
async fn root_in_a_container_gets_no_further() {
    let tenant = Tenant::ready(launch("gpurent-test/tools:1")).await;
    let said = tenant.tries(ATTEMPTS).await;
    assert!(said.lines().count() > 35, "{said}");
    for line in said.lines() {
        let (name, outcome) = line.split_once(' ').unwrap_or((line, ""));
        match name {
            "kcore" => assert_eq!(outcome, "0", "{said}"),
            "access" => assert!(outcome.split(' ').all(|file| ["spec", "line"].contains(&file)), "{said}"),
            "audit" => assert_eq!(outcome, "EPROTONOSUPPORT"),
            "vsock" => assert_eq!(outcome, "EAFNOSUPPORT"),
            "io_uring" => assert_eq!(outcome, "ENOSYS"),
            _ => assert!(["EPERM", "EACCES", "EROFS", "ENOSYS", "ENOENT"].contains(&outcome), "{line}\n{said}"),
        }
    }
    assert!(
        tenant.says("nsenter -t 1 -m true; echo $?; unshare -Ur true; echo $?").await.lines().all(|code| code != "0")
    );
    // A program that is set to run as root does not, for anybody else.
    let set_uid = "cp /usr/bin/id /tmp/sid; chmod 4755 /tmp/sid; python3 -c \"import os; os.setuid(1000); os.execl('/tmp/sid', 'sid', '-u')\"";
    assert_eq!(tenant.says(set_uid).await, "1000");
    // Nothing of the host is there but these two, and they cannot be written to.
    let mounts =
        docker(&["inspect", "--format", "{{range .Mounts}}{{.Destination}} {{.RW}}\n{{end}}", &tenant.container]).await;
    let mut mounts: Vec<_> = mounts.lines().collect();
    mounts.sort_unstable();
    assert_eq!(mounts, ["/.gpurent/access false", "/.gpurent/kit false"]);
    let source = "{{range .Mounts}}{{if eq .Destination \"/.gpurent/access\"}}{{.Source}}{{end}}{{end}}";
    let source = docker(&["inspect", "--format", source, &tenant.container]).await;
    assert!(
        source.starts_with(access_dir().path().to_str().unwrap())
            && source.contains(&tenant.launch.id.rental.to_string())
    );
    let neighbour = Tenant::ready(launch("gpurent-test/tools:1")).await;
    let seen = tenant.says("cat /proc/self/mountinfo /proc/self/cgroup; ls /.gpurent /.gpurent/access").await;
    assert!(!seen.contains(&neighbour.launch.id.rental.to_string()), "{seen}");
    neighbour.gone().await;
    tenant.gone().await;
}

/// A working folder that is one of the engine's own open ones leads nowhere (CVE-2024-21626).
#[tokio::test]
async fn a_working_folder_is_no_way_out() {
    let canary = format!("/gpurent-canary-{}", RentalId::generate());
    std::fs::write(&canary, "canary").unwrap();
    for n in 7..=9 {
        let look = format!(r#"CMD ["/bin/sh", "-c", "pwd; cat ../../../../../..{canary}; exec sleep 1000"]"#);
        let image =
            Image::busybox(&format!("fd-{n}")).says(&format!("WORKDIR /proc/self/fd/{n}")).says(&look).made().await;
        let runtime = runtime().await;
        let launch = launch(&image);
        bring_up(&runtime, &launch).await;
        let said = runtime.logs(launch.id, 100).await.unwrap().join("\n");
        assert!(!said.contains("canary"), "{n}: {said}");
        runtime.remove(launch.id).await.unwrap();
    }
    std::fs::remove_file(&canary).unwrap();
}

/// Brings a container up as far as it comes.
async fn bring_up(runtime: &DockerRuntime, launch: &LaunchSpec) {
    let up = async {
        runtime.prepare(launch, None, &Silent).await?;
        runtime.create(launch, &secrets(&password())).await?;
        runtime.start(launch).await?;
        runtime.verify(launch, Duration::from_secs(10)).await
    };
    // Whether it comes up or is refused is the engine's business; it must tell nothing.
    drop(up.await);
}

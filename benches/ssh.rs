//! How long do a login and an upload take, beside Debian's own `sshd` as a service on the same machine? The same client,
//! the same kind of key; the tenant's server is `sshd -i` behind our listener and the engine's proxy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use gpurent_benches::host::{BenchHost, valid};
use gpurent_benches::{Subject, compare, rounds};
use gpurent_core::model::{ContainerLimits, CredentialRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// A server and the key that it lets in by.
#[derive(Clone)]
struct Server {
    port: u16,
    key: PathBuf,
}

impl Server {
    fn ssh(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        ssh.args(["-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-i"]).arg(&self.key);
        ssh.args(["-p", &self.port.to_string(), "root@127.0.0.1"]).kill_on_drop(true);
        ssh
    }

    /// A login with a command that does nothing.
    async fn login(&self) -> Duration {
        let begun = Instant::now();
        let status = valid(self.ssh().arg("true").stdin(Stdio::null()).status().await);
        assert!(status.success(), "the login works");
        begun.elapsed()
    }

    /// So many at the same time: until the last is done.
    async fn logins(&self, count: usize) -> Duration {
        join_all((0..count).map(|_| self.login())).await.into_iter().max().unwrap_or_default()
    }

    /// So many bytes into the server's void.
    async fn upload(&self, bytes: usize) -> Duration {
        let begun = Instant::now();
        let mut ssh = valid(self.ssh().arg("cat >/dev/null").stdin(Stdio::piped()).spawn());
        let Some(mut input) = ssh.stdin.take() else { return Duration::ZERO };
        let block = vec![0x5a; 256 * 1024];
        for _ in 0..bytes / block.len() {
            valid(input.write_all(&block).await);
        }
        drop(input);
        assert!(valid(ssh.wait().await).success(), "the upload works");
        begun.elapsed()
    }

    /// The same server at the end of a long line.
    async fn far_away(&self, round_trip: Duration) -> Self {
        let listener = valid(TcpListener::bind("127.0.0.1:0").await);
        let near = valid(listener.local_addr()).port();
        let far = SocketAddr::from(([127, 0, 0, 1], self.port));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = valid(TcpStream::connect(far).await);
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(delayed(from_client, to_server, round_trip / 2));
                tokio::spawn(delayed(from_server, to_client, round_trip / 2));
            }
        });
        Self { port: near, ..self.clone() }
    }
}

/// Passes on what comes, each byte so much later.
async fn delayed(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, delay: Duration) {
    let (send, mut receive) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(4096);
    tokio::spawn(async move {
        while let Some((at, bytes)) = receive.recv().await {
            tokio::time::sleep_until((at + delay).into()).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer).await {
        if length == 0 || send.send((Instant::now(), buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn key(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status().await;
    assert!(valid(made).success(), "a key is made");
    path
}

/// Debian's `sshd` as a service, with a configuration of its own.
async fn service(folder: &Path, key_file: PathBuf) -> (Child, Server) {
    let host_key = key(folder, "host").await;
    let port = 29_922;
    let config = folder.join("config");
    let text = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}.pub\nUsePAM no\nStrictModes no\n\
         PermitRootLogin yes\nPidFile none\nMaxStartups 100\nPerSourceMaxStartups none\n",
        host_key.display(),
        key_file.display()
    );
    valid(std::fs::write(&config, text));
    valid(std::fs::create_dir_all("/run/sshd"));
    // Without what this machine's own root has in its home: a renter's shell reads no such files either.
    let begin = "mount -t tmpfs none /root && exec /usr/sbin/sshd -D -e -f \"$0\"";
    let mut sshd = Command::new("unshare");
    let child = sshd.args(["-m", "sh", "-c", begin]).arg(&config).stderr(Stdio::null()).kill_on_drop(true).spawn();
    tokio::time::sleep(Duration::from_secs(1)).await;
    (valid(child), Server { port, key: key_file })
}

/// The figures that are measured of a server.
type Work = fn(Server) -> BoxFuture<'static, Duration>;

async fn ask(question: &str, rounds: usize, ours: &Server, theirs: &Server, work: Work) {
    let subject = |server: &Server| {
        let server = server.clone();
        Box::new(move || {
            let work = work(server.clone());
            Box::pin(async move { vec![work.await] }) as BoxFuture<'static, Vec<Duration>>
        })
    };
    let subjects: Vec<Subject<'_>> = vec![
        ("a rental", subject(ours)),
        ("sshd as a service", subject(theirs)),
        ("sshd as a service (A/A)", subject(theirs)),
    ];
    compare(question, rounds, subjects).await;
}

#[tokio::main]
async fn main() {
    let folder = valid(tempfile::tempdir());
    let key_file = key(folder.path(), "id").await;
    let (_service, theirs) = service(folder.path(), key_file.clone()).await;
    let host = BenchHost::start("ssh", 1, true, "29000-29099").await;
    let mut request = host.request("1h");
    request.spec.limits = valid(ContainerLimits::default().with_memory_bytes(1 << 30));
    let up = host.up_with(request).await;
    let keys = valid(valid(std::fs::read_to_string(key_file.with_extension("pub"))).parse());
    valid(host.rentals.change_access(up.id, CredentialRequest::PublicKeys(keys)).await);
    let rental = loop {
        let rental = valid(host.rentals.get(up.id).await).filter(|rental| !rental.access_outdated());
        if let Some(rental) = rental {
            break rental;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let port = rental.ssh_port().map(|port| port.get()).unwrap_or_default();
    let ours = Server { port, key: key_file };
    ask("ssh host true", rounds(60), &ours, &theirs, |server| Box::pin(async move { server.login().await })).await;
    ask("16 logins at once", rounds(10), &ours, &theirs, |server| Box::pin(async move { server.logins(16).await }))
        .await;
    ask("200 MB up", rounds(6), &ours, &theirs, |server| Box::pin(async move { server.upload(200 << 20).await })).await;
    let line = Duration::from_millis(100);
    let (ours, theirs) = (ours.far_away(line).await, theirs.far_away(line).await);
    ask("5 MB up over 100 ms", rounds(6), &ours, &theirs, |server| {
        Box::pin(async move { server.upload(5 << 20).await })
    })
    .await;
    host.down(up.id).await;
}

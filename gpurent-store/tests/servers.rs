//! PostgreSQL as people run it: a server that is restarted under load, one that another takes over from, TLS with an authority
//! of one's own, passwords, a role without rights; and what is said of what will never work. Each test has servers of its own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use std::error::Error as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gpurent_core::id::HostId;
use gpurent_core::store::{HostOwnership, HostStore, Store as _, StoreError};
use gpurent_store::{PostgresStore, SqliteStore};
use tokio::net::{TcpListener, TcpStream};

/// A server of PostgreSQL in a folder of its own. Stopped when it is dropped.
struct Server {
    directory: tempfile::TempDir,
    port: u16,
}

impl Server {
    /// A new, empty one, whose superuser is called `owner`; `settings` are lines of its configuration.
    fn new(settings: &str) -> Self {
        let server = Self::place();
        server.run("initdb", &["-U", "owner", "--auth=scram-sha-256", "--no-sync", "-E", "UTF8", "--pwfile"], "secret");
        server.configure(settings);
        server.start();
        server
    }

    /// A standby of another one.
    fn standby(of: &Self) -> Self {
        let server = Self::place();
        let from = format!("postgres://owner:secret@127.0.0.1:{}/postgres", of.port);
        server.as_postgres("pg_basebackup", &["-D", server.data().to_str().unwrap(), "-R", "-c", "fast", "-d", &from]);
        server.configure("");
        server.start();
        server
    }

    fn place() -> Self {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        run(Command::new("chown").arg("postgres").arg(directory.path()));
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        Self { directory, port }
    }

    fn configure(&self, settings: &str) {
        let port = self.port;
        let all = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\nfsync = off\n{settings}\n"
        );
        let file = self.directory.path().join("settings.conf");
        std::fs::write(&file, all).unwrap();
        run(Command::new("chown").arg("postgres").arg(&file));
        let include = format!("include = '{}'\n", file.display());
        let main = self.data().join("postgresql.conf");
        let former = std::fs::read_to_string(&main).unwrap();
        std::fs::write(
            &main,
            former.lines().filter(|line| !line.starts_with("include =")).fold(include, |all, line| all + line + "\n"),
        )
        .unwrap();
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn run(&self, program: &str, arguments: &[&str], password: &str) {
        let file = self.directory.path().join("password");
        std::fs::write(&file, password).unwrap();
        run(Command::new("chown").arg("postgres").arg(&file));
        let data = self.data();
        let arguments: Vec<_> =
            arguments.iter().copied().chain([file.to_str().unwrap(), "-D", data.to_str().unwrap()]).collect();
        self.as_postgres(program, &arguments);
    }

    fn as_postgres(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
        run(command.arg(programs().join(program)).args(arguments));
    }

    fn control(&self, arguments: &[&str]) {
        let (data, log) = (self.data(), self.directory.path().join("log"));
        let own = ["-D", data.to_str().unwrap(), "-l", log.to_str().unwrap(), "-w", "-s"];
        self.as_postgres("pg_ctl", &[&own, arguments].concat());
    }

    fn start(&self) {
        self.control(&["start"]);
    }

    fn stop(&self) {
        self.control(&["-m", "immediate", "stop"]);
    }

    /// Runs statements as the superuser.
    async fn ask(&self, statements: &'static str) {
        let pool = sqlx::PgPool::connect(&self.url("owner:secret", "postgres")).await.unwrap();
        sqlx::raw_sql(statements).execute(&pool).await.unwrap();
        pool.close().await;
    }

    fn url(&self, login: &str, database: &str) -> String {
        format!("postgres://{login}@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stop = ["-D", self.data().to_str().unwrap(), "-m", "immediate", "-s", "stop"].map(str::to_owned);
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
        // It may have been stopped by the test.
        drop(command.arg(programs().join("pg_ctl")).args(stop).output());
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Where Debian keeps the newest server's programs.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed: run scripts/services up");
    versions.map(|version| version.unwrap().path().join("bin")).max().unwrap()
}

/// An address that leads to whichever server it is told. Connections that stand are not moved.
struct Address {
    at: SocketAddr,
    leads_to: Arc<Mutex<u16>>,
}

impl Address {
    async fn of(server: &Server) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let leads_to = Arc::new(Mutex::new(server.port));
        let leads = Arc::clone(&leads_to);
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let port = *leads.lock().unwrap();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { at, leads_to }
    }

    fn lead_to(&self, server: &Server) {
        *self.leads_to.lock().unwrap() = server.port;
    }

    fn url(&self) -> String {
        format!("postgres://owner:secret@{}/postgres", self.at)
    }
}

fn host() -> HostId {
    "h1".parse().unwrap()
}

/// Asks until the host is confirmed, for at most 20 s.
async fn confirmed(store: &PostgresStore, owner: HostOwnership) {
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.confirm(&host(), owner).await {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert!(Instant::now() < until, "{error:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What an error says, with its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told += &format!(": {cause}");
        source = cause.source();
    }
    told
}

async fn misconfigured(url: &str) -> String {
    match PostgresStore::connect(url).await {
        Err(StoreError::Misconfigured(cause)) => with_causes(&*cause),
        Err(other) => panic!("{url}: {other:?}"),
        Ok(_) => panic!("{url}: works"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_load_is_got_over() {
    let server = Server::new("");
    let store = Arc::new(PostgresStore::connect(&server.url("owner:secret", "postgres")).await.unwrap());
    let ownership = store.acquire_host(&host(), &"e1".parse().unwrap(), None).await.unwrap();
    let load = (0..8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let until = Instant::now() + Duration::from_secs(6);
            let (mut answers, mut told_why) = (0_u32, Vec::new());
            while Instant::now() < until {
                match store.confirm(&host(), ownership).await {
                    Ok(()) => answers += 1,
                    Err(error) => told_why.push(with_causes(&error)),
                }
            }
            (answers, told_why)
        })
    });
    let load: Vec<_> = load.collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.start();
    for one in load {
        let (answers, _) = one.await.unwrap();
        assert!(answers > 100, "{answers}");
    }
    confirmed(&store, ownership).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_by_its_cause() {
    let server = Server::new("");
    let store = PostgresStore::connect(&server.url("owner:secret", "postgres")).await.unwrap();
    server.stop();
    let host = host();
    let errors = futures_util::future::join_all((0..20).map(|_| store.last_acted(&host))).await;
    let last = store.last_acted(&host).await.unwrap_err();
    assert!(errors.iter().all(Result::is_err));
    assert!(with_causes(&last).contains("refused"), "{}", with_causes(&last));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_takes_over() {
    let former = Server::new("");
    let address = Address::of(&former).await;
    let store = PostgresStore::connect(&address.url()).await.unwrap();
    let ownership = store.acquire_host(&host(), &"e1".parse().unwrap(), None).await.unwrap();
    let standby = Server::standby(&former);
    former.stop();
    address.lead_to(&standby);
    // A standby reads, and takes no writes.
    let refused = loop {
        match store.resign(&host(), ownership).await.unwrap_err() {
            error if with_causes(&error).contains("read-only") => break error,
            error => assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}"),
        }
    };
    assert!(matches!(refused, StoreError::Unavailable(_)));
    standby.control(&["promote"]);
    confirmed(&store, ownership).await;
    let next = store.acquire_host(&host(), &"e1".parse().unwrap(), None).await.unwrap();
    assert_eq!(next.epoch.get(), ownership.epoch.get() + 1, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_standby_are_left_when_the_address_leads_elsewhere() {
    let primary = Server::new("");
    let address = Address::of(&primary).await;
    let store = PostgresStore::connect(&address.url()).await.unwrap();
    let ownership = store.acquire_host(&host(), &"e1".parse().unwrap(), None).await.unwrap();
    let standby = Server::standby(&primary);
    address.lead_to(&standby);
    primary.control(&["restart"]);
    // While the address leads to the standby, connections are made to it.
    let until = Instant::now() + Duration::from_secs(20);
    while !store.resign(&host(), ownership).await.is_err_and(|error| with_causes(&error).contains("read-only")) {
        assert!(Instant::now() < until, "the standby was not reached");
    }
    address.lead_to(&primary);
    confirmed(&store, ownership).await;
    store.resign(&host(), ownership).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_for_good_say_what_to_do() {
    let server = Server::new("");
    server.ask("CREATE ROLE poor LOGIN PASSWORD 'x'; REVOKE CREATE ON DATABASE postgres FROM PUBLIC").await;
    for (login, database, says) in [
        ("owner:secret", "nowhere", "createdb"),
        ("owner:wrong", "postgres", "pg_hba.conf"),
        ("nobody:secret", "postgres", "pg_hba.conf"),
        ("poor:x", "postgres", "GRANT CREATE ON DATABASE"),
        ("owner:secret", "postgres?sslmode=require", "sslmode=prefer"),
        ("owner:secret", "postgres?sslmode=nonsense", "address"),
    ] {
        let told = misconfigured(&server.url(login, database)).await;
        assert!(told.contains(says), "{login} {database}: {told}");
        assert!(!told.contains("secret") && !told.contains("wrong"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_the_right_to_create_uses_what_was_made_for_it() {
    let server = Server::new("");
    let tables = "GRANT USAGE ON SCHEMA gpurent TO poor;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA gpurent TO poor;
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA gpurent TO poor";
    server.ask("CREATE ROLE poor LOGIN PASSWORD 'x'").await;
    PostgresStore::connect(&server.url("owner:secret", "postgres")).await.unwrap();
    assert!(misconfigured(&server.url("poor:x", "postgres")).await.contains("all rights in the schema gpurent"));
    server.ask(tables).await;
    let store = PostgresStore::connect(&server.url("poor:x", "postgres")).await.unwrap();
    store.acquire_host(&host(), &"e1".parse().unwrap(), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_newer_version_are_left_alone() {
    let server = Server::new("");
    let url = server.url("owner:secret", "postgres");
    assert!(PostgresStore::connect_as_is(&url).await.unwrap().is_none());
    let made = server.ask("DO $$ BEGIN ASSERT to_regnamespace('gpurent') IS NULL; END $$");
    made.await;
    PostgresStore::connect(&url).await.unwrap();
    assert!(PostgresStore::connect_as_is(&url).await.unwrap().is_some());
    server.ask("DELETE FROM gpurent._migrations WHERE version = (SELECT max(version) FROM gpurent._migrations)").await;
    assert!(PostgresStore::connect_as_is(&url).await.unwrap().is_none(), "an older version's");
    server.ask("INSERT INTO gpurent._migrations VALUES (999, 'future', now(), true, '\\x00', 0)").await;
    assert!(misconfigured(&url).await.contains("newer program"));
    assert!(PostgresStore::connect_as_is(&url).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_ones_own_is_trusted_where_it_is_named() {
    let certificates = Certificates::new();
    let settings = format!(
        "ssl = on\nssl_cert_file = '{0}/cert.pem'\nssl_key_file = '{0}/key.pem'",
        certificates.path().display()
    );
    let server = Server::new(&settings);
    let with = |parameters: &str| server.url("owner:secret", &format!("postgres?{parameters}"));
    let ours = certificates.path().join("ca.pem").display().to_string();
    PostgresStore::connect(&with(&format!("sslmode=verify-full&sslrootcert={ours}"))).await.unwrap();
    PostgresStore::connect(&with("sslmode=require")).await.unwrap();
    let told = misconfigured(&with("sslmode=verify-full")).await;
    assert!(told.contains("sslrootcert"), "{told}");
    let told = misconfigured(&with("sslmode=verify-full&sslrootcert=/nowhere/ca.pem")).await;
    assert!(told.contains("sslrootcert"), "{told}");
}

/// A certificate for 127.0.0.1 and the authority that signed it, as the server may read them.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = directory.path();
        std::fs::write(at.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
        for step in [
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ca-key.pem -out ca.pem -subj /CN=ours",
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request.pem -subj /CN=server",
            "x509 -req -days 2 -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -extfile names -out cert.pem",
        ] {
            run(Command::new("openssl").args(step.split(' ')).current_dir(at));
        }
        run(Command::new("chown").args(["-R", "postgres"]).arg(at));
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

#[tokio::test]
async fn files_that_will_never_do_are_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    std::fs::write(file("notes.txt"), "this is no database, but notes of somebody's".repeat(100)).unwrap();
    for path in [file("notes.txt"), file("notes.txt/db"), file("nowhere/db"), directory.path().to_owned()] {
        let error = SqliteStore::open(&path).await.err().unwrap();
        assert!(matches!(error, StoreError::Misconfigured(_)), "{}: {error:?}", path.display());
        assert!(error.source().is_some());
    }
}

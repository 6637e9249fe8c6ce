//! A real `gpurent-host` on a real Docker Engine and a real PostgreSQL, as an operator would start it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]
#![allow(dead_code, reason = "each test file uses a part")]

pub mod engine;
pub mod postgres;

use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

pub fn environment(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run scripts/test, or eval $(scripts/services env)"))
}

/// A client; reqwest wants to be told which cryptography TLS would use, also where there is none.
pub fn http() -> reqwest::Client {
    // Only fails where it was done before.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::new()
}

/// A client that sends these with every request.
pub fn http_with(headers: reqwest::header::HeaderMap) -> reqwest::Client {
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().default_headers(headers).build().unwrap()
}

pub async fn database() -> PgPool {
    PgPool::connect(&environment("DATABASE_URL")).await.expect("the database answers")
}

/// What the engine's own client says.
pub async fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A port below the range from which the kernel takes those of outgoing connections, and above our pools:
/// it stays free while a crashed host is down.
pub fn free_port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let salt = u16::try_from(std::process::id() % 4000).unwrap();
    loop {
        let port = 24_000 + (salt + NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) % 8000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A range of ports for the SSH of one host's tenants. Hosts of tests share an engine and know nothing of each other: one would
/// find a port taken that it gave to a container which does not run yet.
fn ssh_ports() -> String {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let first = 20_000 + NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 15 * 200;
    format!("{first}-{}", first + 199)
}

/// A host's settings; they outlive its processes.
pub struct Machine {
    pub host_id: String,
    pub listen: String,
    pub port: u16,
    pub ssh_ports: String,
    pub gpus: String,
    pub data_dir: String,
    pub access_timeout: String,
    /// The value of `--access-dir`.
    pub access_dir: String,
    /// The value of `--registries`: those of the tests are this machine's.
    pub registries: String,
    /// What `--database` is given.
    pub database: String,
    pub lock_dir: String,
    /// What `--docker` is given.
    pub docker: String,
    /// What the host's program is started by, and what it finds in its environment.
    pub wrapper: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// More settings.
    pub settings: Vec<String>,
    data: TempDir,
    pub client: reqwest::Client,
}

impl Machine {
    pub fn new(gpus: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let unique = data.path().file_name().unwrap().to_string_lossy().replace('.', "");
        Self {
            access_dir: format!("/dev/shm/it-{unique}"),
            host_id: format!("it-{unique}"),
            registries: "any".to_owned(),
            listen: "127.0.0.1".to_owned(),
            port: free_port(),
            ssh_ports: ssh_ports(),
            gpus: gpus.to_owned(),
            access_timeout: "30s".to_owned(),
            database: environment("DATABASE_URL"),
            data_dir: data.path().to_string_lossy().into_owned(),
            lock_dir: data.path().to_string_lossy().into_owned(),
            docker: environment("DOCKER_HOST"),
            wrapper: Vec::new(),
            environment: Vec::new(),
            settings: Vec::new(),
            data,
            client: http(),
        }
    }

    /// Lets the host keep its rentals in its own file, as it does where no database is named.
    pub fn on_sqlite(mut self) -> Self {
        self.database = String::new();
        self
    }

    /// Starts the host, and waits until it serves and acts.
    pub async fn start(&self) -> Host<'_> {
        let host = self.spawn(None);
        host.wait_until_up().await;
        host
    }

    /// Starts the host without waiting for anything.
    pub fn start_at_once(&self) -> Host<'_> {
        self.spawn(None)
    }

    /// Starts a host that will kill itself at a boundary.
    pub async fn start_doomed(&self, failpoint: &str) -> Host<'_> {
        let host = self.spawn(Some(failpoint));
        host.wait_until_up().await;
        host
    }

    fn spawn(&self, failpoint: Option<&str>) -> Host<'_> {
        let log = self.log_path();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let program = env!("CARGO_BIN_EXE_gpurent-host").to_owned();
        let mut words = self.wrapper.iter().chain([&program]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            // Tests ask as fast as they can; what is said of limits is said where it is meant.
            .env("GPURENT_RATE_LIMIT", "0")
            .env("GPURENT_SSH_PORTS", &self.ssh_ports)
            .envs(self.environment.iter().cloned())
            .arg("serve")
            .args(["--listen", &format!("{}:{}", self.listen, self.port)])
            .args(["--database", &self.database, "--docker", &self.docker])
            .args(["--access-dir", &self.access_dir, "--registries", &self.registries])
            .args(["--gpus", &self.gpus, "--host-id", &self.host_id])
            .args(["--data-dir", &self.data_dir, "--lock-dir", &self.lock_dir])
            .args(&self.settings)
            .args(["--access-timeout", &self.access_timeout])
            .args(["--web-ports", "8100-8999", "--rate", "RTX 5090=3.60", "--rate", "V100=3.60"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        if let Some(failpoint) = failpoint {
            command.env("GPURENT_FAILPOINT", failpoint);
        }
        Host { machine: self, child: command.spawn().unwrap() }
    }

    /// Starts a host that will kill itself at a boundary, without waiting for anything.
    pub fn start_doomed_at_once(&self, failpoint: &str) -> Host<'_> {
        self.spawn(Some(failpoint))
    }

    /// Lets a rental have ended so many days before now.
    pub async fn age(&self, id: &str, days: i32) {
        let query = "
            WITH earlier AS (SELECT now() AT TIME ZONE 'utc' - $2 * interval '1 day' AS at)
            UPDATE gpurent.rental SET ended_at = extract(epoch FROM earlier.at) * 1000000,
                   body = jsonb_set(body, '{state,at}', to_jsonb(to_char(earlier.at, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')))
            FROM earlier WHERE id = $1::uuid";
        let aged = sqlx::query(query).bind(id).bind(days).execute(&database().await).await.unwrap();
        assert_eq!(aged.rows_affected(), 1);
    }

    /// Lets the database forget all of this host's rentals, as one that was restored from an older backup.
    pub async fn forget_everything(&self) {
        if self.database.is_empty() {
            for file in ["gpurent.db", "gpurent.db-wal", "gpurent.db-shm"] {
                // The two others may be gone with the last connection.
                drop(std::fs::remove_file(format!("{}/{file}", self.data_dir)));
            }
            return;
        }
        let database = PgPool::connect(&self.database).await.expect("the database answers");
        for table in ["event", "gpu_hold", "port_hold", "idempotency", "log_tail", "tag"] {
            let query = format!("DELETE FROM gpurent.{table} WHERE host_id = $1");
            sqlx::query(sqlx::AssertSqlSafe(query)).bind(&self.host_id).execute(&database).await.unwrap();
        }
        for table in ["credential", "usage_segment"] {
            let query = format!(
                "DELETE FROM gpurent.{table} WHERE rental_id IN (SELECT id FROM gpurent.rental WHERE host_id = $1)"
            );
            sqlx::query(sqlx::AssertSqlSafe(query)).bind(&self.host_id).execute(&database).await.unwrap();
        }
        let query = "DELETE FROM gpurent.rental WHERE host_id = $1";
        sqlx::query(query).bind(&self.host_id).execute(&database).await.unwrap();
    }

    /// Starts a host that is expected to refuse.
    pub async fn run_to_end(&self) -> std::process::ExitStatus {
        let mut host = self.spawn(None);
        tokio::time::timeout(Duration::from_secs(20), host.child.wait()).await.expect("it ends by itself").unwrap()
    }

    fn log_path(&self) -> std::path::PathBuf {
        self.data.path().join("host.log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The names of this host's containers, in any state.
    pub async fn containers(&self) -> Vec<String> {
        let filter = format!("label=io.gpurent.host={}", self.host_id);
        let names = docker(&["-H", &self.docker, "ps", "-a", "--filter", &filter, "--format", "{{.Names}}"]).await;
        names.lines().map(str::to_owned).collect()
    }

    /// What this host's rentals hold, by the database's own word.
    pub async fn holds(&self) -> i64 {
        let query = "SELECT (SELECT count(*) FROM gpurent.gpu_hold WHERE host_id = $1)
                          + (SELECT count(*) FROM gpurent.port_hold WHERE host_id = $1)
                          + (SELECT count(*) FROM gpurent.credential JOIN gpurent.rental ON id = rental_id WHERE host_id = $1)";
        if self.database.is_empty() {
            let file = format!("sqlite://{}/gpurent.db", self.data_dir);
            let pool = sqlx::SqlitePool::connect(&file).await.unwrap();
            let query = "SELECT (SELECT count(*) FROM gpurent_gpu_hold) + (SELECT count(*) FROM gpurent_port_hold)
                              + (SELECT count(*) FROM gpurent_credential)";
            return sqlx::query_scalar(query).fetch_one(&pool).await.unwrap();
        }
        let database = PgPool::connect(&self.database).await.expect("the database answers");
        sqlx::query_scalar(query).bind(&self.host_id).fetch_one(&database).await.unwrap()
    }

    /// A rental's state by the word of its database on SQLite.
    pub async fn show_stored(&self, id: &str) -> String {
        let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}/gpurent.db", self.data_dir)).await.unwrap();
        let query = "SELECT phase FROM gpurent_rental WHERE id = $1";
        sqlx::query_scalar(query).bind(id).fetch_one(&pool).await.unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let response = self.client.post(self.url(path)).json(body).send().await.unwrap();
        let status = response.status();
        (status, response.json().await.unwrap())
    }

    pub async fn get(&self, path: &str) -> Value {
        self.client.get(self.url(path)).send().await.unwrap().json().await.unwrap()
    }

    pub async fn rent(&self, body: &Value) -> String {
        let (status, made) = self.post("/v1/rentals", body).await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    pub async fn show(&self, id: &str) -> Value {
        self.get(&format!("/v1/rentals/{id}")).await
    }

    pub async fn cancel(&self, id: &str) {
        let response = self.client.delete(self.url(&format!("/v1/rentals/{id}"))).send().await.unwrap();
        assert!(response.status().is_success(), "{response:?}");
    }

    /// Waits until the rental is in one of these states.
    pub async fn until(&self, id: &str, states: &[&str], within: Duration) -> Value {
        let begun = Instant::now();
        loop {
            let rental = self.show(id).await;
            if states.iter().any(|state| rental["state"] == *state) {
                return rental;
            }
            assert!(begun.elapsed() < within, "not {states:?} in time: {rental}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Nothing of this host is left anywhere.
    pub async fn assert_clean(&self) {
        assert_eq!(self.containers().await, Vec::<String>::new(), "{}", self.log());
        assert_eq!(self.holds().await, 0, "{}", self.log());
        let handed_over = std::fs::read_dir(format!("/dev/shm/{}", self.host_id)).map_or(0, Iterator::count);
        assert_eq!(handed_over, 0, "credentials that nobody needs any more");
    }

    pub async fn listen(&self) -> WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>> {
        tokio_tungstenite::connect_async(format!("ws://127.0.0.1:{}/ws", self.port)).await.unwrap().0
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A folder that was never made need not go.
        drop(std::fs::remove_dir_all(format!("/dev/shm/{}", self.host_id)));
    }
}

/// A running host.
pub struct Host<'a> {
    machine: &'a Machine,
    child: Child,
}

impl Host<'_> {
    pub async fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().await.unwrap().success());
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// How it ended by itself.
    pub async fn ended(&mut self, within: Duration) -> std::process::ExitStatus {
        let status = tokio::time::timeout(within, self.child.wait()).await;
        status.unwrap_or_else(|_| panic!("still alive:\n{}", self.machine.log())).unwrap()
    }

    pub async fn wait_until_up(&self) {
        self.wait_for_health(|status, _| status == 200).await;
    }

    /// Waits until the host's health is as wanted, and tells its status and how it is.
    pub async fn wait_for_health(&self, is_wanted: impl Fn(u16, &Value) -> bool) -> (u16, Value) {
        let begun = Instant::now();
        loop {
            if let Ok(answer) = self.machine.client.get(self.machine.url("/health")).send().await {
                let status = answer.status().as_u16();
                // It may be killed in the middle of its answer.
                let health = answer.json().await.unwrap_or_default();
                if is_wanted(status, &health) {
                    return (status, health);
                }
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "the host does not come up:\n{}", self.machine.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for the process to be killed.
    pub async fn died(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        let status = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("still alive:\n{}", self.machine.log())).unwrap();
        assert_eq!(status.signal(), Some(9), "{}", self.machine.log());
    }

    /// Asks the process to end, as an init system would.
    pub async fn terminate(&mut self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        let status = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        assert!(status.expect("it ends in time").unwrap().success(), "{}", self.machine.log());
    }
}

/// The next message of the `rent` WebSocket that tells a status.
pub async fn next_status(socket: &mut WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>) -> Value {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(60), socket.next()).await.expect("a message in time");
        if let Message::Text(text) = message.expect("the socket is open").unwrap() {
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["status"] != "live_update" {
                return message;
            }
        }
    }
}

/// Logs in and runs a command, as a renter would.
pub async fn ssh(port: u64, user: &str, password: &str, command: &str) -> std::process::Output {
    Command::new("sshpass")
        .env("SSHPASS", password)
        .args(["-e", "ssh", "-o", "PubkeyAuthentication=no", "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10"])
        .args(["-p", &port.to_string(), &format!("{user}@127.0.0.1"), command])
        .output()
        .await
        .unwrap()
}

/// A registry that accepts and never answers: the name of an image of it, and its task.
pub async fn silent_registry() -> (String, tokio::task::JoinHandle<()>) {
    let registry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = format!("127.0.0.1:{}/stalls:1", registry.local_addr().unwrap().port());
    let accepting = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = registry.accept().await {
            held.push(stream);
        }
    });
    (image, accepting)
}

pub fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub fn request(image: &str, duration: &str) -> Value {
    json!({"gpu": "RTX 5090", "image": image, "duration": duration, "auth": {"password": "canary-password-4711"}})
}

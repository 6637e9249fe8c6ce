//! What the tests against a real engine share. They fail where there is none: a test that could not run
//! is a failure, not a skip.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]
#![allow(dead_code, reason = "each test file uses a part")]

pub mod image;

use std::net::{Ipv4Addr, TcpListener};
use std::process::Output;

use gpurent_core::id::{Attempt, HostId, LaunchId, RentalId};
use gpurent_core::memory::SimulatedGpus;
use gpurent_core::model::port::SSH;
use gpurent_core::model::{
    Credential, GeneratedHostKeys, Gpu, HostKeySource, HostPort, LoginUser, Password, PortBinding, Secrets,
};
use gpurent_core::runtime::{ContainerRuntime, LaunchSpec, Progress, PullProgress};
use gpurent_docker::{AccessDir, AccessKit, DockerRuntime, Registries};
use tokio::process::Command;

pub fn engine() -> String {
    std::env::var("DOCKER_HOST").expect("DOCKER_HOST: run scripts/test, or eval $(scripts/services env)")
}

pub async fn runtime() -> DockerRuntime {
    let kit = AccessKit::from_host().await.expect("the kit's programs are installed");
    let runtime = DockerRuntime::connect(engine().as_str(), kit).await.expect("the engine answers");
    // Those of the tests are this machine's.
    runtime.with_registries(Registries::Any)
}

/// A folder in memory.
pub fn access_dir() -> AccessDir {
    AccessDir::new(std::path::Path::new("/dev/shm/gpurent-test-access")).unwrap()
}

pub fn free_port() -> HostPort {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    HostPort::try_from(listener.local_addr().unwrap().port()).unwrap()
}

pub fn launch(image: &str) -> LaunchSpec {
    let id = LaunchId { rental: RentalId::generate(), attempt: Attempt::new(1) };
    let host: HostId = format!("test-{}", id.rental).parse().unwrap();
    let gpus: Vec<Gpu> = SimulatedGpus::new(&host, 1, "RTX 5090".parse().unwrap()).gpus().to_vec();
    LaunchSpec {
        carries_files: false,
        asks_registry: false,
        id,
        host,
        image: image.parse().unwrap(),
        gpus,
        ports: vec![PortBinding::tcp(SSH, free_port())],
        environment: [("PYTHONPATH".to_owned(), "/workspace".to_owned())]
            .into_iter()
            .collect::<std::collections::BTreeMap<_, _>>()
            .try_into()
            .unwrap(),
        limits: Default::default(),
        login: LoginUser::default(),
        claim: None,
        labels: Default::default(),
        init: None,
        workspace: None,
    }
}

/// Secrets with this credential and host keys of their own.
pub fn secrets(credential: &Credential) -> Secrets {
    Secrets { credential: credential.clone(), host_keys: GeneratedHostKeys.next(), registry: None }
}

pub fn password() -> Credential {
    Credential::Password(Password::new("mySecurePassword123".to_owned()).unwrap())
}

pub struct Silent;

impl PullProgress for Silent {
    fn update(&self, _progress: Progress) {}
}

/// A container that runs and is verified; removed with [`Tenant::gone`].
pub struct Tenant {
    pub runtime: DockerRuntime,
    pub launch: LaunchSpec,
    pub container: String,
}

impl Tenant {
    pub async fn up(launch: LaunchSpec, credential: &Credential) -> Self {
        Self::up_with(launch, credential, false).await
    }

    /// `bind`: the credentials come in over the access folder.
    pub async fn up_with(launch: LaunchSpec, credential: &Credential, bind: bool) -> Self {
        let mut runtime = runtime().await;
        if bind {
            runtime = runtime.with_access_dir(access_dir());
        }
        Self::up_on(runtime, launch, credential).await
    }

    pub async fn up_on(runtime: DockerRuntime, launch: LaunchSpec, credential: &Credential) -> Self {
        runtime.prepare(&launch, None, &Silent).await.unwrap();
        let created = runtime.create(&launch, &secrets(credential)).await.unwrap();
        runtime.start(&launch).await.unwrap();
        runtime.verify(&launch, std::time::Duration::from_secs(20)).await.unwrap();
        Self { runtime, launch, container: created.container.to_string() }
    }

    /// As production does it: credentials and requests go over the access folder.
    pub async fn ready(launch: LaunchSpec) -> Self {
        Self::up_with(launch, &password(), true).await
    }

    /// As far as it comes: what keeps an image from being ready.
    pub async fn refused(launch: LaunchSpec) -> gpurent_core::runtime::RuntimeError {
        Self::refused_on(runtime().await.with_access_dir(access_dir()), launch).await
    }

    /// The same on a runtime of the test's own.
    pub async fn refused_on(runtime: DockerRuntime, launch: LaunchSpec) -> gpurent_core::runtime::RuntimeError {
        let brought_up = async {
            runtime.prepare(&launch, None, &Silent).await?;
            runtime.create(&launch, &secrets(&password())).await?;
            runtime.start(&launch).await?;
            runtime.verify(&launch, std::time::Duration::from_secs(15)).await
        };
        let error = brought_up.await.expect_err(launch.image.as_str());
        runtime.remove(launch.id).await.unwrap();
        error
    }

    /// An ssh command line with these options, which logs in by the password.
    pub fn client(&self, options: &[&str]) -> Command {
        let mut ssh = Command::new("sshpass");
        ssh.env("SSHPASS", "mySecurePassword123").args(["-e", "ssh", "-o", "PubkeyAuthentication=no"]).args(options);
        self.connect(&mut ssh);
        ssh.kill_on_drop(true);
        ssh
    }

    /// What a command says to its renter.
    pub async fn says(&self, command: &str) -> String {
        text(&self.ssh("mySecurePassword123", command).await)
    }

    /// The program's output so far.
    pub async fn log(&self) -> String {
        self.runtime.logs(self.launch.id, 1000).await.unwrap().join("\n")
    }

    /// The program's output once a line of it is this.
    pub async fn log_until(&self, line: &str) -> String {
        for _ in 0..100 {
            let log = self.log().await;
            if log.lines().any(|found| found == line) {
                return log;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        self.log().await
    }

    /// Logs in and runs a command, as a renter would.
    pub async fn ssh(&self, password: &str, command: &str) -> Output {
        let mut ssh = Command::new("sshpass");
        ssh.env("SSHPASS", password).args(["-e", "ssh"]).args(["-o", "PubkeyAuthentication=no"]);
        self.connect(&mut ssh).arg(command).output().await.unwrap()
    }

    pub async fn ssh_with_key(&self, key: &str, command: &str) -> Output {
        let mut ssh = Command::new("ssh");
        ssh.args(["-i", key, "-o", "PasswordAuthentication=no", "-o", "IdentitiesOnly=yes"]);
        self.connect(&mut ssh).arg(command).output().await.unwrap()
    }

    pub fn connect<'a>(&self, ssh: &'a mut Command) -> &'a mut Command {
        ssh.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .args(["-o", "ConnectTimeout=10", "-p", &self.launch.ssh_port().unwrap().to_string()])
            .arg(format!("{}@127.0.0.1", self.launch.login.as_str()))
    }

    pub async fn gone(self) {
        self.runtime.remove(self.launch.id).await.unwrap();
    }
}

/// Whether a command is among processes as `docker top -eo pid,args` shows them.
pub fn is_among(processes: &str, command: &str) -> bool {
    processes.lines().any(|line| line.split_once(' ').is_some_and(|(_, found)| found.trim() == command))
}

/// What the engine's own client says.
pub async fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

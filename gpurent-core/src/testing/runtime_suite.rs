//! The clauses that every [`ContainerRuntime`] has to keep. Each works on a host of its own, so all may share
//! an engine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use crate::allocation::Written;
use crate::clock::{BootId, BootTime, Moment};
use crate::id::{Attempt, HostId, LaunchId, RentalId};
use crate::memory::SimulatedGpus;
use crate::model::port::SSH;
use crate::model::{
    Claim, Credential, CredentialKind, Files, GeneratedHostKeys, Gpu, GpuRequest, HostKeySource, HostPort, ImageRef,
    LoginUser, Password, PortBinding, RentalSpec, Secrets,
};
use crate::runtime::{
    ContainerRuntime, ContainerStatus, InspectedContainer, LaunchSpec, Progress, PullProgress, RuntimeError,
};
use crate::testing::valid;

/// Makes one test of every clause: `runtime_suite!(BLOCK_ON, MAKE)`. `BLOCK_ON` runs a future to its end on
/// any executor; `MAKE` is called for each test and gives a future of a
/// [`Fixture`].
#[macro_export]
macro_rules! runtime_suite {
    ($block_on:expr, $make:expr) => {
        $crate::runtime_suite!(@clauses $block_on, $make;
            the_engine_says_who_it_is,
            a_container_lives_and_leaves_no_trace,
            every_step_may_be_repeated,
            a_name_that_belongs_to_another_spec_is_refused,
            starting_what_is_not_there_says_so,
            stopping_what_is_not_there_is_done_already,
            what_was_never_started_has_no_exit,
            an_exit_is_recorded_by_the_engine,
            only_the_hosts_own_containers_are_observed,
            a_container_carries_its_claim,
            attempts_are_told_apart,
            a_running_container_takes_another_credential,
            the_renter_is_told_inside_the_container,
            a_notice_ends_the_program_and_not_the_container,
            the_last_lines_of_output_are_told,
            what_a_container_writes_is_measured,
            what_was_put_away_is_started_again_as_it_is,
            on_other_ports_the_files_are_copied,
            nothing_that_is_late_reaches_what_was_put_away,
            a_launch_whose_files_are_gone_says_so,
        );
    };
    (@clauses $block_on:expr, $make:expr; $($clause:ident),* $(,)?) => {
        $(
            #[test]
            fn $clause() {
                let make = $make;
                ($block_on)(async move {
                    let fixture = make().await;
                    $crate::testing::runtime_suite::$clause(fixture).await;
                });
            }
        )*
    };
}

/// The sight that a renter has of a container, from outside of the runtime: what is said to be done has to be seen there.
#[async_trait]
pub trait RenterView: Send + Sync {
    /// Whether a renter gets in by this credential now.
    async fn gets_in(&self, launch: &LaunchSpec, credential: &Credential) -> bool;
    /// The text that the renter is told inside, the latest message included.
    async fn reads(&self, launch: &LaunchSpec) -> String;
    /// Whether the image's program ends within a few seconds.
    async fn program_ends(&self, launch: &LaunchSpec) -> bool;
    /// Has a program print a line to the container's output, and returns once it is there.
    async fn print(&self, launch: &LaunchSpec, line: &str);
}

/// A runtime and what it can run.
pub struct Fixture<R> {
    /// The runtime.
    pub runtime: Arc<R>,
    /// An image it can run.
    pub image: ImageRef,
    /// A host port for SSH that nobody else uses during the test.
    pub ssh_port: HostPort,
    /// The sight that renters have of its containers.
    pub renter: Arc<dyn RenterView>,
}

struct Silent;

impl PullProgress for Silent {
    fn update(&self, _progress: Progress) {}
}

const CLAUSE_TIMEOUT: Duration = Duration::from_secs(30);

impl<R: ContainerRuntime> Fixture<R> {
    fn launch(&self) -> LaunchSpec {
        let host: HostId = valid(format!("suite-{}", Uuid::new_v4()).parse());
        let gpus: Vec<Gpu> = SimulatedGpus::new(&host, 1, valid("RTX 5090".parse())).gpus().to_vec();
        LaunchSpec {
            id: LaunchId { rental: RentalId::generate(), attempt: Attempt::new(1) },
            host,
            image: self.image.clone(),
            gpus,
            ports: vec![PortBinding::tcp(SSH, self.ssh_port)],
            environment: Default::default(),
            limits: Default::default(),
            login: LoginUser::default(),
            labels: Default::default(),
            init: None,
            workspace: None,
            carries_files: false,
            asks_registry: false,
            claim: None,
        }
    }

    async fn up_to_created(&self) -> LaunchSpec {
        self.up_to_created_with(&secrets()).await
    }

    async fn up_to_created_with(&self, secrets: &Secrets) -> LaunchSpec {
        let launch = self.launch();
        valid(self.runtime.prepare(&launch, None, &Silent).await);
        valid(self.runtime.create(&launch, secrets).await);
        launch
    }

    async fn up(&self) -> LaunchSpec {
        self.up_with(&secrets()).await
    }

    async fn up_with(&self, secrets: &Secrets) -> LaunchSpec {
        let launch = self.up_to_created_with(secrets).await;
        valid(self.runtime.start(&launch).await);
        valid(self.runtime.verify(&launch, CLAUSE_TIMEOUT).await);
        launch
    }

    async fn presence(&self, launch: &LaunchSpec) -> Option<ContainerStatus> {
        valid(self.runtime.observe(&launch.host).await).of(launch.id).map(|seen| seen.status.clone())
    }

    async fn clean_up(&self, launch: &LaunchSpec) {
        valid(self.runtime.remove(launch.id).await);
        assert_eq!(self.presence(launch).await, None);
    }
}

fn secrets() -> Secrets {
    Secrets {
        credential: Credential::Password(Password::generate()),
        host_keys: GeneratedHostKeys.next(),
        registry: None,
    }
}

/// The engine's identity is the same whenever it is asked.
pub async fn the_engine_says_who_it_is<R: ContainerRuntime>(fixture: Fixture<R>) {
    assert_eq!(valid(fixture.runtime.engine().await), valid(fixture.runtime.engine().await));
}

/// Up, verified, down, gone.
pub async fn a_container_lives_and_leaves_no_trace<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.up_to_created().await;
    assert_eq!(fixture.presence(&launch).await, Some(ContainerStatus::Created));
    let started_at = valid(fixture.runtime.start(&launch).await);
    valid(fixture.runtime.verify(&launch, CLAUSE_TIMEOUT).await);
    assert_eq!(fixture.presence(&launch).await, Some(ContainerStatus::Running));
    let exit = valid(fixture.runtime.stop(launch.id, Duration::ZERO).await);
    assert!(exit.is_some_and(|exit| exit.finished_at >= started_at));
    fixture.clean_up(&launch).await;
}

/// A crash repeats the step it interrupted: the second time finds it done.
pub async fn every_step_may_be_repeated<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.up_to_created().await;
    let first = valid(fixture.runtime.create(&launch, &secrets()).await);
    let second = valid(fixture.runtime.create(&launch, &secrets()).await);
    assert_eq!(first.container, second.container);
    let started = valid(fixture.runtime.start(&launch).await);
    assert_eq!(valid(fixture.runtime.start(&launch).await), started);
    valid(fixture.runtime.verify(&launch, CLAUSE_TIMEOUT).await);
    valid(fixture.runtime.signal_stop(launch.id).await);
    valid(fixture.runtime.signal_stop(launch.id).await);
    let exit = valid(fixture.runtime.stop(launch.id, Duration::ZERO).await);
    assert_eq!(valid(fixture.runtime.stop(launch.id, Duration::ZERO).await), exit);
    valid(fixture.runtime.remove(launch.id).await);
    fixture.clean_up(&launch).await;
}

/// A container of the same name that was made of something else is not ours to use.
pub async fn a_name_that_belongs_to_another_spec_is_refused<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.up_to_created().await;
    let other = LaunchSpec { gpus: Vec::new(), ..launch.clone() };
    let refused = fixture.runtime.create(&other, &secrets()).await;
    assert!(matches!(refused, Err(RuntimeError::Refused(_))), "{refused:?}");
    fixture.clean_up(&launch).await;
}

/// A container that vanished is not made again by starting it.
pub async fn starting_what_is_not_there_says_so<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.launch();
    let started = fixture.runtime.start(&launch).await;
    assert!(matches!(started, Err(RuntimeError::Missing)), "{started:?}");
    let verified = fixture.runtime.verify(&launch, Duration::from_secs(1)).await;
    assert!(matches!(verified, Err(RuntimeError::Missing)), "{verified:?}");
}

/// Stopping a container that is absent already is done.
pub async fn stopping_what_is_not_there_is_done_already<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.launch();
    assert_eq!(valid(fixture.runtime.stop(launch.id, Duration::ZERO).await), None);
    fixture.clean_up(&launch).await;
}

/// Nothing is billed for a container that only existed.
pub async fn what_was_never_started_has_no_exit<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.up_to_created().await;
    assert_eq!(valid(fixture.runtime.stop(launch.id, Duration::ZERO).await), None);
    fixture.clean_up(&launch).await;
}

/// The end is what the engine recorded, however late it is asked.
pub async fn an_exit_is_recorded_by_the_engine<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.up_to_created().await;
    valid(fixture.runtime.start(&launch).await);
    let exit = valid(fixture.runtime.stop(launch.id, Duration::ZERO).await);
    assert_eq!(fixture.presence(&launch).await, exit.map(ContainerStatus::Exited));
    let verified = fixture.runtime.verify(&launch, CLAUSE_TIMEOUT).await;
    assert!(matches!(verified, Err(RuntimeError::Exited(_))), "{verified:?}");
    fixture.clean_up(&launch).await;
}

/// Two hosts on one engine do not see each other's containers.
pub async fn only_the_hosts_own_containers_are_observed<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.up_to_created().await;
    let elsewhere: HostId = valid(format!("suite-{}", Uuid::new_v4()).parse());
    assert!(valid(fixture.runtime.observe(&elsewhere).await).containers.is_empty());
    assert_eq!(valid(fixture.runtime.observe(&launch.host).await).containers.len(), 1);
    fixture.clean_up(&launch).await;
}

/// A container carries the claim that a rental can be made again from, in whatever state it is, and nothing secret.
pub async fn a_container_carries_its_claim<R: ContainerRuntime>(fixture: Fixture<R>) {
    let mut launch = fixture.launch();
    let claim = Claim {
        id: launch.id.rental,
        host: launch.host.clone(),
        name: valid("found".parse()),
        spec: RentalSpec::new(
            valid("renter".parse()),
            GpuRequest::one(valid("RTX 5090".parse())),
            launch.image.clone(),
            valid("1h".parse()),
        ),
        credential: CredentialKind::Password,
        gpus: launch.gpus.clone(),
        ports: launch.ports.clone(),
        quote: None,
        due: Timestamp::UNIX_EPOCH,
        at: Moment { wall: Timestamp::UNIX_EPOCH, boot: BootTime { boot: BootId("boot".to_owned()), micros: 0 } },
        used: jiff::SignedDuration::ZERO,
    };
    launch.claim = Some(Box::new(claim.clone()));
    valid(fixture.runtime.prepare(&launch, None, &Silent).await);
    let created = valid(fixture.runtime.create(&launch, &secrets()).await);
    let examined = |started_at| {
        let (container, claim) = (created.container.clone(), Box::new(claim.clone()));
        Some(InspectedContainer { container, claim, gpus_attached: created.gpus_attached, started_at, retained: None })
    };
    assert_eq!(valid(fixture.runtime.inspect(launch.id).await), examined(None));
    let started_at = valid(fixture.runtime.start(&launch).await);
    assert_eq!(valid(fixture.runtime.inspect(launch.id).await), examined(Some(started_at)));
    valid(fixture.runtime.stop(launch.id, Duration::ZERO).await);
    assert_eq!(valid(fixture.runtime.inspect(launch.id).await), examined(Some(started_at)));
    let observed = valid(fixture.runtime.observe(&launch.host).await);
    let seen = observed.of(launch.id).unwrap_or_else(|| panic!("it is there"));
    assert_eq!(seen.gpus, launch.gpus.iter().map(|gpu| gpu.uuid.clone()).collect::<Vec<_>>());
    assert_eq!(seen.ports, launch.ports.iter().map(|binding| binding.host).collect::<Vec<_>>());
    fixture.clean_up(&launch).await;
    assert_eq!(valid(fixture.runtime.inspect(launch.id).await), None);
}

/// Removing an old launch never hits a newer one.
pub async fn attempts_are_told_apart<R: ContainerRuntime>(fixture: Fixture<R>) {
    let first = fixture.up_to_created().await;
    let mut second = first.clone();
    second.id.attempt = first.id.attempt.next();
    valid(fixture.runtime.create(&second, &secrets()).await);
    valid(fixture.runtime.remove(first.id).await);
    assert_eq!(fixture.presence(&first).await, None);
    assert_eq!(fixture.presence(&second).await, Some(ContainerStatus::Created));
    fixture.clean_up(&second).await;
}

/// A credential may be replaced while the container runs, as often as one likes; the last one alone lets in.
pub async fn a_running_container_takes_another_credential<R: ContainerRuntime>(fixture: Fixture<R>) {
    let mut present = secrets();
    let launch = fixture.up_with(&present).await;
    assert!(fixture.renter.gets_in(&launch, &present.credential).await, "the first credential lets in");
    for _ in 0..2 {
        let before = std::mem::replace(&mut present, secrets());
        valid(fixture.runtime.replace_access(&launch, &present).await);
        assert!(fixture.renter.gets_in(&launch, &present.credential).await, "the new credential lets in");
        assert!(!fixture.renter.gets_in(&launch, &before.credential).await, "the one before lets in no more");
    }
    valid(fixture.runtime.verify(&launch, CLAUSE_TIMEOUT).await);
    fixture.clean_up(&launch).await;
    let gone = fixture.runtime.replace_access(&launch, &secrets()).await;
    assert!(matches!(gone, Err(RuntimeError::Missing)), "{gone:?}");
}

/// Messages are read in a container that runs, and say so where there is none.
pub async fn the_renter_is_told_inside_the_container<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.up().await;
    for message in ["the end is near; it's \"near\"", "it is not"] {
        valid(fixture.runtime.message_user(launch.id, message).await);
        let read = fixture.renter.reads(&launch).await;
        assert!(read.contains(message), "{read}");
    }
    fixture.clean_up(&launch).await;
    let gone = fixture.runtime.message_user(launch.id, "hello").await;
    assert!(matches!(gone, Err(RuntimeError::Missing)), "{gone:?}");
}

/// A program that is told to finish does, and its container goes on running: its renter may still be at work in it.
pub async fn a_notice_ends_the_program_and_not_the_container<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.up().await;
    assert!(!fixture.renter.program_ends(&launch).await, "nobody told it yet");
    valid(fixture.runtime.signal_stop(launch.id).await);
    assert!(fixture.renter.program_ends(&launch).await);
    assert_eq!(fixture.presence(&launch).await, Some(ContainerStatus::Running));
    fixture.clean_up(&launch).await;
}

/// As many of the last lines of output are told as are asked for; of a container that is not there, none.
pub async fn the_last_lines_of_output_are_told<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.up().await;
    for line in ["one", "two", "three"] {
        fixture.renter.print(&launch, line).await;
    }
    assert_eq!(valid(fixture.runtime.logs(launch.id, 2).await), ["two", "three"]);
    fixture.clean_up(&launch).await;
    assert!(valid(fixture.runtime.logs(launch.id, 2).await).is_empty());
}

/// The next launch of a rental that is resumed.
fn next(launch: &LaunchSpec) -> LaunchSpec {
    LaunchSpec { id: launch.id.next(), carries_files: true, ..launch.clone() }
}

/// With the same GPUs and ports, the rental's last container is its next one, whoever is killed in between.
pub async fn what_was_put_away_is_started_again_as_it_is<R: ContainerRuntime>(fixture: Fixture<R>) {
    let first = fixture.up_to_created().await;
    let made = valid(fixture.runtime.create(&first, &secrets()).await);
    valid(fixture.runtime.start(&first).await);
    valid(fixture.runtime.verify(&first, CLAUSE_TIMEOUT).await);
    let exit = valid(fixture.runtime.stop(first.id, Duration::ZERO).await);
    let retained = valid(fixture.runtime.retain(first.id).await);
    assert_eq!(
        retained.map(|retained| (retained.attempt, retained.container)),
        Some((first.id.attempt, made.container))
    );
    assert!(valid(fixture.runtime.retain(first.id).await).is_some(), "again");
    let observed = valid(fixture.runtime.observe(&first.host).await);
    assert!(observed.of(first.id).is_some_and(|seen| seen.retained), "{observed:?}");
    assert_eq!(valid(fixture.runtime.stop(first.id, Duration::ZERO).await), exit, "its end is still told");
    let second = next(&first);
    valid(fixture.runtime.prepare(&second, None, &Silent).await);
    let again = valid(fixture.runtime.create(&second, &secrets()).await);
    assert_eq!(
        (&again.container, again.files),
        (&valid(fixture.runtime.create(&second, &secrets()).await).container, Files::Same)
    );
    assert_eq!(fixture.presence(&first).await, None);
    assert_eq!(fixture.presence(&second).await, Some(ContainerStatus::Created));
    assert_eq!(valid(fixture.runtime.stop(second.id, Duration::ZERO).await), None, "it has not been started since");
    let started_at = valid(fixture.runtime.start(&second).await);
    assert_eq!(valid(fixture.runtime.start(&second).await), started_at);
    assert!(exit.is_some_and(|exit| exit.finished_at <= started_at), "the start is the second one");
    valid(fixture.runtime.verify(&second, CLAUSE_TIMEOUT).await);
    fixture.clean_up(&second).await;
    assert_eq!(fixture.presence(&first).await, None);
}

/// With other ports a new container has the files, and the old one stays until it is removed.
pub async fn on_other_ports_the_files_are_copied<R: ContainerRuntime>(fixture: Fixture<R>) {
    let first = fixture.up_to_created().await;
    valid(fixture.runtime.start(&first).await);
    valid(fixture.runtime.stop(first.id, Duration::ZERO).await);
    valid(fixture.runtime.retain(first.id).await);
    let other_gpus = SimulatedGpus::new(&first.host, 2, valid("RTX 5090".parse())).gpus()[1..].to_vec();
    let second = LaunchSpec { gpus: other_gpus, ..next(&first) };
    valid(fixture.runtime.prepare(&second, None, &Silent).await);
    assert_eq!(valid(fixture.runtime.create(&second, &secrets()).await).files, Files::Copied);
    let found = valid(fixture.runtime.create(&second, &secrets()).await);
    assert!(!found.is_new, "whoever is killed finds it made");
    valid(fixture.runtime.start(&second).await);
    valid(fixture.runtime.verify(&second, CLAUSE_TIMEOUT).await);
    assert_eq!(valid(fixture.runtime.observe(&first.host).await).containers.len(), 2);
    valid(fixture.runtime.remove(first.id).await);
    assert_eq!(fixture.presence(&second).await, Some(ContainerStatus::Running));
    fixture.clean_up(&second).await;
    // All that a rental ever had goes with its last launch.
    valid(fixture.runtime.create(&LaunchSpec { carries_files: false, ..first.clone() }, &secrets()).await);
    valid(fixture.runtime.retain(first.id).await);
    fixture.clean_up(&second).await;
    assert!(valid(fixture.runtime.observe(&first.host).await).containers.is_empty());
}

/// Requests for a launch that was put away find nothing of it.
pub async fn nothing_that_is_late_reaches_what_was_put_away<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.up_to_created().await;
    valid(fixture.runtime.start(&launch).await);
    valid(fixture.runtime.stop(launch.id, Duration::ZERO).await);
    valid(fixture.runtime.retain(launch.id).await);
    let started = fixture.runtime.start(&launch).await;
    assert!(matches!(started, Err(RuntimeError::Missing)), "{started:?}");
    let created = fixture.runtime.create(&LaunchSpec { carries_files: true, ..launch.clone() }, &secrets()).await;
    assert!(matches!(created, Err(RuntimeError::Unavailable(_))), "{created:?}");
    let examined = valid(fixture.runtime.inspect(launch.id).await);
    assert!(examined.is_none_or(|examined| examined.retained.is_some()), "it says that it was put away");
    fixture.clean_up(&launch).await;
}

/// Where somebody removed the last container, the next one begins anew and says so.
pub async fn a_launch_whose_files_are_gone_says_so<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = next(&fixture.launch());
    assert_eq!(valid(fixture.runtime.retain(launch.id).await), None);
    valid(fixture.runtime.prepare(&launch, None, &Silent).await);
    assert_eq!(valid(fixture.runtime.create(&launch, &secrets()).await).files, Files::Lost);
    fixture.clean_up(&launch).await;
}

/// The space that a container has written is told, without the image, as long as it runs.
pub async fn what_a_container_writes_is_measured<R: ContainerRuntime>(fixture: Fixture<R>) {
    let launch = fixture.up_to_created().await;
    let error = fixture.runtime.disk_use(&launch, Written::MAX).await.err();
    assert!(!matches!(error, Some(RuntimeError::Exited(_))), "one that does not run may be measured or not: {error:?}");
    valid(fixture.runtime.start(&launch).await);
    let used = valid(fixture.runtime.disk_use(&launch, Written::MAX).await);
    assert!(used.sum().bytes < 16 << 20, "what the image brought is not counted: {used:?}");
    fixture.clean_up(&launch).await;
    assert!(matches!(fixture.runtime.disk_use(&launch, Written::MAX).await, Err(RuntimeError::Missing)));
}

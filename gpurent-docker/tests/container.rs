//! What a tenant's container is, as the engine itself tells it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gpurent_core::runtime::{ContainerRuntime, Progress, PullProgress, RuntimeError};
use gpurent_docker::{AccessKit, DockerRuntime, LocalPorts, PullPatience};
use support::{Silent, Tenant, docker, engine, is_among, launch, password, secrets, text};

async fn field(container: &str, format: &str) -> String {
    docker(&["inspect", "--format", format, container]).await
}

#[tokio::test]
async fn exactly_the_claimed_gpus_are_asked_for() {
    let hook_log = std::env::var("GPURENT_HOOK_LOG").expect("GPURENT_HOOK_LOG: run scripts/test");
    let tenant = Tenant::up(launch("gpurent-test/busybox:1"), &password()).await;
    let requests = field(&tenant.container, "{{json .HostConfig.DeviceRequests}}").await;
    let gpu = &tenant.launch.gpus[0].uuid;
    assert!(requests.contains(&format!(r#""DeviceIDs":["{gpu}"]"#)), "{requests}");
    assert!(requests.contains(r#""Count":0"#) && requests.contains("gpu"), "{requests}");
    assert!(std::fs::read_to_string(hook_log).unwrap().contains("prestart"), "the engine called NVIDIA's hook");
    tenant.gone().await;
}

#[tokio::test]
async fn a_container_that_does_not_see_its_gpu_is_refused() {
    let mut launch = launch("gpurent-test/busybox:1");
    // Claimed as a real one; the stub hook lets the request pass and brings no device.
    launch.gpus[0].simulated = false;
    launch.gpus[0].device_node = Some(0);
    let runtime = support::runtime().await;
    runtime.prepare(&launch, None, &Silent).await.unwrap();
    runtime.create(&launch, &secrets(&password())).await.unwrap();
    runtime.start(&launch).await.unwrap();
    let verified = runtime.verify(&launch, Duration::from_secs(20)).await;
    assert!(
        matches!(&verified, Err(RuntimeError::WrongDevices { claimed, found }) if claimed == &[0] && found.is_empty()),
        "{verified:?}"
    );
    runtime.remove(launch.id).await.unwrap();
}

/// A tenant, root in the container, reaches neither the machine's hypervisor nor io_uring: the engine's own profile lets both
/// through before version 25. What everybody needs works.
#[tokio::test]
async fn sockets_to_the_hypervisor_and_io_uring_are_out_of_reach() {
    let tenant = Tenant::up(launch("gpurent-test/busybox:1"), &password()).await;
    let filters =
        text(&tenant.ssh("mySecurePassword123", "busybox grep Seccomp /proc/self/status /proc/1/status").await);
    // What the engine alone has set is what a command of its own has.
    let own =
        docker(&["exec", &tenant.container, "/bin/busybox", "grep", "Seccomp_filters", "/proc/self/status"]).await;
    let number = |line: &str| line.split_whitespace().last().and_then(|number| number.parse::<u32>().ok()).unwrap();
    let counts: Vec<_> = filters.lines().filter(|line| line.contains("Seccomp_filters:")).map(number).collect();
    assert_eq!(counts, [number(&own) + 1; 2], "{filters}");
    tenant.gone().await;
}

#[derive(Default)]
struct Told(std::sync::Mutex<Vec<Progress>>);

impl PullProgress for Told {
    fn update(&self, progress: Progress) {
        self.0.lock().unwrap().push(progress);
    }
}

#[tokio::test]
async fn a_pull_from_a_registry_is_told_in_bytes() {
    let registry = std::env::var("GPURENT_TEST_REGISTRY").expect("GPURENT_TEST_REGISTRY: run scripts/test");
    let launch = launch(&format!("{registry}/gpurent-test/pulled:1"));
    docker(&["rmi", "-f", launch.image.as_str()]).await;
    let told = Told::default();
    let runtime = support::runtime().await;
    runtime.prepare(&launch, None, &told).await.unwrap();
    let told = told.0.into_inner().unwrap();
    assert!(told.windows(2).all(|pair| pair[0].current_bytes <= pair[1].current_bytes), "{told:?}");
    let last = told.last().expect("something is told of every pull");
    assert!(last.current_bytes > 60_000_000 && last.current_bytes == last.total_bytes, "{told:?}");
    // And it runs.
    let credential = password();
    runtime.create(&launch, &secrets(&credential)).await.unwrap();
    runtime.start(&launch).await.unwrap();
    runtime.verify(&launch, Duration::from_secs(20)).await.unwrap();
    runtime.remove(launch.id).await.unwrap();
    docker(&["rmi", launch.image.as_str()]).await;
}

#[tokio::test]
async fn a_pull_without_progress_is_given_up() {
    // A registry that accepts and never answers.
    let registry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = format!("127.0.0.1:{}/stalls:1", registry.local_addr().unwrap().port());
    let accepting = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = registry.accept().await {
            held.push(stream);
        }
    });
    let runtime = support::runtime().await.with_pull_patience(PullPatience(Duration::from_secs(1)));
    let prepared = runtime.prepare(&launch(&image), None, &Silent).await;
    assert!(matches!(prepared, Err(RuntimeError::PullStalled { .. })), "{prepared:?}");
    accepting.abort();
}

#[tokio::test]
async fn every_tenant_is_hardened() {
    let tenant = Tenant::up(launch("gpurent-test/busybox:1"), &password()).await;
    let id = &tenant.container;
    for (format, expected) in [
        ("{{.HostConfig.Privileged}}", "false"),
        ("{{.HostConfig.CapDrop}}", "[NET_RAW MKNOD]"),
        ("{{.HostConfig.SecurityOpt}}", "[no-new-privileges]"),
        ("{{.HostConfig.PidsLimit}}", "4096"),
        ("{{.HostConfig.Init}}", "false"),
        ("{{.HostConfig.IpcMode}}", "private"),
        ("{{.HostConfig.RestartPolicy.Name}}", "no"),
        ("{{.HostConfig.LogConfig.Config}}", "map[max-file:3 max-size:10m]"),
        ("{{eq .HostConfig.Memory .HostConfig.MemorySwap}} {{gt .HostConfig.Memory 0}}", "true true"),
        ("{{.HostConfig.NetworkMode}}", "gpurent"),
        ("{{len .HostConfig.Binds}}", "0"),
    ] {
        assert_eq!(field(id, format).await, expected, "{format}");
    }
    let icc = docker(&["network", "inspect", "gpurent", "--format", "{{json .Options}}"]).await;
    assert!(icc.contains(r#""com.docker.network.bridge.enable_icc":"false""#), "{icc}");
    tenant.gone().await;
}

#[tokio::test]
async fn nothing_else_on_the_machine_acts_on_an_images_or_a_renters_word() {
    let image = support::image::Image::busybox("word")
        .says("LABEL traefik.enable=true ofelia.enabled=true io.gpurent.rental=mine")
        .says("ENV NVIDIA_MOFED=enabled NVIDIA_GDS=enabled NVIDIA_REQUIRE_CUDA=cuda>=1.0")
        .says(r#"CMD ["/bin/sleep", "1000"]"#);
    let mut launch = launch(&image.made().await);
    let label = ("com.centurylinklabs.watchtower.enable".to_owned(), "true".to_owned());
    launch.labels = BTreeMap::from([label]).try_into().unwrap();
    let tenant = Tenant::ready(launch).await;
    let labels = field(&tenant.container, "{{json .Config.Labels}}").await;
    let labels: BTreeMap<String, String> = serde_json::from_str(&labels).unwrap();
    assert_eq!((labels["traefik.enable"].as_str(), labels["ofelia.enabled"].as_str()), ("", ""));
    assert_eq!(labels["io.gpurent.rental"], tenant.launch.id.rental.to_string());
    assert_eq!(labels.get("com.centurylinklabs.watchtower.enable"), None);
    assert_eq!(labels["io.gpurent.label.com.centurylinklabs.watchtower.enable"], "true");
    let variables = field(&tenant.container, "{{json .Config.Env}}").await;
    let variables: Vec<String> = serde_json::from_str(&variables).unwrap();
    let has = |variable: &str| variables.iter().any(|found| found == variable);
    assert!(has("NVIDIA_MOFED=") && has("NVIDIA_GDS=") && has("NVIDIA_REQUIRE_CUDA=cuda>=1.0"), "{variables:?}");
    tenant.gone().await;
}

#[tokio::test]
async fn the_labels_tell_whose_it_is() {
    let tenant = Tenant::up(launch("gpurent-test/busybox:1"), &password()).await;
    let labels = field(&tenant.container, "{{json .Config.Labels}}").await;
    let labels: BTreeMap<String, String> = serde_json::from_str(&labels).unwrap();
    assert_eq!(labels["io.gpurent.rental"], tenant.launch.id.rental.to_string());
    assert_eq!(labels["io.gpurent.host"], tenant.launch.host.to_string());
    assert_eq!(labels["io.gpurent.spec-hash"], tenant.launch.hash());
    tenant.gone().await;
}

#[tokio::test]
async fn an_interactive_shell_dies_at_once_when_its_time_is_over() {
    let tenant = Tenant::up(launch("gpurent-test/debian:12"), &password()).await;
    let begun = Instant::now();
    let exit = tenant.runtime.stop(tenant.launch.id, Duration::ZERO).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let finished = field(&tenant.container, "{{.State.FinishedAt}}").await;
    assert_eq!(exit.finished_at, finished.parse().unwrap());
    tenant.gone().await;
}

#[tokio::test]
async fn a_notice_ends_the_program_and_not_the_container() {
    let tenant = Tenant::up(launch("gpurent-test/shellless:1"), &password()).await;
    let processes = async || docker(&["top", &tenant.container, "-eo", "pid,args"]).await;
    let runs = async || is_among(&processes().await, "/sleep 1000000");
    assert!(runs().await);
    tenant.runtime.signal_stop(tenant.launch.id).await.unwrap();
    let begun = Instant::now();
    while runs().await {
        assert!(begun.elapsed() < Duration::from_secs(5), "the program still runs");
    }
    assert_eq!(field(&tenant.container, "{{.State.Running}}").await, "true");
    let begun = Instant::now();
    tenant.runtime.stop(tenant.launch.id, Duration::from_secs(10)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "nothing is left to wait for");
    tenant.gone().await;
}

#[tokio::test]
async fn an_image_cannot_bring_a_kit_of_its_own() {
    let mine = BTreeMap::from([
        ("init".to_owned(), b"#!/.gpurent/kit/bin/busybox sh\nexec /.gpurent/kit/bin/busybox sleep 1000\n".to_vec()),
        ("bin/busybox".to_owned(), std::fs::read("/bin/busybox").unwrap()),
        // A kit that nobody has seen before: its volume is still empty.
        ("nonce".to_owned(), gpurent_core::id::RentalId::generate().to_string().into_bytes()),
    ]);
    let runtime = DockerRuntime::connect(engine().as_str(), AccessKit::from_files(&mine).unwrap()).await.unwrap();
    let launch = launch("gpurent-test/evil:1");
    runtime.prepare(&launch, None, &Silent).await.unwrap();
    let created = runtime.create(&launch, &secrets(&password())).await.unwrap();
    let container = created.container.to_string();
    let copied = std::env::temp_dir().join(format!("gpurent-init-{container}"));
    docker(&["cp", &format!("{container}:/.gpurent/kit/init"), &copied.to_string_lossy()]).await;
    assert_eq!(std::fs::read(&copied).unwrap(), mine["init"]);
    std::fs::remove_file(copied).unwrap();
    runtime.remove(launch.id).await.unwrap();
}

#[tokio::test]
async fn shells_and_interpreters_wait_and_programs_are_the_images_own() {
    for image in ["gpurent-test/entrypoint:1", "gpurent-test/own-tools:1", "gpurent-test/numeric-user:1"] {
        let tenant = Tenant::up(launch(image), &password()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(field(&tenant.container, "{{.State.Running}}").await, "true", "{image}");
        let said = tenant.runtime.logs(tenant.launch.id, 20).await.unwrap().join("\n");
        match image {
            "gpurent-test/own-tools:1" => assert!(said.contains("hostname of the image"), "{said}"),
            "gpurent-test/numeric-user:1" => {
                assert!(said.contains("uid=54321 gid=0") && said.contains("home=/"), "{said}");
                let ignored = said.lines().find(|line| line.starts_with("SigIgn")).unwrap_or_default();
                assert!(ignored.ends_with("0000"), "signals reach the program: {said}");
            }
            _ => {}
        }
        tenant.gone().await;
    }
}

#[tokio::test]
async fn a_program_is_stopped_with_its_images_own_signal() {
    let tenant = Tenant::up(launch("gpurent-test/quits:1"), &password()).await;
    let begun = Instant::now();
    let exit = tenant.runtime.stop(tenant.launch.id, Duration::from_secs(10)).await.unwrap().unwrap();
    assert_eq!(exit.code, 7, "it heard SIGQUIT");
    assert!(begun.elapsed() < Duration::from_secs(5));
    tenant.gone().await;
}

/// A kit that no other runtime has.
fn own_kit() -> AccessKit {
    let files = BTreeMap::from([
        ("access".to_owned(), b"#!/.gpurent/kit/bin/busybox sh\n".to_vec()),
        ("bin/busybox".to_owned(), std::fs::read("/bin/busybox").unwrap()),
        ("nonce".to_owned(), gpurent_core::id::RentalId::generate().to_string().into_bytes()),
    ]);
    AccessKit::from_files(&files).unwrap()
}

#[tokio::test]
async fn a_host_that_died_over_its_kit_keeps_the_next_one_waiting_for_seconds_only() {
    let (launch, kit) = (launch("gpurent-test/busybox:1"), own_kit());
    let died = DockerRuntime::connect(engine().as_str(), kit.clone()).await.unwrap();
    died.prepare(&launch, None, &Silent).await.unwrap();
    let created = died.create(&launch, &secrets(&password())).await.unwrap();
    let format = "{{range .Mounts}}{{if eq .Destination \"/.gpurent/kit\"}}{{.Name}}{{end}}{{end}}";
    let volume = docker(&["inspect", "--format", format, &created.container.to_string()]).await;
    died.remove(launch.id).await.unwrap();
    docker(&["create", "--name", &format!("{volume}-fill"), "gpurent-test/busybox:1"]).await;

    let next = DockerRuntime::connect(engine().as_str(), kit).await.unwrap();
    let begun = Instant::now();
    next.prepare(&launch, None, &Silent).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_kit_that_was_pruned_is_made_again() {
    let runtime = support::runtime().await;
    let launch = launch("gpurent-test/busybox:1");
    runtime.prepare(&launch, None, &Silent).await.unwrap();
    // As after `docker volume prune`, for this runtime alone.
    let runtime = DockerRuntime::connect(engine().as_str(), own_kit()).await.unwrap();
    let before = docker(&["volume", "ls", "-q"]).await;
    runtime.prepare(&launch, None, &Silent).await.unwrap();
    let after = docker(&["volume", "ls", "-q"]).await;
    let made: Vec<_> =
        after.lines().filter(|name| name.starts_with("gpurent-kit-") && !before.contains(name)).collect();
    for volume in made {
        docker(&["volume", "rm", volume]).await;
    }
    let created = runtime.create(&launch, &secrets(&password())).await.unwrap();
    let found = docker(&["cp", &format!("{}:/.gpurent/kit/complete", created.container), "-"]).await;
    assert!(!found.is_empty(), "the kit is there again");
    runtime.remove(launch.id).await.unwrap();
}

#[tokio::test]
async fn a_kit_that_went_while_a_container_was_made_is_filled_again() {
    let launch = launch("gpurent-test/busybox:1");
    let runtime = DockerRuntime::connect(engine().as_str(), own_kit()).await.unwrap();
    runtime.prepare(&launch, None, &Silent).await.unwrap();
    let created = runtime.create(&launch, &secrets(&password())).await.unwrap();
    let format = "{{range .Mounts}}{{if eq .Destination \"/.gpurent/kit\"}}{{.Name}}{{end}}{{end}}";
    let volume = docker(&["inspect", "--format", format, &created.container.to_string()]).await;
    let kit = format!("{volume}:/kit");
    let busybox = ["run", "--rm", "-v", &kit, "--entrypoint", "/bin/busybox", "gpurent-test/busybox:1"];
    docker(&[&busybox[..], &["rm", "-r", "/kit/access", "/kit/complete", "/kit/bin"]].concat()).await;
    runtime.start(&launch).await.unwrap();
    let found = docker(&["cp", &format!("{}:/.gpurent/kit/complete", created.container), "-"]).await;
    assert!(!found.is_empty(), "the kit is there again");
    runtime.remove(launch.id).await.unwrap();
}

#[tokio::test]
async fn a_program_that_ends_at_once_is_told_with_its_last_words() {
    let launch = launch("gpurent-test/exits:1");
    let runtime = support::runtime().await;
    runtime.prepare(&launch, None, &Silent).await.unwrap();
    runtime.create(&launch, &secrets(&password())).await.unwrap();
    let started = runtime.start(&launch).await;
    let verified = match started {
        Ok(_) => runtime.verify(&launch, Duration::from_secs(10)).await,
        Err(error) => Err(error),
    };
    // SSH may greet before the program has ended; then the observation tells.
    if verified.is_err() {
        assert!(matches!(&verified, Err(RuntimeError::Exited(exit)) if exit.code == 3), "{verified:?}");
    }
    let exit = runtime.stop(launch.id, Duration::from_secs(5)).await.unwrap().unwrap();
    assert_eq!(exit.code, 3);
    assert!(runtime.logs(launch.id, 10).await.unwrap().iter().any(|line| line.contains("last words")));
    runtime.remove(launch.id).await.unwrap();
}

#[tokio::test]
async fn ssh_that_never_answers_is_given_up() {
    let mute = BTreeMap::from([
        ("access".to_owned(), b"#!/bin/sh\nexec sleep 1000\n".to_vec()),
        ("bin/busybox".to_owned(), std::fs::read("/bin/busybox").unwrap()),
    ]);
    let kit = AccessKit::from_files(&mute).unwrap();
    let runtime = DockerRuntime::connect(engine().as_str(), kit).await.unwrap();
    let launch = launch("gpurent-test/busybox:1");
    runtime.prepare(&launch, None, &Silent).await.unwrap();
    runtime.create(&launch, &secrets(&password())).await.unwrap();
    runtime.start(&launch).await.unwrap();
    let verified = runtime.verify(&launch, Duration::from_secs(1)).await;
    assert!(matches!(verified, Err(RuntimeError::AccessTimeout(_))), "{verified:?}");
    runtime.remove(launch.id).await.unwrap();
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_named() {
    let runtime = support::runtime().await.with_pull_patience(PullPatience(Duration::from_secs(20)));
    let registry = std::env::var("GPURENT_TEST_REGISTRY").expect("GPURENT_TEST_REGISTRY: run scripts/test");
    // A registry that is away may be there in a moment: nobody's fault.
    let away = runtime.prepare(&launch("127.0.0.1:1/no/such:image"), None, &Silent).await;
    assert!(matches!(away, Err(RuntimeError::RegistryUnavailable { .. })), "{away:?}");
    let launch = launch(&format!("{registry}/no/such:image"));
    let prepared = runtime.prepare(&launch, None, &Silent).await;
    assert!(
        matches!(&prepared, Err(RuntimeError::ImageUnavailable { image, .. }) if *image == launch.image),
        "{prepared:?}"
    );
}

#[tokio::test]
async fn a_port_that_somebody_has_is_named() {
    let launch = launch("gpurent-test/busybox:1");
    let port = launch.ssh_port().unwrap();
    let listener = std::net::TcpListener::bind(("0.0.0.0", port.get())).unwrap();
    assert!(!gpurent_core::allocation::PortProbe::is_free(&LocalPorts, port, gpurent_core::model::Transport::Tcp));
    let runtime = support::runtime().await;
    runtime.prepare(&launch, None, &Silent).await.unwrap();
    runtime.create(&launch, &secrets(&password())).await.unwrap();
    let started = runtime.start(&launch).await;
    assert!(matches!(started, Err(RuntimeError::PortTaken { port: named, .. }) if named == port), "{started:?}");
    drop(listener);
    runtime.remove(launch.id).await.unwrap();
}

#[tokio::test]
async fn a_dead_engine_is_told_from_everything_else() {
    let kit = AccessKit::from_host().await.unwrap();
    let connected = DockerRuntime::connect("unix:///nonexistent/docker.sock", kit).await;
    assert!(matches!(connected, Err(RuntimeError::Unavailable(_))));
}

//! What renters do inside without SSH, folders that outlive a container, and the images that lie on the engine.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use gpurent_core::model::{Workspace, WorkspaceFolder};
use gpurent_core::runtime::{
    Bytes, ContainerExec, ContainerRuntime, Images, Program, RemoveImageError, RuntimeError, TerminalSize,
};
use gpurent_docker::WorkspaceRoot;
use support::{Tenant, docker, launch, password, runtime, secrets, text};

fn program(words: &[&str]) -> Program {
    Program::new(words.iter().map(|word| (*word).to_owned()).collect(), None).unwrap()
}

async fn read_all(mut output: Bytes) -> String {
    let mut text = String::new();
    while let Some(chunk) = output.next().await {
        text.push_str(&String::from_utf8_lossy(&chunk.unwrap()));
    }
    text
}

/// Reads until the text is there.
async fn read_until(output: &mut Bytes, wanted: &str) -> String {
    let mut text = String::new();
    let read = async {
        while !text.contains(wanted) {
            match output.next().await {
                Some(chunk) => text.push_str(&String::from_utf8_lossy(&chunk.unwrap())),
                None => break,
            }
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), read).await;
    assert!(in_time.is_ok() && text.contains(wanted), "{wanted:?} in {text:?}");
    text
}

#[tokio::test]
async fn a_program_runs_as_the_rentals_user_and_tells_its_exit_code() {
    for (image, user) in [("gpurent-test/busybox:1", "root"), ("gpurent-test/debian:12", "gpu-user")] {
        let mut launch = launch(image);
        launch.login = user.parse().unwrap();
        let tenant = Tenant::up(launch, &password()).await;
        let say = "echo $PYTHONPATH; echo $HOME; test \"$USER\" = \"$LOGNAME\" && echo $USER; pwd; exit 7";
        let session = tenant.runtime.run(tenant.launch.id, &program(&["sh", "-c", say])).await.unwrap();
        let said = read_all(session.output).await;
        let home = if user == "root" { "/root" } else { "/home/gpu-user" };
        assert_eq!(said, format!("/workspace\n{home}\n{user}\n{home}\n"), "{image}");
        assert_eq!(session.exit.await, Some(7));
        let none = tenant.runtime.run(tenant.launch.id, &program(&["/no/such/program"])).await.unwrap();
        read_all(none.output).await;
        assert!(none.exit.await.is_some_and(|code| code != 0));
        tenant.gone().await;
    }
}

#[tokio::test]
async fn a_terminal_has_a_size_and_ends_with_whoever_listened() {
    for image in ["gpurent-test/busybox:1", "gpurent-test/shellless:1"] {
        let tenant = Tenant::up(launch(image), &password()).await;
        let shell = Program::shell(TerminalSize::new(100, 30).unwrap());
        let mut session = tenant.runtime.run(tenant.launch.id, &shell).await.unwrap();
        session.input.write(b"echo $((40 + 2)) there\n").await.unwrap();
        read_until(&mut session.output, "42 there").await;
        session.input.resize(TerminalSize::new(133, 44).unwrap()).await.unwrap();
        session.input.write(b"while true; do sleep 1; done\n").await.unwrap();
        let processes = async || docker(&["top", &tenant.container]).await.lines().count();
        let before = processes().await;
        drop(session);
        let begun = Instant::now();
        while processes().await >= before {
            assert!(begun.elapsed() < Duration::from_secs(10), "the shell runs on: {}", processes().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tenant.gone().await;
    }
}

#[tokio::test]
async fn the_size_of_a_terminal_reaches_the_program() {
    let tenant = Tenant::up(launch("gpurent-test/debian:12"), &password()).await;
    let stty = Program::new(
        vec!["sh".to_owned(), "-c".to_owned(), "read line; stty size".to_owned()],
        Some(TerminalSize::new(100, 30).unwrap()),
    );
    let mut session = tenant.runtime.run(tenant.launch.id, &stty.unwrap()).await.unwrap();
    session.input.resize(TerminalSize::new(133, 44).unwrap()).await.unwrap();
    session.input.write(b"\n").await.unwrap();
    read_until(&mut session.output, "44 133").await;
    tenant.gone().await;
}

#[tokio::test]
async fn output_is_read_as_it_comes() {
    let tenant = Tenant::up(launch("gpurent-test/busybox:1"), &password()).await;
    let mut output = tenant.runtime.follow(tenant.launch.id, 10).await.unwrap();
    // The container's own program writes where its first process does.
    tenant.ssh("mySecurePassword123", "echo first >/proc/1/fd/1").await;
    read_until(&mut output, "first").await;
    tenant.ssh("mySecurePassword123", "echo second >/proc/1/fd/1").await;
    read_until(&mut output, "second").await;
    tenant.runtime.stop(tenant.launch.id, Duration::ZERO).await.unwrap();
    let rest = tokio::time::timeout(Duration::from_secs(10), read_all(output)).await;
    assert!(rest.is_ok(), "it ends with the container");
    let usage = tenant.runtime.run(tenant.launch.id, &program(&["true"])).await;
    assert!(matches!(usage, Err(RuntimeError::Missing)), "{:?}", usage.err());
    let gone = tenant.launch.id;
    let runtime = runtime().await;
    tenant.gone().await;
    assert!(matches!(runtime.follow(gone, 1).await.err(), Some(RuntimeError::Missing)));
}

#[tokio::test]
async fn a_container_tells_how_much_it_uses() {
    let mut launch = launch("gpurent-test/busybox:1");
    launch.limits = launch.limits.with_memory_bytes(256 * 1024 * 1024).unwrap();
    let tenant = Tenant::up(launch, &password()).await;
    let usage = tenant.runtime.usage(tenant.launch.id).await.unwrap();
    assert_eq!(usage.memory_limit, 256 * 1024 * 1024);
    assert!(usage.memory_used > 0 && usage.memory_used < usage.memory_limit, "{usage:?}");
    assert!(usage.cpu_percent >= 0.0, "{usage:?}");
    tenant.gone().await;
}

#[tokio::test]
async fn a_workspace_outlives_its_container_and_shows_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template");
    let tools = directory.path().join("tools");
    std::fs::create_dir_all(&template).unwrap();
    std::fs::create_dir_all(&tools).unwrap();
    std::fs::write(template.join("hello"), "from the template").unwrap();
    std::fs::write(tools.join("tool"), "a tool").unwrap();
    let root = WorkspaceRoot::new(&directory.path().join("vms")).unwrap();
    let root = root.with_template(&template).unwrap().with_read_only(&tools, "/opt/tools".parse().unwrap()).unwrap();
    let folder = WorkspaceFolder::of(&"user1".parse().unwrap());
    let workspace = Workspace { folder: folder.clone(), mount: "/home/developer/workspace".parse().unwrap() };
    for (n, seen) in [(1, "from the template"), (2, "the renter's")] {
        let mut launch = launch("gpurent-test/busybox:1");
        launch.workspace = Some(workspace.clone());
        let runtime = runtime().await.with_workspaces(root.clone());
        let tenant = Tenant::up_on(runtime, launch, &password()).await;
        let look = "cat /home/developer/workspace/hello; ls /home/developer; cat /opt/tools/tool";
        let found = text(&tenant.ssh("mySecurePassword123", look).await);
        assert_eq!(found, format!("{seen}workspace\na tool"), "container {n}");
        let write =
            "printf \"the renter's\" >/home/developer/workspace/hello; touch /opt/tools/x 2>/dev/null || echo no";
        assert_eq!(text(&tenant.ssh("mySecurePassword123", write).await), "no");
        tenant.gone().await;
    }
    assert_eq!(std::fs::read_to_string(root.path(&folder).join("hello")).unwrap(), "the renter's");
    let mut launch = launch("gpurent-test/busybox:1");
    launch.workspace = Some(workspace);
    let refused = runtime().await.create(&launch, &secrets(&password())).await;
    assert!(matches!(refused, Err(RuntimeError::Refused(_))), "a host without a place for workspaces");
}

#[tokio::test]
async fn images_are_listed_and_removed_unless_in_use() {
    let runtime = runtime().await;
    docker(&["tag", "gpurent-test/busybox:1", "gpurent-test/throw-away:1"]).await;
    let listed = runtime.images().await.unwrap();
    assert!(listed.iter().any(|image| image.tags.contains(&"gpurent-test/debian:12".to_owned())));
    assert!(!listed.iter().any(|image| image.tags.iter().any(|tag| tag.starts_with("gpurent-private"))));
    let tenant = Tenant::up(launch("gpurent-test/nonroot:1"), &password()).await;
    let in_use = runtime.remove_image("gpurent-test/nonroot:1", true).await;
    assert!(matches!(in_use, Err(RemoveImageError::InUse)), "{in_use:?}");
    assert!(runtime.image("gpurent-test/nonroot:1").await.unwrap().unwrap().containers > 0);
    tenant.gone().await;
    assert!(matches!(runtime.remove_image("gpurent-test/none:1", true).await, Err(RemoveImageError::NotThere)));
    for path in ["../../info", "x/../../../containers", "", "/", "a//b"] {
        assert_eq!(runtime.image(path).await.unwrap(), None, "{path:?}");
    }
    assert!(runtime.image("gpurent-test/throw-away:1").await.unwrap().is_some());
    // Another name of an image of which there may be containers: only the name goes, where there are none.
    docker(&["rmi", "gpurent-test/throw-away:1"]).await;
    runtime.fetch(&"gpurent-test/busybox:1".parse().unwrap()).await.unwrap();
}

//! Engines over TLS, images from private registries, images pinned to what they were.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::path::Path;

use gpurent_core::model::RegistryLogin;
use gpurent_core::runtime::{ContainerRuntime, RuntimeError};
use gpurent_docker::{AccessKit, DockerRuntime, EngineAddress, TlsFiles};
use sha2::{Digest, Sha256};
use support::{Silent, docker, launch, password, runtime, secrets};

fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name}: run scripts/test, or eval $(scripts/services env)"))
}

#[tokio::test]
async fn an_engine_is_spoken_to_over_tls_by_those_it_knows() {
    let address = environment("GPURENT_TEST_DOCKER_TLS");
    let files = TlsFiles::in_directory(Path::new(&environment("GPURENT_TEST_DOCKER_CERTS")));
    let kit = AccessKit::from_host().await.unwrap();
    let secure = EngineAddress::with_tls(&address, files.clone());
    let runtime = DockerRuntime::connect(secure, kit.clone()).await.unwrap();
    assert_eq!(runtime.engine().await.unwrap(), support::runtime().await.engine().await.unwrap());
    let launch = launch("gpurent-test/busybox:1");
    runtime.prepare(&launch, None, &Silent).await.unwrap();
    runtime.create(&launch, &secrets(&password())).await.unwrap();
    runtime.start(&launch).await.unwrap();
    runtime.verify(&launch, std::time::Duration::from_secs(20)).await.unwrap();
    runtime.remove(launch.id).await.unwrap();

    // Without a certificate, or with one of somebody else's, nobody is let in.
    let plain = DockerRuntime::connect(address.as_str(), kit.clone()).await;
    assert!(matches!(plain, Err(RuntimeError::Unavailable(_))));
    let missing = TlsFiles { cert: "/nonexistent".into(), ..files };
    let missing = DockerRuntime::connect(EngineAddress::with_tls(&address, missing), kit).await;
    assert!(matches!(missing, Err(RuntimeError::Unavailable(_))));
}

/// A repository of its own for each test: whether one is private is remembered on the engine.
async fn private_image(name: &str) -> String {
    let (open, private) = (environment("GPURENT_TEST_REGISTRY"), environment("GPURENT_TEST_PRIVATE_REGISTRY"));
    docker(&["tag", "gpurent-test/busybox:1", &format!("{open}/{name}:1")]).await;
    docker(&["push", "-q", &format!("{open}/{name}:1")]).await;
    docker(&["rmi", &format!("{open}/{name}:1")]).await;
    format!("{private}/{name}:1")
}

fn login(password: &str) -> RegistryLogin {
    RegistryLogin::new("renter".to_owned(), password.to_owned()).unwrap()
}

#[tokio::test]
async fn a_private_image_is_for_those_who_log_in_also_once_it_is_here() {
    let runtime = runtime().await;
    let image = private_image(&format!("private-{:08x}", rand::random::<u32>())).await;
    let launch = launch(&image);
    let prepare = async |login: Option<RegistryLogin>| runtime.prepare(&launch, login.as_ref(), &Silent).await;
    let refused = |result| matches!(result, Err(RuntimeError::ImageUnavailable { .. }));
    assert!(refused(prepare(None).await), "without a login");
    assert!(refused(prepare(Some(login("wrong"))).await), "with a wrong one");
    let prepared = prepare(Some(login("registry-canary-4711"))).await.unwrap();
    // It is on the engine now; that makes it nobody else's.
    assert!(refused(prepare(None).await), "somebody else, by its name");
    let by_digest = support::launch(&format!("{}@{}", launch.image.name(), prepared.digest.unwrap()));
    let result = runtime.prepare(&by_digest, None, &Silent).await;
    assert!(refused(result), "somebody else, by its digest");
    assert!(refused(prepare(Some(login("wrong"))).await));
    prepare(Some(login("registry-canary-4711"))).await.unwrap();
    // Neither our own marks nor ids lead to it.
    let marks = docker(&["images", "--format", "{{.Repository}}", "gpurent-private/*"]).await;
    let id = docker(&["inspect", "--format", "{{.Id}}", &image]).await;
    let mut detours: Vec<String> = marks.lines().map(|mark| format!("{mark}:latest")).collect();
    detours.extend(marks.lines().map(|mark| format!("docker.io/{mark}")));
    detours.extend(marks.lines().map(|mark| format!("index.docker.io/{mark}:latest")));
    detours.extend([id.clone(), id[..10].to_owned()]);
    assert!(detours.len() > 3);
    for detour in detours {
        // Of these names some lead to registries that are not reached from here.
        assert!(runtime.prepare(&support::launch(&detour), None, &Silent).await.is_err(), "{detour}");
    }
    docker(&["rmi", "-f", &image]).await;
}

#[tokio::test]
async fn a_login_does_not_make_a_public_image_private() {
    let runtime = runtime().await;
    let image = private_image(&format!("public-{:08x}", rand::random::<u32>())).await;
    let image = image.replace(&environment("GPURENT_TEST_PRIVATE_REGISTRY"), &environment("GPURENT_TEST_REGISTRY"));
    let login = login("registry-canary-4711");
    runtime.prepare(&launch(&image), Some(&login), &Silent).await.unwrap();
    let (repository, _tag) = image.rsplit_once(':').unwrap();
    let mark: String = Sha256::digest(repository).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(docker(&["images", "-q", &format!("gpurent-private/{mark}")]).await, "");
    runtime.prepare(&launch(&image), None, &Silent).await.unwrap();
    docker(&["rmi", "-f", &image]).await;
}

#[tokio::test]
async fn a_digest_is_told_and_selects_the_same_image_again() {
    let runtime = runtime().await;
    let registry = environment("GPURENT_TEST_REGISTRY");
    let name = format!("{registry}/pin-{:08x}", rand::random::<u32>());
    let push = async |from: &str| {
        docker(&["tag", from, &format!("{name}:1")]).await;
        docker(&["push", "-q", &format!("{name}:1")]).await;
    };
    push("gpurent-test/busybox:1").await;
    let mut launch = launch(&format!("{name}:1"));
    let digest = runtime.prepare(&launch, None, &Silent).await.unwrap().digest.unwrap();
    // The tag moves on; the digest does not.
    push("gpurent-test/shellless:1").await;
    launch.image = launch.image.pinned(&digest);
    docker(&["rmi", "-f", &format!("{name}:1")]).await;
    assert_eq!(runtime.prepare(&launch, None, &Silent).await.unwrap().digest, Some(digest));
    runtime.create(&launch, &secrets(&password())).await.unwrap();
    let made_of = docker(&["inspect", "--format", "{{.Image}}", &launch.id.container_name()]).await;
    assert_eq!(made_of, docker(&["inspect", "--format", "{{.Id}}", "gpurent-test/busybox:1"]).await);
    runtime.remove(launch.id).await.unwrap();
    // An image that was never in a registry has no digest.
    let local = runtime.prepare(&support::launch("gpurent-test/nonroot:1"), None, &Silent).await.unwrap();
    assert_eq!(local.digest, None);
}

#[tokio::test]
async fn the_beginning_of_an_images_id_is_not_its_name() {
    let id = docker(&["inspect", "--format", "{{.Id}}", "gpurent-test/busybox:1"]).await;
    let beginning = &id.strip_prefix("sha256:").unwrap()[..12];
    let result = runtime().await.prepare(&launch(beginning), None, &Silent).await;
    assert!(result.is_err(), "{result:?}");
}

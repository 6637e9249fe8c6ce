//! Images and tenants that go for the engine and for their neighbours, each against an engine of its own, since what
//! works would break one. Numbers are those of `docs/threats.md`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::engine::{Engine, in_a_network_of_its_own};
use support::{Host, Machine, request, ssh, text};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);

/// A host on an engine of its own.
async fn host_on(engine: &Engine, gpus: u8) -> Machine {
    let mut machine = Machine::new(&format!("simulated:{gpus}:RTX 5090")).on_sqlite();
    machine.docker = engine.address();
    machine
}

/// Makes an image out of the test image: `script` runs in a folder with its files, `changes` are as a Dockerfile has them.
async fn image(engine: &Engine, name: &str, script: &str, changes: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let made = format!(
        "set -e; cd {0}; mkdir -p bin etc root tmp; cp /bin/busybox bin/; for a in sh sleep id cat echo ls nc; do ln -s busybox bin/$a; done
         echo 'root:x:0:0::/root:/bin/sh' >etc/passwd; {script}
         tar -c . | docker -H {1} import {2} - {name}",
        folder.path().display(),
        engine.address(),
        changes.iter().map(|change| format!("--change '{change}'")).collect::<Vec<_>>().join(" "),
    );
    let output = Command::new("sh").args(["-c", &made]).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

const IDLE: &str = r#"CMD ["/bin/sleep", "100000"]"#;

/// The threads of an engine.
fn threads(engine: &Engine) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", engine.pid())).unwrap().count()
}

async fn ready(machine: &Machine, image: &str) -> (String, Value) {
    let id = machine.rent(&request(image, "1h")).await;
    let rental = machine.until(&id, &["ready"], SOON).await;
    (id, rental)
}

#[test]
fn a_pipe_for_passwd_ends_its_own_rental_and_no_other() {
    in_a_network_of_its_own(|| async {
        let engine = Engine::start(false).await;
        let machine = host_on(&engine, 2).await;
        let _host = machine.start().await;
        for (name, script) in [
            ("fifo", "rm etc/passwd; mkfifo etc/passwd"),
            ("group", "mkfifo etc/group"),
            ("linked", "rm etc/passwd; mkfifo etc/x; ln -s ../etc/y etc/passwd; ln -s x etc/y"),
            ("zero", "rm etc/passwd; mknod etc/passwd c 1 5"),
            ("endless", "truncate -s 5G etc/passwd"),
            // What is mounted hides the pipe from whoever looks through it, and not from the engine.
            (
                "kit",
                "rm etc/passwd; mkdir -p .gpurent/kit; mkfifo .gpurent/kit/complete; ln -s /.gpurent/kit/complete etc/passwd",
            ),
            ("kit-over-etc", "mkdir .gpurent; ln -s /etc .gpurent/kit; rm etc/passwd; mkfifo etc/passwd"),
            (
                "way",
                "mkdir -p .gpurent/kit e/a/b/c e/etc; ln -s /e/a/b/c .gpurent/kit/x; mv etc/passwd etc/good; mkfifo e/etc/good
                 ln -s /.gpurent/kit/x/../../../etc/good etc/passwd",
            ),
        ] {
            image(&engine, &format!("attack/{name}:1"), script, &[IDLE]).await;
            let id = machine.rent(&request(&format!("attack/{name}:1"), "1h")).await;
            let failed = machine.until(&id, &["failed", "ready"], SOON).await;
            assert_eq!(failed["state"], "failed", "{name}: {failed}");
            assert_eq!(failed["end"]["fault"], "renter", "{failed}");
            assert!(failed["end"]["message"].as_str().unwrap().contains("/etc/"), "{failed}");
        }
        // A volume over them hides nothing.
        image(&engine, "attack/volume:1", "mkfifo etc/group", &["VOLUME /etc/", IDLE]).await;
        let id = machine.rent(&request("attack/volume:1", "1h")).await;
        let failed = machine.until(&id, &["failed", "ready"], SOON).await;
        assert_eq!((&failed["state"], &failed["end"]["fault"]), (&json!("failed"), &json!("renter")), "{failed}");
        // Pipes elsewhere are the image's own.
        image(&engine, "attack/pipes:1", "mkdir -p data/deep; mkfifo data/deep/pipe", &["VOLUME /data", IDLE]).await;
        let (id, _) = ready(&machine, "attack/pipes:1").await;
        machine.cancel(&id).await;
        machine.until(&id, &["terminated"], SOON).await;
        machine.assert_clean().await;
        let (id, _) = ready(&machine, "gpurent-test/busybox:1").await;
        machine.cancel(&id).await;
        machine.until(&id, &["terminated"], SOON).await;
        assert_eq!(machine.get("/health").await["engine"], "ok");
    });
}

/// Makes the engine hang over a rental's container, as a GPU driver's hook that does not end would.
async fn wedge(engine: &Engine, machine: &Machine, id: &str) {
    turn_into_a_pipe(machine, id).await;
    let container = machine.show(id).await["container_id"].as_str().unwrap().to_owned();
    let mut restart = Command::new("docker");
    restart.args(["-H", &engine.address(), "restart", "-t", "0", &container]).stdout(Stdio::null());
    let hangs = restart.stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(hangs);
}

#[test]
fn an_engine_that_hangs_over_one_container_serves_the_others() {
    in_a_network_of_its_own(|| async {
        let engine = Engine::start(false).await;
        let machine = host_on(&engine, 2).await;
        let mut host = machine.start().await;
        let (alice, _) = ready(&machine, "gpurent-test/busybox:1").await;
        let (bob, _) = ready(&machine, "gpurent-test/busybox:1").await;
        wedge(&engine, &machine, &alice).await;
        let begun = Instant::now();
        while machine.get("/health").await["engine"] != "hangs" {
            assert!(begun.elapsed() < SOON, "{}", machine.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(machine.get("/health").await["status"], "degraded");
        // What happens to a neighbour is still seen.
        let rental = machine.show(&bob).await;
        engine.docker(&["kill", rental["container_id"].as_str().unwrap()]).await;
        machine.until(&bob, &["terminated"], Duration::from_secs(30)).await;
        // So it is after a start of the agent.
        host.terminate().await;
        let _host = machine.start().await;
        let (again, _) = ready(&machine, "gpurent-test/busybox:1").await;
        machine.cancel(&again).await;
        machine.until(&again, &["terminated"], SOON).await;
    });
}

/// Root in a container turns its passwd into a pipe, and asks for everything for which the engine may open it.
async fn turn_into_a_pipe(machine: &Machine, id: &str) {
    let access = machine.get(&format!("/v1/rentals/{id}/access")).await;
    let port = access["port"].as_u64().unwrap();
    let password = access["password"].as_str().unwrap();
    let done = ssh(
        port,
        "root",
        password,
        "mv /etc/passwd /etc/p2; busybox mkfifo /etc/passwd; [ -p /etc/passwd ] && echo pipe",
    )
    .await;
    assert_eq!(text(&done), "pipe", "{done:?}");
}

async fn terminals(machine: &Machine, id: &str, count: usize) {
    for _ in 0..count {
        let url = machine.url(&format!("/v1/rentals/{id}/terminal")).replace("http", "ws");
        if let Ok((socket, _)) = tokio_tungstenite::connect_async(url).await {
            drop(socket);
        }
    }
}

#[test]
fn a_tenant_costs_the_engine_no_threads() {
    in_a_network_of_its_own(|| async {
        let engine = Engine::start(false).await;
        for by in ["bind", "upload"] {
            let mut machine = host_on(&engine, 1).await;
            if by == "upload" {
                machine.access_dir = "none".to_owned();
            }
            let _host: Host<'_> = machine.start().await;
            let (id, _) = ready(&machine, "gpurent-test/busybox:1").await;
            turn_into_a_pipe(&machine, &id).await;
            let before = threads(&engine);
            let put = machine.client.put(machine.url(&format!("/v1/rentals/{id}/access")));
            let put = put.json(&json!({"password": "anotherPassword123"})).send().await.unwrap();
            assert!(put.status().is_success(), "{put:?}");
            terminals(&machine, &id, 40).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            let after = threads(&engine);
            assert!(after < before + 10, "{by}: {before} threads became {after}");
            let rental = machine.show(&id).await;
            assert_eq!(rental["state"], "ready", "{rental}");
            if by == "bind" {
                let access = machine.get(&format!("/v1/rentals/{id}/access")).await;
                assert_eq!(access["pending"], false, "the container has its credential without any exec: {access}");
            }
            machine.cancel(&id).await;
            machine.until(&id, &["terminated"], SOON).await;
            machine.assert_clean().await;
        }
    });
}

#[test]
fn labels_of_an_image_end_nobody_and_keep_nobody() {
    in_a_network_of_its_own(|| async {
        let engine = Engine::start(false).await;
        let machine = host_on(&engine, 2).await;
        let _host = machine.start().await;
        let bob = machine.rent(&request("gpurent-test/busybox:1", "30s")).await;
        let rental = machine.until(&bob, &["ready"], SOON).await;
        for attempt in [1, 2, 9] {
            let labels = [
                format!("LABEL io.gpurent.host={}", machine.host_id),
                format!("LABEL io.gpurent.rental={bob}"),
                format!("LABEL io.gpurent.attempt={attempt}"),
                IDLE.to_owned(),
            ];
            let labels: Vec<_> = labels.iter().map(String::as_str).collect();
            image(&engine, &format!("attack/label{attempt}:1"), "true", &labels).await;
            // A helper that was left over, and one that runs.
            for what in ["create", "run"] {
                let name = format!("gpurent-left-{what}-{attempt}");
                let detached: &[&str] = if what == "run" { &["-d"] } else { &[] };
                let image = format!("attack/label{attempt}:1");
                let made = engine.docker(&[&[what], detached, &["--name", &name, &image]].concat()).await;
                assert!(!made.is_empty());
            }
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(machine.show(&bob).await["state"], "ready", "{}", machine.log());
        let ended = machine.until(&bob, &["expired", "terminated"], SOON).await;
        assert_eq!(ended["state"], "expired", "{ended}");
        assert_eq!(
            engine
                .docker(&[
                    "ps",
                    "-q",
                    "--no-trunc",
                    "--filter",
                    &format!("id={}", rental["container_id"].as_str().unwrap())
                ])
                .await,
            ""
        );
    });
}

#[test]
fn the_tenants_name_server_tells_nothing_of_neighbours() {
    in_a_network_of_its_own(|| async {
        let engine = Engine::start(false).await;
        let machine = host_on(&engine, 2).await;
        let _host = machine.start().await;
        let (alice, _) = ready(&machine, "gpurent-test/busybox:1").await;
        let (bob, rental) = ready(&machine, "gpurent-test/busybox:1").await;
        let access = machine.get(&format!("/v1/rentals/{alice}/access")).await;
        let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = engine.docker(&["inspect", "--format", address, rental["container_id"].as_str().unwrap()]).await;
        let ask = format!("busybox nslookup {address} 127.0.0.11");
        let said =
            text(&ssh(access["port"].as_u64().unwrap(), "root", access["password"].as_str().unwrap(), &ask).await);
        assert!(said.contains("name = gpurent-"), "Docker answers, as it does: {said}");
        assert!(!said.contains(&bob), "{said}");
    });
}

/// A server on loopback that is none of the renter's: it answers whatever it is asked with a secret, and counts.
async fn inner_service() -> (u16, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counts = std::sync::Arc::clone(&asked);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let page = "<html>internal: db_password=hunter2 manifest unknown</html>";
            let answer =
                format!("HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{page}", page.len());
            let mut asked = [0; 4096];
            // Whoever asked may have gone.
            drop(tokio::io::AsyncReadExt::read(&mut stream, &mut asked).await);
            drop(tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await);
        }
    });
    (port, asked)
}

#[test]
fn an_image_sends_the_engine_nowhere_inside_and_tells_nothing_of_it() {
    in_a_network_of_its_own(|| async {
        let engine = Engine::start(false).await;
        let (port, asked) = inner_service().await;
        let count = || asked.load(std::sync::atomic::Ordering::Relaxed);
        let mut machine = host_on(&engine, 1).await;
        machine.registries = String::new();
        let mut host = machine.start().await;
        for image in [format!("127.0.0.1:{port}/x:1"), format!("localhost:{port}/x"), "169.254.169.254/x".to_owned()] {
            let mut body = request(&image, "1h");
            body["registry"] = json!({"username": "renter", "password": "canary"});
            let id = machine.rent(&body).await;
            let failed = machine.until(&id, &["failed"], SOON).await;
            assert_eq!(failed["end"]["fault"], "renter", "{failed}");
            assert!(failed["end"]["message"].as_str().unwrap().contains("public name"), "{failed}");
        }
        assert_eq!(count(), 0, "nobody was asked");
        host.terminate().await;
        // Where the operator names it, it is asked; what it says is the operator's to read, and not the renter's.
        machine.registries = format!("127.0.0.1:{port}");
        let _host = machine.start().await;
        let id = machine.rent(&request(&format!("127.0.0.1:{port}/x:1"), "1h")).await;
        let failed = machine.until(&id, &["failed"], SOON).await;
        assert!(count() > 0);
        assert!(!failed.to_string().contains("hunter2"), "{failed}");
        assert!(machine.log().contains("hunter2"), "{}", machine.log());
        let id = machine.rent(&request("ubuntu:22.04", "1h")).await;
        let failed = machine.until(&id, &["failed"], SOON).await;
        assert!(failed["end"]["message"].as_str().unwrap().contains("certain registries"), "{failed}");
    });
}

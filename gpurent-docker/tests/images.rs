//! Images as people bring them: each becomes ready with its renter inside, or fails with the reason.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gpurent_core::model::{Workspace, WorkspaceFolder};
use gpurent_core::runtime::{ContainerRuntime, LaunchSpec, RuntimeError};
use gpurent_docker::DockerRuntime;
use support::image::Image;
use support::{Tenant, docker, launch, password, secrets};
use tokio::process::Command;

const IDLE: &str = r#"CMD ["/bin/sleep", "1000000"]"#;

/// Lets root in, and a named user.
async fn lets_in(image: Image) {
    let image = image.made().await;
    for (user, id) in [("root", "0"), ("gpu-user", "1000")] {
        let mut launch = launch(&image);
        launch.login = user.parse().unwrap();
        let tenant = Tenant::ready(launch).await;
        assert_eq!(tenant.says("id -u").await, id, "{image} as {user}");
        tenant.gone().await;
    }
}

fn accounts(name: &str) -> Image {
    Image::busybox(name).says(IDLE)
}

#[tokio::test]
async fn accounts_that_let_nobody_in_by_themselves() {
    let nologin = b"root:x:0:0:root:/root:/usr/sbin/nologin\n";
    lets_in(accounts("nologin").file("etc/passwd", 0o644, nologin).file(
        "usr/sbin/nologin",
        0o755,
        b"#!/bin/sh\nexit 1\n",
    ))
    .await;
    lets_in(accounts("missing-shell").file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/opt/none\n")).await;
    lets_in(accounts("locked").file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh").file(
        "etc/shadow",
        0o600,
        b"root:!::::::",
    ))
    .await;
    lets_in(accounts("expired").file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\n").file(
        "etc/shadow",
        0o600,
        b"root:*:1:0:1:7::2:\n",
    ))
    .await;
}

#[tokio::test]
async fn accounts_of_odd_forms() {
    lets_in(accounts("garbage").file("etc/passwd", 0o644, b"\xff\xfe:::\n\n::::::\nroot")).await;
    lets_in(accounts("no-newline").file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh").file(
        "etc/shells",
        0o644,
        b"/bin/sh",
    ))
    .await;
    lets_in(accounts("linked").link("etc/passwd", "/nix/store/passwd").file(
        "nix/store/passwd",
        0o444,
        b"root:x:0:0::/root:/bin/sh\n",
    ))
    .await;
    lets_in(accounts("dangling").link("etc/passwd", "/nowhere/passwd").link("etc/group", "/nowhere/group")).await;
    lets_in(accounts("no-home").file("etc/passwd", 0o644, b"root:x:0:0::/nonexistent:/bin/sh\n")).await;
    lets_in(accounts("home-of-another").folder("root", 0o777, 4242).file(
        "etc/passwd",
        0o644,
        b"root:x:0:0::/root:/bin/sh\n",
    ))
    .await;
}

#[tokio::test]
async fn name_services_and_preloads_reach_nothing_of_ours() {
    lets_in(accounts("sss").file("etc/nsswitch.conf", 0o644, b"passwd: sss\ngroup: sss\nshadow: sss\n")).await;
    lets_in(accounts("compat").file("etc/nsswitch.conf", 0o644, b"passwd: compat systemd\nshadow: compat\n")).await;
    lets_in(accounts("preload").file("etc/ld.so.preload", 0o644, b"/evil.so\n").file(
        "evil.so",
        0o755,
        b"\x7fELF evil",
    ))
    .await;
    lets_in(accounts("nologin-file").file("etc/nologin", 0o644, b"closed\n")).await;
    lets_in(
        accounts("environment")
            .says("ENV LD_PRELOAD=/evil.so LD_LIBRARY_PATH=/evil OPENSSL_CONF=/evil LD_AUDIT=/evil.so"),
    )
    .await;
}

/// A library that an image has loaded into its own programs is in none of ours.
#[tokio::test]
async fn a_preloaded_library_is_in_the_images_programs_and_not_in_the_kits() {
    let library = "/lib/x86_64-linux-gnu/libBrokenLocale.so.1";
    let dockerfile = format!("FROM gpurent-test/tools:1\nENV LD_PRELOAD={library} LD_AUDIT={library}\n");
    let name = "gpurent-test/way-in-preloaded:1";
    let build = format!("printf '%s' \"$0\" | DOCKER_BUILDKIT=0 docker build -q -t {name} -");
    let built = Command::new("sh").args(["-c", &build, &dockerfile]).output().await.unwrap();
    assert!(built.status.success(), "{built:?}");
    let tenant = Tenant::ready(launch(name)).await;
    assert_ne!(tenant.says("grep -c BrokenLocale /proc/self/maps").await, "0", "the image's own have it");
    let ours = "for p in /proc/[0-9]*; do case $(readlink $p/exe) in /.gpurent/kit/*) echo $p; \
                grep -l BrokenLocale $p/maps; esac; done";
    let said = tenant.says(ours).await;
    assert!(said.lines().any(|line| line == "/proc/1") && !said.contains("maps"), "{said}");
    tenant.gone().await;
}

#[tokio::test]
async fn volumes_over_what_a_login_needs() {
    lets_in(
        accounts("volumes")
            .file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\n")
            .says("VOLUME /root /etc /home /tmp /run /var"),
    )
    .await;
    lets_in(accounts("run-linked").link("run", "/var/run").folder("var/run", 0o700, 7).file("dev/null", 0o644, b""))
        .await;
}

/// What the image's program finds out about itself, as Docker starts it and as we do.
#[tokio::test]
async fn a_program_runs_as_docker_would_run_it() {
    let passwd = b"root:x:0:0:root:/root:/bin/sh\napp:x:1234:1234::/srv:/bin/sh\n";
    let group = b"root:x:0:\napp:x:1234:\nvideo:x:44:app\nwww:x:33:\n";
    let users = ["app", "1234", "app:www", "app:99", "54321", "54321:33", "root", "0:44", "app:video"];
    for (number, user) in users.iter().enumerate() {
        let image = Image::busybox(&format!("user-{number}"))
            .file("etc/passwd", 0o644, passwd)
            .file("etc/group", 0o644, group)
            .says("WORKDIR /not/there/yet")
            .says("ENV a.b=dot my-var=dash EMPTY=")
            .says(&format!("USER {user}"))
            .says(r#"ENTRYPOINT ["/bin/sh", "-c"]"#)
            .says(r#"CMD ["id; pwd; env | grep -v -e RENTAL -e HOSTNAME -e NVIDIA -e CUDA -e PYTHON -e SHLVL; grep SigIgn /proc/self/status; grep SigBlk /proc/self/status; echo end >/dev/stdout; exec sleep 1000"]"#)
            .made()
            .await;
        let expected = docker(&["run", "-d", &image]).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let theirs = docker(&["logs", &expected]).await;
        docker(&["rm", "-f", &expected]).await;
        let tenant = Tenant::ready(launch(&image)).await;
        let ours = tenant.log_until("end").await;
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(|line| line.trim_end().to_owned()).collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        assert_eq!(sorted(&ours), sorted(&theirs), "USER {user}");
        assert!(ours.contains("end"), "/dev/stdout takes it: {ours}");
        tenant.gone().await;
    }
}

#[tokio::test]
async fn a_program_has_exactly_the_renters_environment_too() {
    let image = Image::busybox("environment").says(r#"CMD ["/bin/sleep", "1000"]"#).made().await;
    let mut launch = launch(&image);
    let long = "x".repeat(60_000);
    let pairs = [
        ("spring.datasource.url", "jdbc:x"),
        ("my-var", "a b"),
        ("LINES_", "one\ntwo\n"),
        ("EMPTY", ""),
        ("NVIDIA_DRIVER_CAPABILITIES", "compute,video"),
        ("LONG", long.as_str()),
    ];
    launch.environment = pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect::<BTreeMap<_, _>>()
        .try_into()
        .unwrap();
    let tenant = Tenant::ready(launch).await;
    // A shell drops what it cannot hold, so it is not asked.
    let session = tenant.says("cat /proc/$$/environ; echo; echo ${#LONG}").await.replace('\0', "\n");
    let program = tenant
        .says("for p in /proc/[0-9]*; do grep -q ^/bin/sleep $p/cmdline && cat $p/environ; done")
        .await
        .replace('\0', "\n");
    for said in [&program, &session] {
        for expected in [
            "spring.datasource.url=jdbc:x",
            "my-var=a b",
            "LINES_=one\ntwo\n",
            "EMPTY=\n",
            "NVIDIA_DRIVER_CAPABILITIES=compute,video",
        ] {
            assert!(said.contains(expected), "{expected:?} in {said:.2000}");
        }
    }
    assert!(session.ends_with("60000"), "{}", &session[session.len() - 100..]);
    assert!(program.contains("HOME=/") && !program.contains("SHLVL"), "{program:.2000}");
    tenant.gone().await;
}

#[tokio::test]
async fn a_stop_signal_is_understood_in_every_form() {
    for (number, (signal, trapped)) in
        [("SIGRTMIN+3", "37"), ("37", "37"), ("sigusr1", "USR1"), ("SIGINT", "INT")].iter().enumerate()
    {
        let program = format!(r#"CMD ["/bin/sh", "-c", "trap 'exit 7' {trapped}; while true; do sleep 0.05; done"]"#);
        let image =
            Image::busybox(&format!("stop-{number}")).says(&program).says(&format!("STOPSIGNAL {signal}")).made().await;
        for init in [Some(true), Some(false)] {
            let mut launch = launch(&image);
            launch.init = init;
            let tenant = Tenant::ready(launch).await;
            let exit = tenant.runtime.stop(tenant.launch.id, Duration::from_secs(10)).await.unwrap().unwrap();
            assert_eq!(exit.code, 7, "{signal}, init {init:?}");
            tenant.gone().await;
        }
    }
}

#[tokio::test]
async fn a_program_is_process_1_where_it_has_to_be() {
    let init = b"#!/bin/sh\nif [ $$ -ne 1 ]; then echo not process 1; exit 100; fi\necho process $$\nexec sleep 1000\n";
    let images = [
        Image::busybox("init").file("init", 0o755, init).says(r#"ENTRYPOINT ["/init"]"#),
        Image::busybox("sbin-init")
            .file("sbin/init", 0o755, b"#!/bin/sh\necho process $$\nexec sleep 1000\n")
            .says(r#"CMD ["/sbin/init"]"#),
        Image::busybox("asks")
            .file("opt/start.sh", 0o755, init)
            .says(r#"ENTRYPOINT ["/opt/start.sh"]"#)
            .says("CMD [\"x\"]"),
        Image::busybox("execs")
            .file("start", 0o755, b"#!/bin/sh\nexec /init\n")
            .file("init", 0o755, init)
            .says(r#"ENTRYPOINT ["/start"]"#),
    ];
    for image in images {
        let image = image.made().await;
        let tenant = Tenant::ready(launch(&image)).await;
        assert_eq!(tenant.says("id -u").await, "0", "{image}");
        assert!(tenant.log().await.contains("process 1"), "{image}: {}", tenant.log().await);
        tenant.runtime.message_user(tenant.launch.id, "hello").await.unwrap();
        assert!(tenant.says("cat /.gpurent/notice").await.contains("hello"), "{image}");
        tenant.gone().await;
    }
    // As asked.
    let image =
        Image::busybox("plain").says(r#"CMD ["/bin/sh", "-c", "echo process $$; exec sleep 1000"]"#).made().await;
    for (init, is_first) in [(None, false), (Some(true), false), (Some(false), true)] {
        let mut launch = launch(&image);
        launch.init = init;
        let tenant = Tenant::ready(launch).await;
        let log = tenant.log().await;
        assert_eq!(log.trim_end() == "process 1", is_first, "init {init:?}: {log}");
        tenant.gone().await;
    }
}

#[tokio::test]
async fn an_images_own_server_keeps_port_22() {
    let image = Image::busybox("own-sshd")
        .says(r#"CMD ["nc", "-ll", "-p", "22", "-e", "/bin/echo", "SSH-2.0-of-the-image"]"#)
        .says("EXPOSE 22")
        .made()
        .await;
    let tenant = Tenant::ready(launch(&image)).await;
    assert_eq!(tenant.says("id -u; nc 127.0.0.1 22 </dev/null").await, "0\nSSH-2.0-of-the-image");
    tenant.gone().await;
}

#[tokio::test]
async fn a_health_check_is_not_run_and_orphans_are_reaped() {
    let orphans = r#"CMD ["/bin/sh", "-c", "while true; do (sleep 0.01 &); sleep 0.05; done"]"#;
    let image = Image::busybox("health").says(orphans).says("HEALTHCHECK --interval=1s CMD /bin/echo").made().await;
    let tenant = Tenant::ready(launch(&image)).await;
    let check = docker(&["inspect", "--format", "{{.Config.Healthcheck.Test}}", &tenant.container]).await;
    assert_eq!(check, "[NONE]");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let zombies = tenant.says("grep -l '^State:.Z' /proc/[0-9]*/status").await;
    assert!(zombies.lines().count() < 3, "{zombies}");
    tenant.gone().await;
}

#[tokio::test]
async fn what_cannot_work_fails_with_a_reason_that_a_renter_understands() {
    let foreign = Image::busybox("foreign").for_architecture("arm64").made().await;
    let refused = Tenant::refused(launch(&foreign)).await;
    assert!(
        matches!(&refused, RuntimeError::WrongArchitecture { found, host, .. } if found == "arm64" && host == "amd64"),
        "{refused:?}"
    );
    let broken = Image::busybox("broken-shell")
        .file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/bash\n")
        .file("bin/bash", 0o755, b"\x7fELF of another world")
        .says(IDLE)
        .made()
        .await;
    let refused = Tenant::refused(launch(&broken)).await;
    assert!(
        matches!(&refused, RuntimeError::NoLogin { by_image: true, reason } if reason.contains("/bin/bash")),
        "{refused:?}"
    );
    let nobody = Image::busybox("nobody").says("USER nobody-here").says(IDLE).made().await;
    let refused = Tenant::refused(launch(&nobody)).await;
    assert!(matches!(&refused, RuntimeError::Exited(exit) if exit.code == 125), "{refused:?}");
    // The engine itself reads it, and says so.
    let folder = accounts("passwd-folder").folder("etc/passwd", 0o755, 0).made().await;
    let refused = Tenant::refused(launch(&folder)).await;
    assert!(matches!(&refused, RuntimeError::Refused(_)), "{refused:?}");
    let none = Image::busybox("no-program").says(r#"CMD ["/no/such/program"]"#).made().await;
    let refused = Tenant::refused(launch(&none)).await;
    assert!(matches!(&refused, RuntimeError::Exited(exit) if exit.code == 127), "{refused:?}");
}

/// Whether a container was refused for its image, before it started or by our own entry point.
fn is_by_the_image(refused: &RuntimeError) -> bool {
    match refused {
        RuntimeError::NoLogin { by_image, .. } => *by_image,
        RuntimeError::Exited(exit) => exit.code == 125,
        // The engine itself does not mount twice in one place.
        RuntimeError::Refused(_) => true,
        _ => false,
    }
}

#[tokio::test]
async fn an_image_that_makes_the_hosts_files_its_own_is_refused() {
    let images = [
        Image::busybox("volume-over-kit").says("VOLUME /.gpurent/kit/libexec").says(IDLE),
        Image::busybox("volume-over-run").says("VOLUME //.gpurent/./run/x").says(IDLE),
        Image::busybox("link").link(".gpurent", "/elsewhere").folder("elsewhere", 0o755, 0).says(IDLE),
        Image::busybox("linked-volume")
            .link(".gpurent", "/x")
            .folder("x", 0o755, 0)
            .says("VOLUME /x/kit/libexec")
            .says(IDLE),
        Image::busybox("volume-by-link").link("a", "/.gpurent").says("VOLUME /a/kit").says(IDLE),
    ];
    for image in images {
        let image = image.made().await;
        let refused = Tenant::refused(launch(&image)).await;
        assert!(is_by_the_image(&refused), "{image}: {refused:?}");
    }
}

#[tokio::test]
async fn a_hostile_program_hurts_only_itself() {
    // It freezes and kills whatever it can, takes our port and speaks in our place.
    let program = r#"CMD ["/bin/sh", "-c", "trap '' TERM; nc -ll -p 61022 -e /bin/echo SSH-2.0-evil & while true; do kill -STOP 1; kill -KILL 1; sleep 0.1; done"]"#;
    let image = Image::busybox("kills").says(program).made().await;
    let tenant = Tenant::ready(launch(&image)).await;
    assert_eq!(tenant.says("id -u").await, "0");
    let begun = Instant::now();
    tenant.runtime.stop(tenant.launch.id, Duration::from_secs(2)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8));
    tenant.gone().await;
    // Where it is process 1 itself, it can: and then it is told.
    let program = r#"CMD ["/bin/sh", "-c", "sleep 0.2; for p in /proc/[0-9]*; do kill -KILL ${p#/proc/}; done; while true; do nc -ll -p 61022 -e /bin/echo SSH-2.0-evil; sleep 0.1; done"]"#;
    let image = Image::busybox("poses").says(program).made().await;
    let mut posing = launch(&image);
    posing.init = Some(false);
    let runtime = support::runtime().await;
    runtime.prepare(&posing, None, &support::Silent).await.unwrap();
    runtime.create(&posing, &secrets(&password())).await.unwrap();
    runtime.start(&posing).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let verified = runtime.verify(&posing, Duration::from_secs(2)).await;
    assert!(matches!(&verified, Err(RuntimeError::NoLogin { by_image: true, .. })), "{verified:?}");
    runtime.remove(posing.id).await.unwrap();
}

#[tokio::test]
async fn a_kit_that_was_tampered_with_is_healed() {
    let runtime = support::runtime().await;
    let launch = launch("gpurent-test/busybox:1");
    runtime.prepare(&launch, None, &support::Silent).await.unwrap();
    let volumes = docker(&["volume", "ls", "-q", "--filter", "name=gpurent-kit-"]).await;
    let created = runtime.create(&launch, &secrets(&password())).await.unwrap();
    let format = "{{range .Mounts}}{{if eq .Destination \"/.gpurent/kit\"}}{{.Name}}{{end}}{{end}}";
    let volume = docker(&["inspect", "--format", format, &created.container.to_string()]).await;
    assert!(volumes.contains(&volume), "{volumes}");
    let spoil = format!("{volume}:/kit");
    let spoiled = docker(&[
        "run",
        "--rm",
        "-v",
        &spoil,
        "--entrypoint",
        "/bin/sh",
        "gpurent-test/debian:12",
        "-c",
        "mv /kit/sshd_config /kit/x && echo evil >/kit/sshd_config && rm /kit/session && echo done",
    ])
    .await;
    assert_eq!(spoiled, "done");
    runtime.remove(launch.id).await.unwrap();
    // The next start of an agent looks.
    let tenant = Tenant::ready(launch.clone()).await;
    assert_eq!(tenant.says("id -u").await, "0");
    tenant.gone().await;
}

#[tokio::test]
async fn layouts_that_nobody_asked_for() {
    let root = b"root:x:0:0::/root:/bin/sh\n".as_slice();
    let huge = [root, b"user:x:5000:5000::/:/bin/sh\n".repeat(60_000).as_slice()].concat();
    let members: String = (0..500).map(|number| format!("g{number}:x:{}:root,gpu-user\n", 2000 + number)).collect();
    lets_in(accounts("etc-linked").link("etc", "usr/etc").file("usr/etc/passwd", 0o644, root)).await;
    lets_in(accounts("huge-passwd").file("etc/passwd", 0o644, &huge)).await;
    lets_in(accounts("many-groups").file("etc/passwd", 0o644, root).file("etc/group", 0o644, members.as_bytes())).await;
    lets_in(accounts("two-roots").file("etc/passwd", 0o644, b"toor:x:0:0::/:/bin/none\nroot:x:0:0::/root:/bin/sh\n"))
        .await;
    lets_in(accounts("home-is-a-file").file("etc/passwd", 0o644, root).file("root", 0o644, b"no folder")).await;
    lets_in(accounts("home-is-a-link").file("etc/passwd", 0o644, root).link("root", "/data/root")).await;
    lets_in(accounts("home-is-the-root").file("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n")).await;
    lets_in(accounts("sh-in-a-circle").link("usr/bin/sh", "/usr/bin/sh").file(
        "etc/passwd",
        0o644,
        b"root:x:0:0::/root:/usr/bin/sh\n",
    ))
    .await;
    lets_in(
        accounts("read-only-modes")
            .file("etc/passwd", 0o400, root)
            .file("etc/group", 0o000, b"root:x:0:\n")
            .folder("tmp", 0o000, 0),
    )
    .await;
}

#[tokio::test]
async fn environments_that_nobody_asked_for() {
    lets_in(accounts("no-path").says("ENV PATH=")).await;
    lets_in(
        accounts("spaced-path")
            .says("ENV PATH=\"/opt/with space:/bin\" HOME=/nowhere/at/all SHELL=/bin/none USER=x LOGNAME=y"),
    )
    .await;
    lets_in(
        accounts("as-if-over-ssh")
            .says("ENV SSH_CONNECTION=\"1.2.3.4 1 5.6.7.8 2\" SSH_TTY=/dev/pts/99 TERM=none DISPLAY=:7"),
    )
    .await;
    lets_in(
        accounts("shells")
            .says("ENV ENV=/nowhere BASH_ENV=/nowhere IFS=/ PS4=x SHELLOPTS=xtrace POSIXLY_CORRECT=1 TMPDIR=/nowhere"),
    )
    .await;
    lets_in(accounts("libraries").says("ENV LD_BIND_NOW=1 LD_DEBUG=all GCONV_PATH=/evil LOCPATH=/evil MALLOC_CHECK_=3 GLIBC_TUNABLES=glibc.malloc.check=3")).await;
    lets_in(accounts("workdir").says("WORKDIR /bin/sh/../../tmp").says("EXPOSE 61022").says("ONBUILD RUN false")).await;
}

#[tokio::test]
async fn a_workspace_at_the_home_is_its_users() {
    let directory = tempfile::tempdir().unwrap();
    let root = gpurent_docker::WorkspaceRoot::new(&directory.path().join("vms")).unwrap();
    for (user, home) in [("root", "/root"), ("gpu-user", "/home/gpu-user")] {
        let mut launch = launch("gpurent-test/busybox:1");
        launch.login = user.parse().unwrap();
        launch.workspace =
            Some(Workspace { folder: WorkspaceFolder::of(&user.parse().unwrap()), mount: home.parse().unwrap() });
        let runtime = support::runtime().await.with_access_dir(support::access_dir()).with_workspaces(root.clone());
        let tenant = Tenant::up_on(runtime, launch, &password()).await;
        assert_eq!(tenant.says("cd; pwd; echo kept >file && cat file").await, format!("{home}\nkept"), "{user}");
        tenant.gone().await;
    }
}

/// A runtime with workspaces in a folder, and a launch that has one.
async fn with_workspace(folder: &std::path::Path, image: &str, mount: &str) -> (DockerRuntime, LaunchSpec) {
    let root = gpurent_docker::WorkspaceRoot::new(&folder.join("vms")).unwrap();
    let mut launch = launch(image);
    let folder = WorkspaceFolder::of(&"mallory".parse().unwrap());
    launch.workspace = Some(Workspace { folder, mount: mount.parse().unwrap() });
    let runtime = support::runtime().await.with_access_dir(support::access_dir());
    (runtime.with_workspaces(root), launch)
}

#[tokio::test]
async fn a_workspace_by_a_link_covers_nothing_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    let image = Image::busybox("workspace-by-link").link("a", "/.gpurent").says(IDLE).made().await;
    for mount in ["/a/kit", "/a/run/x", "/a/access"] {
        let (runtime, launch) = with_workspace(directory.path(), &image, mount).await;
        let refused = Tenant::refused_on(runtime, launch).await;
        assert!(is_by_the_image(&refused), "{mount}: {refused:?}");
    }
}

#[tokio::test]
async fn a_workspace_takes_the_place_of_a_volume_and_holds_none() {
    let directory = tempfile::tempdir().unwrap();
    let image = Image::busybox("volumes-and-workspace").folder("data/models", 0o755, 0);
    let image = image.says("VOLUME /workspace /home /data/models").says(IDLE).made().await;
    for mount in ["/workspace", "/home/me/work"] {
        let (runtime, launch) = with_workspace(directory.path(), &image, mount).await;
        let tenant = Tenant::up_on(runtime, launch, &password()).await;
        assert_eq!(tenant.says(&format!("echo kept >{mount}/file && cat {mount}/file")).await, "kept", "{mount}");
        tenant.gone().await;
    }
    // A renter's other container could lead the engine elsewhere, just when it mounts the volume.
    let (runtime, launch) = with_workspace(directory.path(), &image, "/data").await;
    let refused = Tenant::refused_on(runtime, launch).await;
    assert!(
        matches!(&refused, RuntimeError::NoLogin { by_image: true, reason } if reason.contains("/data/models")),
        "{refused:?}"
    );
}

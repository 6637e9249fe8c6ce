//! What people do over SSH, with OpenSSH's own client.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use gpurent_core::model::{Credential, GeneratedHostKeys, HostKey, HostKeySource, Secrets};
use gpurent_core::runtime::ContainerRuntime;
use support::image::{Image, key_pair};
use support::{Tenant, docker, launch, password, secrets, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

const TOOLS: &str = "gpurent-test/tools:1";

/// Runs a client with something typed into it.
async fn type_into(command: &mut Command, typed: &[u8]) -> Output {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let typed = typed.to_vec();
    let writes = tokio::spawn(async move { stdin.write_all(&typed).await });
    let output =
        tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await.expect("it ends").unwrap();
    // A program that does not read all of it is fine.
    drop(writes.await.unwrap());
    output
}

#[tokio::test]
async fn a_login_shell_is_one_and_keeps_the_images_path() {
    let tenant = Tenant::ready(launch(TOOLS)).await;
    let shown = type_into(&mut tenant.client(&["-tt"]), b"echo \"[$0] [$PATH]\"; conda; exit\n").await;
    let shown = text(&shown);
    assert!(shown.contains("[-bash] [/opt/conda/bin:"), "{shown}");
    assert!(shown.contains("from conda"), "{shown}");
    assert!(shown.contains("outlives") || shown.contains("everything in it is then gone"), "the greeting: {shown}");
    // A command reads ~/.bashrc, as Debian's and others' bash does under sshd.
    tenant.says("printf 'export FROM_RC=yes\\n' >~/.bashrc").await;
    assert_eq!(tenant.says("echo $FROM_RC; echo $PATH").await.lines().next(), Some("yes"));
    assert!(tenant.says("echo $PATH").await.starts_with("/opt/conda/bin:"));
    // A script over a pipe is not greeted: it would take that for output.
    let piped = type_into(&mut tenant.client(&["-T"]), b"echo alone\n").await;
    assert_eq!(text(&piped), "alone");
    tenant.gone().await;
}

#[tokio::test]
async fn an_accounts_own_shell_is_used() {
    let image = "gpurent-test/tools:1";
    let tenant = Tenant::ready(launch(image)).await;
    tenant.says("usermod -s /usr/bin/zsh root").await;
    tenant.runtime.replace_access(&tenant.launch, &secrets(&password())).await.unwrap();
    assert_eq!(tenant.says("getent passwd root | cut -d: -f7").await, "/usr/bin/zsh");
    tenant.gone().await;
}

#[tokio::test]
async fn exit_codes_languages_and_terminals_are_passed_on() {
    let tenant = Tenant::ready(launch(TOOLS)).await;
    for code in [0, 1, 7, 127, 255] {
        assert_eq!(tenant.ssh("mySecurePassword123", &format!("exit {code}")).await.status.code(), Some(code));
    }
    assert!(!tenant.ssh("mySecurePassword123", "kill -TERM $$").await.status.success());
    assert_eq!(tenant.says("echo $LANG; locale charmap").await, "C.UTF-8\nUTF-8");
    let mut german = tenant.client(&["-o", "SendEnv=LC_ALL", "-tt"]);
    german.env("LC_ALL", "de_DE.UTF-8").env("TERM", "xterm-kitty").arg("echo $LC_ALL $TERM; tty");
    let shown = text(&type_into(&mut german, b"").await);
    assert!(shown.contains("de_DE.UTF-8 xterm-kitty") && shown.contains("/dev/pts/"), "{shown}");
    tenant.gone().await;
}

#[tokio::test]
async fn large_commands_scripts_and_passwords_pass() {
    let long = "p".repeat(256);
    let credential = Credential::Password(gpurent_core::model::Password::new(long.clone()).unwrap());
    let tenant = Tenant::up_with(launch(TOOLS), &credential, true).await;
    let command = format!("echo {} | wc -c", "y".repeat(60_000));
    assert_eq!(text(&tenant.ssh(&long, &command).await), "60001");
    // How VS Code and JetBrains begin: a long script into `bash`, over a connection without a terminal.
    let script = format!("cat >/dev/null <<'END'\n{}\nEND\necho begun $((6 * 7))\n", "line of a script\n".repeat(8000));
    let mut ssh = Command::new("sshpass");
    ssh.env("SSHPASS", &long).args(["-e", "ssh", "-T", "-o", "PubkeyAuthentication=no"]);
    let begun = type_into(tenant.connect(&mut ssh).arg("bash"), script.as_bytes()).await;
    assert_eq!(text(&begun), "begun 42");
    tenant.gone().await;
}

/// What is read from an address, until it is closed or says no more for a moment.
async fn banner(port: u16) -> String {
    let mut said = Vec::new();
    for _ in 0..50 {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
            let mut bytes = [0; 64];
            if let Ok(Ok(length)) = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut bytes)).await {
                said.extend_from_slice(&bytes[..length]);
            }
            if !said.is_empty() {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn ports_are_forwarded_both_ways_and_by_proxy() {
    let tenant = Tenant::ready(launch(TOOLS)).await;
    tenant.says("socat TCP-LISTEN:7000,fork,reuseaddr SYSTEM:'echo inside' >/dev/null 2>&1 & sleep 0.2").await;
    let outside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outside_port = outside.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = outside.accept().await {
            // Who asks may be gone.
            drop(stream.write_all(b"outside\n").await);
        }
    });
    let (local, dynamic) = (support::free_port().get(), support::free_port().get());
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("forwarded");
    let forwards = [
        format!("-L{local}:127.0.0.1:7000"),
        format!("-R7001:127.0.0.1:{outside_port}"),
        format!("-D{dynamic}"),
        format!("-L{}:/tmp/inside.sock", socket.display()),
    ];
    let mut ssh =
        tenant.client(&[&forwards[0], &forwards[1], &forwards[2], &forwards[3], "-oExitOnForwardFailure=yes"]);
    let mut open = ssh
        .arg("socat UNIX-LISTEN:/tmp/inside.sock,fork SYSTEM:'echo by socket'")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(banner(local).await, "inside\n");
    assert_eq!(tenant.says("socat -u TCP:127.0.0.1:7001 -").await, "outside");
    let mut proxied = Command::new("curl");
    proxied.args(["-s", "-m", "3", "--socks5-hostname", &format!("127.0.0.1:{dynamic}"), "telnet://localhost:7000"]);
    let proxied = proxied.stdin(Stdio::null()).output().await.unwrap();
    assert_eq!(text(&proxied), "inside", "{proxied:?}");
    let mut by_socket = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let mut said = String::new();
    by_socket.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "by socket\n");
    open.kill().await.unwrap();
    let stdio = tenant.client(&["-W", "127.0.0.1:7000"]).stdin(Stdio::null()).output().await.unwrap();
    assert_eq!(text(&stdio), "inside");
    tenant.gone().await;
}

#[tokio::test]
async fn agents_jumps_shared_connections_and_x11() {
    let folder = tempfile::tempdir().unwrap();
    let (key, public) = key_pair(folder.path(), &["ed25519"]).await;
    let key = key.to_string_lossy().into_owned();
    let tenant = Tenant::up_with(launch(TOOLS), &Credential::PublicKeys(public.parse().unwrap()), true).await;
    let port = tenant.launch.ssh_port().unwrap();
    // One shell with an agent of its own, so that nothing of this machine's is used.
    let config = folder.path().join("config");
    let socket = folder.path().join("shared");
    std::fs::write(
        &config,
        format!(
            "Host tenant\n HostName 127.0.0.1\n Port {port}\nHost inner\n HostName 127.0.0.1\n Port 61022\n ProxyJump tenant\n\
             Host *\n User root\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n IdentityFile {key}\n"
        ),
    )
    .unwrap();
    let script = format!(
        "eval $(ssh-agent) >/dev/null; ssh-add -q {key}; F='ssh -F {config}'\n\
         echo agent $($F -A tenant 'ssh-add -l | wc -l')\n\
         echo jump $($F inner 'id -u')\n\
         $F -M -S {socket} -o ControlPersist=yes -fN tenant </dev/null >/dev/null 2>&1\n\
         echo shared $($F -S {socket} tenant 'echo once') $($F -S {socket} tenant 'echo twice')\n\
         $F -S {socket} -O exit tenant 2>/dev/null\n\
         export DISPLAY=:99 XAUTHORITY={folder}/xauth; xauth -q add :99 . 00112233445566778899aabbccddeeff 2>/dev/null\n\
         echo x11 $($F -Y tenant 'echo $DISPLAY')\n\
         kill $SSH_AGENT_PID",
        config = config.display(),
        socket = socket.display(),
        folder = folder.path().display(),
    );
    let done = tokio::time::timeout(Duration::from_secs(60), Command::new("bash").args(["-c", &script]).output()).await;
    let shown = text(&done.unwrap().unwrap());
    for expected in ["agent 1", "jump 0", "shared once twice", "x11 localhost:10.0"] {
        assert!(shown.contains(expected), "{expected:?} in {shown}");
    }
    tenant.gone().await;
}

#[tokio::test]
async fn files_go_by_rsync_and_git() {
    let folder = tempfile::tempdir().unwrap();
    let (key, public) = key_pair(folder.path(), &["ed25519"]).await;
    let content: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(folder.path().join("data"), &content).unwrap();
    // With rsync in the image, and with the kit's.
    for image in [TOOLS, "gpurent-test/debian:12", "gpurent-test/shellless:1"] {
        let tenant = Tenant::up_with(launch(image), &Credential::PublicKeys(public.parse().unwrap()), true).await;
        let ssh = format!(
            "ssh -p {} -i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            tenant.launch.ssh_port().unwrap(),
            key.display()
        );
        let there = Command::new("rsync")
            .args(["-az", "-e", &ssh])
            .arg(folder.path().join("data"))
            .arg("root@127.0.0.1:/tmp/data")
            .output()
            .await;
        let there = there.unwrap();
        assert!(there.status.success(), "{image}: {there:?}");
        let back = Command::new("rsync")
            .args(["-a", "-e", &ssh, "root@127.0.0.1:/tmp/data"])
            .arg(folder.path().join("back"))
            .output()
            .await
            .unwrap();
        assert!(back.status.success(), "{image}: {back:?}");
        assert_eq!(std::fs::read(folder.path().join("back")).unwrap(), content, "{image}");
        if image == TOOLS {
            let made = tenant.ssh_with_key(&key.to_string_lossy(), "git init -q --bare /srv/repo.git").await;
            assert!(made.status.success(), "{made:?}");
            let script = format!(
                "set -e; cd {}; export GIT_SSH_COMMAND='{ssh}' GIT_CONFIG_NOSYSTEM=1 HOME=$PWD\n\
                 git init -q r; cd r; git config user.name t; git config user.email t@example.org; echo a >a; git add a; git commit -qm a\n\
                 git push -q root@127.0.0.1:/srv/repo.git HEAD:refs/heads/main; cd ..; git clone -q -b main root@127.0.0.1:/srv/repo.git c; cat c/a",
                folder.path().display()
            );
            let cloned = Command::new("bash").args(["-c", &script]).output().await.unwrap();
            assert_eq!(text(&cloned), "a", "{cloned:?}");
        }
        tenant.gone().await;
    }
}

#[tokio::test]
async fn many_log_in_at_once_and_the_silent_keep_nobody_out() {
    let tenant = Tenant::ready(launch("gpurent-test/busybox:1")).await;
    let port = tenant.launch.ssh_port().unwrap().get();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(tenant.says("echo in").await, "in");
    tenant.runtime.verify(&tenant.launch, Duration::from_secs(20)).await.unwrap();
    drop(silent);
    // Whatever is said at the port, the server stays.
    let noise: [&[u8]; 6] = [
        b"GPURENT-CHECK guess\n",
        b"GPURENT-CHECK ",
        b"GPURENT",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 4096],
        b"SSH-2.0-x\r\n\0\0\xff\xff",
    ];
    for said in noise.iter().cycle().take(60) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        // It may be cut off in the middle.
        drop(stream.write_all(said).await);
    }
    tenant.runtime.verify(&tenant.launch, Duration::from_secs(20)).await.unwrap();
    let logins: Vec<_> = (0..64)
        .map(|_| tenant.client(&[]).arg("echo in").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    let mut got_in = 0;
    for login in logins {
        got_in += usize::from(text(&login.wait_with_output().await.unwrap()) == "in");
    }
    assert_eq!(got_in, 64);
    tenant.gone().await;
}

#[tokio::test]
async fn a_server_has_three_keys_and_keeps_them() {
    let folder = tempfile::tempdir().unwrap();
    let (rsa, _) = key_pair(folder.path(), &["rsa", "-b", "2048"]).await;
    let rsa = HostKey::from_openssh(std::fs::read_to_string(rsa).unwrap()).unwrap();
    let keys: gpurent_core::model::HostKeys = GeneratedHostKeys.next().iter().cloned().chain([rsa]).collect();
    let mine = Secrets { host_keys: keys.clone(), ..secrets(&password()) };
    let launch = launch("gpurent-test/busybox:1");
    let runtime = support::runtime().await.with_access_dir(support::access_dir());
    let known = folder.path().join("known_hosts");
    std::fs::write(&known, keys.known_hosts("mine")).unwrap();
    // The next launch is another container with the same keys.
    for attempt in 0..2 {
        let mut launch = launch.clone();
        for _ in 0..attempt {
            launch.id = launch.id.next();
        }
        runtime.prepare(&launch, None, &support::Silent).await.unwrap();
        runtime.create(&launch, &mine).await.unwrap();
        runtime.start(&launch).await.unwrap();
        runtime.verify(&launch, Duration::from_secs(20)).await.unwrap();
        for algorithm in ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512"] {
            let seen = Command::new("sshpass")
                .env("SSHPASS", "mySecurePassword123")
                .args([
                    "-e",
                    "ssh",
                    "-o",
                    "PubkeyAuthentication=no",
                    "-o",
                    "HostKeyAlias=mine",
                    "-o",
                    "StrictHostKeyChecking=yes",
                ])
                .args([
                    "-o",
                    &format!("UserKnownHostsFile={}", known.display()),
                    "-o",
                    &format!("HostKeyAlgorithms={algorithm}"),
                ])
                .args(["-p", &launch.ssh_port().unwrap().to_string(), "root@127.0.0.1", "echo known"])
                .output()
                .await
                .unwrap();
            assert_eq!(text(&seen), "known", "{algorithm}: {seen:?}");
        }
        runtime.remove(launch.id).await.unwrap();
    }
}

#[tokio::test]
async fn keys_are_added_and_removed_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (first, first_public) = key_pair(folder.path(), &["ed25519"]).await;
    let (second, second_public) = key_pair(folder.path(), &["ecdsa"]).await;
    let (third, third_public) = key_pair(folder.path(), &["rsa", "-b", "2048"]).await;
    let both = format!("{first_public}{second_public}");
    let tenant =
        Tenant::up_with(launch("gpurent-test/busybox:1"), &Credential::PublicKeys(both.parse().unwrap()), true).await;
    let gets_in =
        async |key: &std::path::Path| tenant.ssh_with_key(&key.to_string_lossy(), "true").await.status.success();
    assert!(gets_in(&first).await && gets_in(&second).await && !gets_in(&third).await);
    let changed = format!("{second_public}{third_public}");
    tenant
        .runtime
        .replace_access(&tenant.launch, &secrets(&Credential::PublicKeys(changed.parse().unwrap())))
        .await
        .unwrap();
    assert!(!gets_in(&first).await && gets_in(&second).await && gets_in(&third).await);
    tenant.gone().await;
}

#[tokio::test]
async fn the_program_log_is_the_programs_and_logins_have_their_own() {
    use gpurent_core::runtime::ContainerExec;
    for bind in [true, false] {
        let image = Image::busybox("logs").says(r#"CMD ["/bin/sh", "-c", "echo mine; exec sleep 1000"]"#).made().await;
        let tenant = Tenant::up_with(launch(&image), &password(), bind).await;
        tenant.says("true").await;
        assert!(!tenant.ssh("wrong-password", "true").await.status.success());
        assert_eq!(tenant.log().await.trim(), "mine");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let log = tenant.runtime.access_log(tenant.launch.id, 100).await.unwrap().join("\n");
        assert!(log.contains("Accepted password for root from") && log.contains("Failed password for root"), "{log}");
        assert!(log.starts_with("20"), "a time: {log}");
        tenant.gone().await;
    }
}

#[tokio::test]
async fn everything_hears_of_the_end_and_sessions_stay_until_then() {
    // The program takes its time to end, since everything in the container ends with the first process.
    let program =
        r#"CMD ["/bin/sh", "-c", "trap 'echo program told; sleep 1; exit 0' TERM; while true; do sleep 0.05; done"]"#;
    let image = Image::busybox("ends").says(program).made().await;
    for init in [Some(true), Some(false)] {
        let mut launch = launch(&image);
        launch.init = init;
        let tenant = Tenant::ready(launch).await;
        // Begun over SSH and left alone, as with setsid or nohup.
        let job = "sh -c \"trap 'echo job told >/proc/1/fd/1; exit 0' TERM; echo job listens >/proc/1/fd/1; while true; do sleep 0.05; done\" </dev/null >/dev/null 2>&1 &";
        tenant.says(&format!("/bin/busybox setsid {job}")).await;
        let listens = async {
            while !tenant.log().await.contains("job listens") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), listens).await.expect("the job begins");
        if init == Some(true) {
            let mut session = tenant
                .client(&[])
                .arg("sleep 3; echo still here")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            tokio::time::sleep(Duration::from_millis(1500)).await;
            tenant.runtime.signal_stop(tenant.launch.id).await.unwrap();
            tokio::time::sleep(Duration::from_millis(700)).await;
            let log = tenant.log().await;
            assert!(log.contains("program told") && log.contains("job told"), "{log}");
            let mut said = String::new();
            session.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "still here\n", "the session lives on");
            assert_eq!(docker(&["inspect", "--format", "{{.State.Running}}", &tenant.container]).await, "true");
        }
        let begun = Instant::now();
        tenant.runtime.stop(tenant.launch.id, Duration::from_secs(10)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let log = tenant.log().await;
        assert!(log.contains("program told"), "{log}");
        assert!(log.contains("job told"), "init {init:?}: {log}");
        tenant.gone().await;
    }
}

#[tokio::test]
async fn a_named_user_may_become_root_where_the_operator_allows_it() {
    for allowed in [false, true] {
        let mut launch = launch(TOOLS);
        launch.login = "gpu-user".parse().unwrap();
        let mut runtime = support::runtime().await.with_access_dir(support::access_dir());
        if allowed {
            runtime = runtime.with_sudo();
        }
        let tenant = Tenant::up_on(runtime, launch, &password()).await;
        let root = tenant.ssh("mySecurePassword123", "sudo -n id -u").await;
        assert_eq!(text(&root) == "0", allowed, "{root:?}");
        let shown = text(&type_into(&mut tenant.client(&["-tt"]), b"exit\n").await);
        assert_eq!(shown.contains("operator does not allow it"), !allowed, "{shown}");
        tenant.gone().await;
    }
}

#[tokio::test]
async fn a_window_that_changes_its_size_is_heard_of() {
    let tenant = Tenant::ready(launch(TOOLS)).await;
    // A client on a terminal of its own, which is made larger while it runs.
    let script = "import fcntl, os, pty, signal, struct, sys, termios, time\n\
        pid, terminal = pty.fork()\n\
        if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])\n\
        size = lambda rows, columns: fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))\n\
        size(24, 80)\n\
        said = b''\n\
        while b'begun' not in said: said += os.read(terminal, 1000)\n\
        size(44, 133); os.kill(pid, signal.SIGWINCH)\n\
        try:\n\
        \x20 while True: said += os.read(terminal, 1000)\n\
        except OSError: pass\n\
        print(said.decode())\n";
    let client = tenant.client(&["-tt"]);
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(client.as_std().get_program()).args(client.as_std().get_args());
    python.env("SSHPASS", "mySecurePassword123").kill_on_drop(true);
    python.arg("trap 'stty size; exit' WINCH; echo begun; while true; do sleep 0.1; done");
    let shown = tokio::time::timeout(Duration::from_secs(20), python.output()).await.expect("it ends").unwrap();
    assert!(text(&shown).contains("44 133"), "{shown:?}");
    tenant.gone().await;
}

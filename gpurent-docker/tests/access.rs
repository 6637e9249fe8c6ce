//! Renters get in, whatever the image holds, and nobody else does.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::process::Stdio;

use gpurent_core::model::Credential;
use gpurent_core::runtime::ContainerRuntime;
use support::{Tenant, launch, password, secrets, text};
use tokio::process::Command;

#[tokio::test]
async fn a_password_logs_in_and_a_wrong_one_does_not() {
    let tenant = Tenant::up(launch("gpurent-test/busybox:1"), &password()).await;
    let right = tenant.ssh("mySecurePassword123", "echo $PYTHONPATH; id -u").await;
    assert_eq!(text(&right), "/workspace\n0", "{right:?}");
    let wrong = tenant.ssh("mySecurePassword124", "echo in").await;
    assert!(!wrong.status.success() && text(&wrong).is_empty(), "{wrong:?}");
    tenant.gone().await;
}

#[tokio::test]
async fn sessions_see_the_images_environment_and_ours() {
    let tenant = Tenant::up(launch("gpurent-test/busybox:1"), &password()).await;
    let seen = tenant
        .ssh(
            "mySecurePassword123",
            "echo $IMAGE_VARIABLE $PATH $NVIDIA_VISIBLE_DEVICES $CUDA_VISIBLE_DEVICES [$LD_PRELOAD]",
        )
        .await;
    let gpu = &tenant.launch.gpus[0].uuid;
    assert_eq!(text(&seen), format!("from-image /opt/image/bin:/bin {gpu} 0 [/evil.so]"));
    tenant.gone().await;
}

#[tokio::test]
async fn a_key_logs_in_and_passwords_do_not() {
    let directory = std::env::temp_dir().join(format!("gpurent-key-{}", uuid()));
    std::fs::create_dir(&directory).unwrap();
    let key = directory.join("id").to_string_lossy().into_owned();
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status().await;
    assert!(made.unwrap().success());
    let public = std::fs::read_to_string(format!("{key}.pub")).unwrap();
    for image in ["gpurent-test/busybox:1", "gpurent-test/debian:12"] {
        let tenant = Tenant::up(launch(image), &Credential::PublicKeys(public.parse().unwrap())).await;
        assert_eq!(text(&tenant.ssh_with_key(&key, "id -u").await), "0", "{image}");
        assert!(!tenant.ssh("", "id -u").await.status.success(), "{image}");
        tenant.gone().await;
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn nobody_gets_in_by_what_the_image_brought() {
    // Its accounts root and dev have the password "open-sesame", and it plants that for us too.
    let tenant = Tenant::up(launch("gpurent-test/backdoor:1"), &password()).await;
    assert_eq!(text(&tenant.ssh("mySecurePassword123", "id -u").await), "0");
    assert!(!tenant.ssh("open-sesame", "id -u").await.status.success());
    let mut dev = tenant.launch.clone();
    dev.login = "dev".parse().unwrap();
    let as_dev = Tenant { launch: dev, runtime: support::runtime().await, container: tenant.container.clone() };
    assert!(!as_dev.ssh("open-sesame", "id -u").await.status.success(), "another account of the image");
    tenant.gone().await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9dG4kjRhQTtWTVzd2t27+t0DEHBPW7iOD23TUiYLio";
    let tenant = Tenant::up(launch("gpurent-test/backdoor:1"), &Credential::PublicKeys(key.parse().unwrap())).await;
    assert!(!tenant.ssh("open-sesame", "id -u").await.status.success(), "a planted hash");
    tenant.gone().await;
}

fn uuid() -> String {
    gpurent_core::id::RentalId::generate().to_string()
}

#[tokio::test]
async fn an_image_without_a_shell_logs_in() {
    let tenant = Tenant::up(launch("gpurent-test/shellless:1"), &password()).await;
    assert_eq!(text(&tenant.ssh("mySecurePassword123", "echo $PYTHONPATH $((1+1))").await), "/workspace 2");
    tenant.gone().await;
}

#[tokio::test]
async fn a_named_user_is_made_and_is_not_root() {
    for image in ["gpurent-test/busybox:1", "gpurent-test/debian:12", "gpurent-test/shellless:1"] {
        let mut launch = launch(image);
        launch.login = "gpu-user".parse().unwrap();
        let tenant = Tenant::up(launch, &password()).await;
        let command = if image.contains("shellless") { "cd; pwd" } else { "cd; pwd; id -u" };
        let seen = text(&tenant.ssh("mySecurePassword123", command).await);
        assert!(seen.starts_with("/home/gpu-user"), "{image}: {seen}");
        assert!(image.contains("shellless") || seen.ends_with("1000"), "{image}: {seen}");
        tenant.gone().await;
    }
}

#[tokio::test]
async fn an_image_that_runs_as_another_user_still_does() {
    let tenant = Tenant::up(launch("gpurent-test/nonroot:1"), &password()).await;
    assert_eq!(text(&tenant.ssh("mySecurePassword123", "id -u").await), "0");
    let logs = gpurent_core::runtime::ContainerRuntime::logs(&tenant.runtime, tenant.launch.id, 10).await.unwrap();
    assert!(logs.iter().any(|line| line.contains("uid=1234(app)")), "{logs:?}");
    tenant.gone().await;
}

#[tokio::test]
async fn a_terminal_is_a_terminal() {
    let tenant = Tenant::up(launch("gpurent-test/debian:12"), &password()).await;
    let mut ssh = Command::new("sshpass");
    ssh.env("SSHPASS", "mySecurePassword123").args(["-e", "ssh", "-tt"]);
    let output = tenant.connect(&mut ssh).arg("tty && echo $PYTHONPATH").stdin(Stdio::null()).output().await.unwrap();
    let seen = text(&output);
    assert!(seen.contains("/dev/pts/") && seen.contains("/workspace"), "{output:?}");
    tenant.gone().await;
}

#[tokio::test]
async fn the_password_stands_nowhere_in_clear() {
    let tenant = Tenant::up(launch("gpurent-test/debian:12"), &password()).await;
    let inspected = support::docker(&["inspect", &tenant.container]).await;
    assert!(inspected.contains(&tenant.launch.id.rental.to_string()));
    assert!(!inspected.contains("mySecurePassword123"));
    let found = tenant
        .ssh(
            "mySecurePassword123",
            "grep -rls mySecurePassword12[3] /etc /root /run /.gpurent /proc/*/environ /proc/*/cmdline",
        )
        .await;
    assert_eq!(text(&found), "");
    tenant.gone().await;
}

#[tokio::test]
async fn variables_that_shells_and_loaders_listen_to_do_not_break_the_entry_point() {
    let mut launch = launch("gpurent-test/debian:12");
    let hostile = [
        ("IFS", "/"),
        ("ENV", "/nonexistent"),
        ("BASH_ENV", "/nonexistent"),
        ("LD_LIBRARY_PATH", "/nonexistent:/opt/with space"),
        ("PATH", "/opt/with space/bin:/usr/bin:/bin"),
        ("HOME", "/elsewhere"),
        ("PS4", "$(touch /tmp/evil)"),
        ("POSIXLY_CORRECT", "1"),
        ("SHELLOPTS", "xtrace"),
    ];
    let pairs = hostile.map(|(name, value)| (name.to_owned(), value.to_owned()));
    launch.environment = std::collections::BTreeMap::from(pairs).try_into().unwrap();
    let tenant = Tenant::up(launch, &password()).await;
    let seen = tenant.ssh("mySecurePassword123", "echo \"$PATH|$LD_LIBRARY_PATH|$HOME\"; ls /tmp/evil; id -un").await;
    let expected = "/opt/with space/bin:/usr/bin:/bin|/nonexistent:/opt/with space|/root\nroot";
    assert_eq!(text(&seen), expected, "{seen:?}");
    tenant.gone().await;
}

#[tokio::test]
async fn files_can_be_fetched_by_sftp_without_a_server_in_the_image() {
    let tenant = Tenant::up(launch("gpurent-test/shellless:1"), &password()).await;
    let mut sftp = Command::new("sshpass");
    sftp.env("SSHPASS", "mySecurePassword123").args(["-e", "sftp", "-q"]);
    sftp.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    sftp.args(["-P", &tenant.launch.ssh_port().unwrap().to_string(), "root@127.0.0.1"]);
    let mut running = sftp.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = running.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"ls /\n").await.unwrap();
    drop(stdin);
    let output = running.wait_with_output().await.unwrap();
    assert!(text(&output).contains("/sleep"), "{output:?}");
    tenant.gone().await;
}

/// Copies a file to the tenant and back, by one of scp's protocols.
async fn copies(tenant: &Tenant, options: &[&str]) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(path("there"), &content).unwrap();
    let port = tenant.launch.ssh_port().unwrap().to_string();
    let remote = "root@127.0.0.1:/tmp/a file";
    for (from, to) in [(path("there"), remote.to_owned()), (remote.to_owned(), path("back"))] {
        // The old protocol hands the name to a shell on the other side.
        let quote = |name: &str| if options.is_empty() { name.to_owned() } else { name.replace(' ', "\\ ") };
        let copied = Command::new("sshpass")
            .env("SSHPASS", "mySecurePassword123")
            .args(["-e", "scp", "-q", "-P", &port, "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "PubkeyAuthentication=no"])
            .args(options)
            .args([quote(&from), quote(&to)])
            .output()
            .await
            .unwrap();
        if !copied.status.success() {
            eprintln!("{copied:?}");
            return false;
        }
    }
    std::fs::read(path("back")).unwrap() == content
}

#[tokio::test]
async fn scp_works_in_both_protocols_whatever_the_image_has() {
    for image in ["gpurent-test/busybox:1", "gpurent-test/shellless:1", "gpurent-test/debian:12"] {
        let tenant = Tenant::up(launch(image), &password()).await;
        assert!(copies(&tenant, &[]).await, "{image}, over sftp");
        assert!(copies(&tenant, &["-O"]).await, "{image}, the old protocol");
        tenant.gone().await;
    }
}

#[tokio::test]
async fn what_packages_do_as_root_works() {
    let tenant = Tenant::up(launch("gpurent-test/debian:12"), &password()).await;
    let command = "set -e; cd /tmp; echo x >f; chown 1000:1000 f; chmod 600 f; mkdir d; chown 1000 d; touch d/g; \
                   tar cf t.tar f d; mkdir out; tar xpf t.tar -C out; dpkg --audit; useradd -m somebody; \
                   su somebody -c id; stat -c '%u %a' out/f";
    let done = tenant.ssh("mySecurePassword123", command).await;
    assert!(done.status.success(), "{done:?}");
    assert!(text(&done).ends_with("1000 600"), "{done:?}");
    tenant.gone().await;
}

/// A key pair: the path of the private half, and the public one.
async fn key_pair(directory: &std::path::Path, name: &str) -> (String, String) {
    let key = directory.join(name).to_string_lossy().into_owned();
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status().await;
    assert!(made.unwrap().success());
    let public = std::fs::read_to_string(format!("{key}.pub")).unwrap();
    (key, public)
}

async fn rotates(launch: gpurent_core::runtime::LaunchSpec, bind: bool) {
    let image = launch.image.clone();
    let directory = tempfile::tempdir().unwrap();
    let (old, old_public) = key_pair(directory.path(), "old").await;
    let (new, new_public) = key_pair(directory.path(), "new").await;
    let tenant = Tenant::up_with(launch, &Credential::PublicKeys(old_public.parse().unwrap()), bind).await;
    let id = || if tenant.launch.login.is_root() { "0" } else { "1000" };
    assert_eq!(text(&tenant.ssh_with_key(&old, "id -u").await), id(), "{image}");
    // A session that is open stays open.
    let mut ssh = Command::new("ssh");
    ssh.args(["-i", &old, "-o", "IdentitiesOnly=yes"]);
    let open = tenant.connect(&mut ssh).arg("sleep 6; echo still here").stdout(Stdio::piped()).spawn().unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let replace = async |credential: Credential| {
        tenant.runtime.replace_access(&tenant.launch, &secrets(&credential)).await.unwrap();
        tenant.runtime.verify(&tenant.launch, std::time::Duration::from_secs(20)).await.unwrap();
    };
    replace(Credential::PublicKeys(new_public.parse().unwrap())).await;
    assert_eq!(text(&tenant.ssh_with_key(&new, "id -u").await), id(), "{image}");
    assert!(!tenant.ssh_with_key(&old, "id -u").await.status.success(), "{image}: the old key");
    replace(password()).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(text(&tenant.ssh("mySecurePassword123", "id -u").await), id(), "{image}");
    assert!(!tenant.ssh_with_key(&new, "id -u").await.status.success(), "{image}: the key after a password");
    replace(Credential::PublicKeys(new_public.parse().unwrap())).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert!(!tenant.ssh("mySecurePassword123", "id -u").await.status.success(), "{image}: the password after a key");
    assert_eq!(text(&tenant.ssh_with_key(&new, "id -u").await), id(), "{image}");
    let open = open.wait_with_output().await.unwrap();
    assert_eq!(text(&open), "still here", "{image}");
    tenant.gone().await;
}

#[tokio::test]
async fn a_key_is_rotated_while_the_container_runs() {
    rotates(launch("gpurent-test/busybox:1"), false).await;
}

#[tokio::test]
async fn a_key_is_rotated_for_another_user_over_the_access_folder() {
    let mut launch = launch("gpurent-test/debian:12");
    launch.login = "gpu-user".parse().unwrap();
    rotates(launch, true).await;
}

#[tokio::test]
async fn credentials_in_the_access_folder_are_gone_with_the_container() {
    let tenant = Tenant::up_with(launch("gpurent-test/busybox:1"), &password(), true).await;
    let mounts = support::docker(&["inspect", "--format", "{{json .Mounts}}", &tenant.container]).await;
    assert!(mounts.contains(r#""Destination":"/.gpurent/access""#) && mounts.contains(r#""RW":false"#), "{mounts}");
    assert_eq!(text(&tenant.ssh("mySecurePassword123", "id -u").await), "0");
    let folder = support::access_dir().path().join(format!("gpurent-{}-1", tenant.launch.id.rental));
    assert!(folder.join("spec").exists());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&folder).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    tenant.gone().await;
    assert!(!folder.exists());
}

#[tokio::test]
async fn the_renter_reads_the_warning_in_a_file_and_on_the_terminal() {
    for image in ["gpurent-test/debian:12", "gpurent-test/shellless:1"] {
        let tenant = Tenant::up(launch(image), &password()).await;
        // A terminal of the renter's own.
        let mut ssh = Command::new("sshpass");
        ssh.env("SSHPASS", "mySecurePassword123").args(["-e", "ssh", "-tt", "-o", "PubkeyAuthentication=no"]);
        let terminal = tenant.connect(&mut ssh).arg("sleep 4").stdout(Stdio::piped()).stdin(Stdio::piped()).spawn();
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        tenant.runtime.message_user(tenant.launch.id, "It ends soon; \"save\" $HOME").await.unwrap();
        let shown = terminal.unwrap().wait_with_output().await.unwrap();
        assert!(text(&shown).contains("*** It ends soon; \"save\" $HOME"), "{image}: {shown:?}");
        let file =
            tenant.ssh("mySecurePassword123", "while read line; do echo \"$line\"; done </.gpurent/notice").await;
        assert_eq!(text(&file), "It ends soon; \"save\" $HOME", "{image}");
        tenant.gone().await;
    }
}

//! The SSH clients that people automate with, against a rental of the agent's, each as its users use it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Machine, environment, text};
use tempfile::TempDir;
use tokio::process::Command;

/// A rental with tools in it, and the key that lets in.
struct Rented {
    folder: TempDir,
    key: PathBuf,
    id: String,
    access: Value,
}

impl Rented {
    async fn on(machine: &Machine, image: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("id_ed25519");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().await;
        assert!(made.unwrap().success());
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        let body = json!({"gpu": "RTX 5090", "image": image, "duration": "20m", "auth": {"ssh_keys": [public]}});
        let id = machine.rent(&body).await;
        machine.until(&id, &["ready"], Duration::from_secs(60)).await;
        let access = machine.get(&format!("/v1/rentals/{id}/access")).await;
        Self { folder, key, id, access }
    }

    /// An RSA key takes seconds to be made on a busy machine, and no rental waits for one.
    async fn with_an_rsa_host_key(machine: &Machine, image: &str) -> Self {
        loop {
            let rented = Self::on(machine, image).await;
            if rented.access["host_keys"].to_string().contains("ssh-rsa") {
                return rented;
            }
            machine.cancel(&rented.id).await;
            machine.until(&rented.id, &["terminated"], Duration::from_secs(60)).await;
        }
    }

    fn port(&self) -> u64 {
        self.access["port"].as_u64().unwrap()
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn key(&self) -> String {
        self.key.display().to_string()
    }
}

/// Runs a program to its end; gives what it printed.
async fn run(command: &mut Command) -> String {
    let output = tokio::time::timeout(Duration::from_secs(180), command.kill_on_drop(true).output()).await;
    let output = output.expect("it ends in time").unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output), String::from_utf8_lossy(&output.stderr));
    text(&output)
}

fn client(name: &str) -> Command {
    Command::new(Path::new(&environment("GPURENT_CLIENTS")).join(name))
}

#[tokio::test]
async fn ansible_with_twenty_forks_and_pipelining() {
    let machine = Machine::new("simulated:1:RTX 5090");
    let _host = machine.start().await;
    let rented = Rented::on(&machine, "gpurent-test/tools:1").await;
    let hosts: String = (0..20).map(|number| format!("tenant{number}\n")).collect();
    let inventory = rented.write(
        "inventory",
        &format!(
            "[tenants]\n{hosts}[tenants:vars]\nansible_host=127.0.0.1\nansible_port={}\nansible_user=root\n\
             ansible_ssh_private_key_file={}\nansible_python_interpreter=/usr/bin/python3\n\
             ansible_ssh_common_args=-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null\n",
            rented.port(),
            rented.key()
        ),
    );
    let playbook = rented.write(
        "playbook.yml",
        "- hosts: tenants\n  gather_facts: true\n  tasks:\n  - copy: {content: 'from ansible', dest: '/tmp/{{ inventory_hostname }}'}\n  \
         - command: cat /tmp/{{ inventory_hostname }}\n    register: read\n  - assert: {that: \"read.stdout == 'from ansible'\"}\n",
    );
    for pipelining in ["False", "True"] {
        let mut ansible = client("ansible-playbook");
        ansible
            .env("ANSIBLE_PIPELINING", pipelining)
            .env("ANSIBLE_HOME", rented.folder.path())
            .env("LC_ALL", "C.UTF-8");
        let done = run(ansible.args(["-f", "20", "-i"]).args([&inventory, &playbook])).await;
        assert_eq!(done.matches("failed=0").count(), 20, "{done}");
        assert_eq!(done.matches("unreachable=0").count(), 20, "{done}");
    }
}

#[tokio::test]
async fn paramiko_asyncssh_and_a_client_in_go() {
    let machine = Machine::new("simulated:1:RTX 5090");
    let _host = machine.start().await;
    let rented = Rented::on(&machine, "gpurent-test/debian:12").await;
    let (port, key) = (rented.port().to_string(), rented.key());

    let paramiko = rented.write(
        "with_paramiko.py",
        "import paramiko, sys\n\
         client = paramiko.SSHClient()\n\
         client.set_missing_host_key_policy(paramiko.AutoAddPolicy())\n\
         client.connect('127.0.0.1', int(sys.argv[1]), 'root', key_filename=sys.argv[2], allow_agent=False, look_for_keys=False)\n\
         _, out, _ = client.exec_command('id -u; exit 7')\n\
         code = out.channel.recv_exit_status()\n\
         files = client.open_sftp()\n\
         with files.open('/tmp/paramiko', 'w') as file: file.write('x' * 3_000_000)\n\
         print(out.read().decode().strip(), code, files.stat('/tmp/paramiko').st_size)\n",
    );
    assert_eq!(run(client("python").arg(&paramiko).args([&port, &key])).await, "0 7 3000000");

    let asyncssh = rented.write(
        "with_asyncssh.py",
        "import asyncio, asyncssh, sys\n\
         async def main():\n\
         \x20 async with asyncssh.connect('127.0.0.1', int(sys.argv[1]), username='root', client_keys=[sys.argv[2]], known_hosts=None) as c:\n\
         \x20   done = await asyncio.gather(*[c.run('echo $((%d * 2))' % n) for n in range(10)])\n\
         \x20   print(sum(int(d.stdout) for d in done), c.get_extra_info('server_version'))\n\
         asyncio.run(main())\n",
    );
    let said = run(client("python").arg(&asyncssh).args([&port, &key])).await;
    assert!(said.starts_with("90 SSH-2.0-OpenSSH") || said.starts_with("90 OpenSSH"), "{said}");

    // rclone speaks SSH by golang.org/x/crypto/ssh, as Terraform and most that is written in Go does.
    let keys = rented.access["host_keys"].as_array().unwrap();
    let lines = keys.iter().map(|key| format!("[127.0.0.1]:{port} {}\n", key["key"].as_str().unwrap()));
    let known_hosts = rented.write("known_hosts", &lines.collect::<String>());
    let config = rented.write(
        "rclone.conf",
        &format!(
            "[tenant]\ntype = sftp\nhost = 127.0.0.1\nport = {port}\nuser = root\nkey_file = {key}\nknown_hosts_file = {}\n",
            known_hosts.display()
        ),
    );
    let rclone = |arguments: [&str; 3]| {
        let mut rclone = Command::new("rclone");
        rclone.arg("--config").arg(&config).args(arguments);
        rclone
    };
    let source = rented.folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for number in 0..20 {
        std::fs::write(source.join(number.to_string()), vec![b'x'; 50_000]).unwrap();
    }
    run(&mut rclone(["copy", &source.display().to_string(), "tenant:/srv/rclone"])).await;
    run(&mut rclone(["check", &source.display().to_string(), "tenant:/srv/rclone"])).await;
}

#[tokio::test]
async fn the_command_line_knows_the_server_and_changes_keys() {
    let machine = Machine::new("simulated:1:RTX 5090").on_sqlite();
    let _host = machine.start().await;
    let rented = Rented::with_an_rsa_host_key(&machine, "gpurent-test/busybox:1").await;
    assert_eq!(rented.access["host_keys"].as_array().unwrap().len(), 3, "{}", rented.access);
    let state = rented.folder.path().join("state");
    let cli = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gpurent-host"));
        command.env("GPURENT_URL", machine.url("")).env_remove("GPURENT_API_KEY").env("XDG_STATE_HOME", &state);
        command.args(arguments);
        command
    };
    // `ssh` itself: with an identity of this test's, by way of a wrapper on the PATH.
    let bin = rented.folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("ssh"), format!("#!/bin/sh\nexec /usr/bin/ssh -F none -i {} \"$@\"\n", rented.key()))
        .unwrap();
    std::fs::set_permissions(bin.join("ssh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), environment("PATH"));
    let logged_in = run(cli(&["ssh", &rented.id, "id -u"]).env("PATH", &path)).await;
    assert_eq!(logged_in, "0");
    let known = std::fs::read_to_string(state.join(format!("gpurent/known_hosts/gpurent-{}", rented.id))).unwrap();
    assert!(known.contains("ssh-rsa") && known.lines().count() == 3, "{known}");

    let second = rented.folder.path().join("second");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&second).status().await;
    assert!(made.unwrap().success());
    let public = second.with_extension("pub").display().to_string();
    let shown = run(&mut cli(&["access", &rented.id, "--add-key", &public])).await;
    assert_eq!(shown.matches("\nkey ").count(), 2, "{shown}");
    let with_second = async || {
        let mut ssh = Command::new("/usr/bin/ssh");
        ssh.args(["-F", "none", "-i"]).arg(&second).args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]);
        ssh.args(["-p", &rented.port().to_string(), "root@127.0.0.1", "echo in"]).output().await.unwrap()
    };
    let changed = async || {
        while machine.get(&format!("/v1/rentals/{}/access", rented.id)).await["pending"] == true {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    changed().await;
    assert_eq!(text(&with_second().await), "in");
    let access = machine.get(&format!("/v1/rentals/{}/access", rented.id)).await;
    let fingerprint = access["ssh_keys"][1]["fingerprint"].as_str().unwrap().to_owned();
    run(&mut cli(&["access", &rented.id, "--remove-key", &fingerprint])).await;
    changed().await;
    assert!(!with_second().await.status.success());
    let log = run(&mut cli(&["logs", &rented.id, "--access"])).await;
    assert!(log.contains("Accepted publickey for root"), "{log}");
}

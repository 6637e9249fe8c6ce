//! `ssh` and `access`: logs in to a rental with the machine's own client, and shows or changes how.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::show;
use crate::client::{Client, Connection};
use crate::exit::Failed;

/// Becomes `ssh`; returns only where that fails. A password is shown, not passed on: neither argv nor an
/// environment keeps a secret.
pub async fn ssh(connection: &Connection, name: &str, command: &[String]) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let id = client.find(name).await?;
    let rental = client.get(&format!("/v1/rentals/{id}")).await?;
    if !rental["suspension"].is_null() {
        return Err(Failed::Refused(format!("{name} is suspended: `gpurent-host resume {name}` brings it back")));
    }
    let access = client.get(&format!("/v1/rentals/{id}/access")).await?;
    if connection.json {
        show::json(&access);
        return Ok(());
    }
    let (host, user) = (show::word(&access["host"]), show::word(&access["user"]));
    if host.starts_with('-') || user.starts_with('-') {
        return Err(Failed::Here(format!("{user}@{host} is no address")));
    }
    if let Some(password) = access["password"].as_str() {
        eprintln!("password: {}", show::escape_control(password));
    }
    let known_hosts = known_hosts(&show::word(&access["known_hosts"]))
        .map_err(|error| Failed::Here(format!("the rental's host keys cannot be kept for ssh: {error}")))?;
    let mut ssh = Command::new("ssh");
    if let Some(file) = &known_hosts {
        ssh.args(["-o", &format!("UserKnownHostsFile={}", file.display()), "-o", "StrictHostKeyChecking=yes"]);
    } else {
        // An earlier version made the rental, and nobody knows its keys beforehand.
        ssh.args(["-o", "StrictHostKeyChecking=accept-new"]);
    }
    ssh.args(["-p", &show::word(&access["port"])])
        // Ports are used again by other rentals: their host keys are remembered by the rental's id.
        .args(["-o", &format!("HostKeyAlias=gpurent-{id}")])
        .arg(format!("{user}@{host}"))
        .args(command);
    Err(Failed::Here(format!("ssh cannot be started: {}", ssh.exec())))
}

/// Keeps the rental's host keys where `ssh` finds them: a file of its own, so that the user's `known_hosts` does not fill
/// up with rentals that are over. `None` where there are no keys.
fn known_hosts(lines: &str) -> std::io::Result<Option<PathBuf>> {
    let Some(alias) = lines.split_whitespace().next() else { return Ok(None) };
    let harmless = alias.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let home = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")));
    let folder = home.filter(|_| harmless).ok_or(std::io::ErrorKind::NotFound)?.join("gpurent/known_hosts");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(alias);
    std::fs::write(&file, lines)?;
    Ok(Some(file))
}

/// Shows how to log in, or changes the keys that let in.
pub async fn access(connection: &Connection, name: &str, change: KeyChange) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let id = client.find(name).await?;
    let path = format!("/v1/rentals/{id}/access");
    let access = match (change.add_key, change.remove_key) {
        (Some(file), _) => {
            let key =
                std::fs::read_to_string(&file).map_err(|error| Failed::Here(format!("{}: {error}", file.display())))?;
            client.send(Method::POST, &format!("{path}/keys"), &json!({"ssh_key": key})).await?
        }
        (_, Some(fingerprint)) => {
            let query = fingerprint.replace('%', "%25").replace('+', "%2B").replace('/', "%2F");
            client.send(Method::DELETE, &format!("{path}/keys?fingerprint={query}"), &Value::Null).await?
        }
        _ => client.get(&path).await?,
    };
    if connection.json {
        show::json(&access);
        return Ok(());
    }
    show::line(&format!("ssh       {}", show::word(&access["ssh_command"])));
    if access["password"].is_string() {
        show::line(&format!("password  {}", show::word(&access["password"])));
    }
    for (title, keys) in [("key", &access["ssh_keys"]), ("host key", &access["host_keys"])] {
        for key in keys.as_array().into_iter().flatten() {
            show::line(&format!("{title:<9} {} {}", show::word(&key["algorithm"]), show::word(&key["fingerprint"])));
        }
    }
    Ok(())
}

/// How the keys that let in are changed.
#[derive(Args)]
#[group(multiple = false)]
pub struct KeyChange {
    /// Let in by one more key, from this file (.pub).
    #[arg(long, value_name = "FILE")]
    add_key: Option<PathBuf>,
    /// Let in no longer by the key that has this fingerprint.
    #[arg(long, value_name = "FINGERPRINT")]
    remove_key: Option<String>,
}

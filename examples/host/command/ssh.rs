//! `ssh`: logs in to a rental with the machine's own client.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::show;
use crate::client::{Client, Connection};
use crate::exit::Failed;

/// Becomes `ssh`; returns only where that fails. A password is shown, not passed on: neither argv nor an
/// environment keeps a secret.
pub async fn ssh(connection: &Connection, name: &str, command: &[String]) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let id = client.find(name).await?;
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
        eprintln!("password: {}", show::harmless(password));
    }
    let mut ssh = Command::new("ssh");
    ssh.args(["-p", &show::word(&access["port"])])
        // Ports are used again by other rentals: their host keys are remembered by the rental's id.
        .args(["-o", &format!("HostKeyAlias=gpurent-{id}"), "-o", "StrictHostKeyChecking=accept-new"])
        .arg(format!("{user}@{host}"))
        .args(command);
    Err(Failed::Here(format!("ssh cannot be started: {}", ssh.exec())))
}

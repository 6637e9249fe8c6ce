//! What tenants may not reach: the host's own services, the cloud's metadata, each other.
//!
//! The bridge alone does not do it. Its tenants are kept from each other's addresses (no inter-container
//! communication), but reach each other's published ports through the host, and everything that listens
//! on the host. Two chains of our own, which only what comes from the tenants' bridge passes:
//! `GPURENT-HOST` from `INPUT`, `GPURENT-FORWARD` from Docker's `DOCKER-USER`. Docker keeps its hands off
//! both, also when it restarts.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gpurent_core::runtime::Isolation;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::network::BRIDGE;

/// Link-local with the metadata services of most clouds, Azure's wire server, Alibaba's metadata.
const METADATA: [&str; 3] = ["169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32"];
/// Resolvers that clouds run on such addresses: GCE's and AWS's, Azure's. Names have to be resolved.
const RESOLVERS: [&str; 3] = ["169.254.169.254", "169.254.169.253", "168.63.129.16"];
/// Rules may be flushed by others: they are looked at again after this time.
const TRUST: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(10);

/// Why tenants are not kept apart as they should be.
#[derive(Debug, thiserror::Error)]
enum Hole {
    #[error(
        "the engine's bridge {BRIDGE} is not in this network namespace: run the agent on the engine's machine, with the host's network"
    )]
    BridgeElsewhere,
    #[error("{program} cannot be run: install iptables, and run the agent as root or with CAP_NET_ADMIN")]
    NoProgram {
        program: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{program} refuses: {said}")]
    Refused { program: &'static str, said: String },
    #[error("{0} does not end")]
    Hangs(&'static str),
}

struct Known {
    isolation: Isolation,
    checked: Option<Instant>,
}

/// The rules on this machine.
pub(crate) struct Firewall {
    /// Where it is not to be touched, why.
    off: Option<&'static str>,
    known: std::sync::Mutex<Known>,
    /// Held while rules are set.
    setting: Mutex<()>,
}

impl Firewall {
    pub(crate) fn new() -> Self {
        Self::with(None, "no rental has been prepared yet")
    }

    pub(crate) fn off() -> Self {
        let why = "firewall rules are switched off";
        Self::with(Some(why), why)
    }

    pub(crate) fn elsewhere() -> Self {
        let why = "the engine is on another machine: set its firewall there";
        Self::with(Some(why), why)
    }

    fn with(off: Option<&'static str>, isolation: &str) -> Self {
        let known = Known { isolation: Isolation::Degraded(isolation.to_owned()), checked: None };
        Self { off, known: std::sync::Mutex::new(known), setting: Mutex::new(()) }
    }

    pub(crate) fn isolation(&self) -> Isolation {
        self.known().isolation.clone()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sets the rules unless they were seen lately. The bridge must exist.
    pub(crate) async fn ensure(&self) {
        if self.off.is_some() {
            return;
        }
        let _turn = self.setting.lock().await;
        if self.known().checked.is_some_and(|checked| checked.elapsed() < TRUST) {
            return;
        }
        let isolation = match set_rules().await {
            Ok(()) => Isolation::Enforced,
            Err(hole) => {
                tracing::warn!(
                    isolation = "degraded",
                    error = &hole as &dyn std::error::Error,
                    "tenants can reach this host's services, the metadata address and each other's published ports"
                );
                Isolation::Degraded(hole.to_string())
            }
        };
        *self.known() = Known { isolation, checked: Some(Instant::now()) };
    }
}

async fn set_rules() -> Result<(), Hole> {
    if !Path::new("/sys/class/net").join(BRIDGE).exists() {
        return Err(Hole::BridgeElsewhere);
    }
    // Without this jump of Docker's own, ours leads nowhere.
    run("iptables", &["-w", "5", "-C", "FORWARD", "-j", "DOCKER-USER"], "").await?;
    // One atomic write: there is no moment without rules.
    run("iptables-restore", &["-w", "5", "--noflush"], &chains()).await?;
    for (from, to) in [("INPUT", "GPURENT-HOST"), ("DOCKER-USER", "GPURENT-FORWARD")] {
        let jump = ["-i", BRIDGE, "-j", to];
        if run("iptables", &[&["-w", "5", "-C", from], &jump[..]].concat(), "").await.is_err() {
            run("iptables", &[&["-w", "5", "-I", from, "1"], &jump[..]].concat(), "").await?;
        }
    }
    Ok(())
}

fn chains() -> String {
    let mut text = String::from(
        "*filter\n\
         :GPURENT-HOST - [0:0]\n\
         :GPURENT-FORWARD - [0:0]\n\
         -A GPURENT-HOST -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN\n\
         -A GPURENT-HOST -j DROP\n",
    );
    for resolver in RESOLVERS {
        for protocol in ["udp", "tcp"] {
            text.push_str(&format!("-A GPURENT-FORWARD -d {resolver} -p {protocol} --dport 53 -j RETURN\n"));
        }
    }
    for network in METADATA {
        text.push_str(&format!("-A GPURENT-FORWARD -d {network} -j DROP\n"));
    }
    text.push_str(&format!("-A GPURENT-FORWARD -o {BRIDGE} -j DROP\nCOMMIT\n"));
    text
}

async fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<(), Hole> {
    let failed = |source| Hole::NoProgram { program, source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, talk).await.map_err(|_| Hole::Hangs(program))?.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(300).collect();
    Err(Hole::Refused { program, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_firewall_that_cannot_be_set_is_told_of() {
        let off = Firewall::off();
        off.ensure().await;
        assert!(matches!(off.isolation(), Isolation::Degraded(_)));
        let missing = run("gpurent-no-such-program", &[], "").await.unwrap_err();
        assert!(missing.to_string().contains("install iptables"), "{missing}");
    }
}

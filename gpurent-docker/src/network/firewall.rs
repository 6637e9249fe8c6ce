//! Rules for what tenants may not reach: the host's own services, the cloud's metadata, each other.
//!
//! The bridge alone does not do it. Its tenants are kept from each other's addresses (no inter-container
//! communication), but reach each other's published ports through the host, and everything that listens
//! on the host. Two chains of our own, which only what comes from the tenants' bridge passes, before any rule of others:
//! `GPURENT-HOST` from `INPUT`, `GPURENT-FORWARD` from `FORWARD` and from Docker's `DOCKER-USER`, which comes first again
//! when Docker restarts. What does not pass the kernel's filter, since two tenants are on one bridge and
//! `bridge-nf-call-iptables` is off, the bridge's ports keep apart: each is isolated.

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
const RULES_CHECKED_EVERY: Duration = Duration::from_secs(30);
const IPTABLES_TIMEOUT: Duration = Duration::from_secs(10);
/// The operator's own networks, as a rule (RFC 1918, RFC 6598).
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];
/// How many connections to elsewhere a tenant may have at once, of whatever kind. The kernel's table has 262,144 by default.
const CONNECTIONS: u32 = 16_384;
/// The chains from which ours are jumped to.
const JUMPS: [(&str, &str); 3] =
    [("INPUT", "GPURENT-HOST"), ("DOCKER-USER", "GPURENT-FORWARD"), ("FORWARD", "GPURENT-FORWARD")];

/// Why tenants are not kept apart as they should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Hole {
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
    #[error("the port {port} of the bridge {BRIDGE} cannot be isolated, and bridge-nf-call-iptables is off")]
    PortOpen {
        port: String,
        #[source]
        source: std::io::Error,
    },
}

struct Known {
    isolation: Isolation,
    checked: Option<Instant>,
    /// Our chains as iptables listed them when they had just been written. Written anew they would forget what they count.
    listed: Option<String>,
    /// The last probe's reach, although all rules were in place.
    reached: Option<String>,
}

/// The rules on this machine.
pub(crate) struct Firewall {
    /// Where it is not to be touched, why.
    off: Option<&'static str>,
    /// Whether tenants may reach private networks.
    private: bool,
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
        let known =
            Known { isolation: Isolation::Degraded(isolation.to_owned()), checked: None, listed: None, reached: None };
        Self { off, private: false, known: std::sync::Mutex::new(known), setting: Mutex::new(()) }
    }

    /// Lets tenants reach private networks.
    pub(crate) fn allow_private_networks(&mut self) {
        self.private = true;
    }

    pub(crate) fn isolation(&self) -> Isolation {
        let known = self.known();
        match (&known.isolation, &known.reached) {
            (Isolation::Enforced, Some(reached)) => Isolation::Degraded(reached.clone()),
            (isolation, _) => isolation.clone(),
        }
    }

    /// Whether there are rules to be probed.
    pub(crate) fn is_on(&self) -> bool {
        self.off.is_none()
    }

    /// Notes what a probe reached from the tenants' network; nothing, as it should be, for `None`.
    pub(crate) fn probed(&self, reached: Option<String>) {
        if let Some(reached) = &reached {
            tracing::error!(isolation = "degraded", reached, "a probe got through the rules for tenants");
        }
        self.known().reached = reached;
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Keeps a container that has just started from its neighbours on the bridge, before the rules are looked at again.
    pub(crate) async fn isolate_new(&self) {
        if self.off.is_some() {
            return;
        }
        if let Err(hole) = isolate_ports().await {
            // What is being set now knew nothing of it.
            let _turn = self.setting.lock().await;
            self.learn(Isolation::Degraded(hole.to_string()), None);
        }
    }

    /// Sets the rules unless they were seen lately. The bridge must exist.
    pub(crate) async fn ensure(&self) {
        if self.off.is_some() {
            return;
        }
        let _turn = self.setting.lock().await;
        if self.known().checked.is_some_and(|checked| checked.elapsed() < RULES_CHECKED_EVERY) {
            return;
        }
        let before = self.known().listed.clone();
        let isolation = match set_rules(self.private, before.as_deref()).await {
            Ok(listed) => {
                self.known().listed = Some(listed);
                Isolation::Enforced
            }
            Err(hole) => {
                tracing::warn!(
                    isolation = "degraded",
                    error = &hole as &dyn std::error::Error,
                    "tenants can reach this host's services, the metadata address and each other's published ports"
                );
                Isolation::Degraded(hole.to_string())
            }
        };
        self.learn(isolation, Some(Instant::now()));
    }

    fn learn(&self, isolation: Isolation, checked: Option<Instant>) {
        let mut known = self.known();
        (known.isolation, known.checked) = (isolation, checked);
    }
}

/// Keeps the bridge's ports from each other; those of containers that have just started among them.
///
/// # Errors
/// Where the kernel does not do it, and would not filter what goes from one to the other either.
async fn isolate_ports() -> Result<(), Hole> {
    let done = tokio::task::spawn_blocking(isolate_all_ports).await;
    done.unwrap_or_else(|lost| Err(Hole::PortOpen { port: "any".to_owned(), source: std::io::Error::other(lost) }))
}

fn isolate_all_ports() -> Result<(), Hole> {
    let ports = Path::new("/sys/class/net").join(BRIDGE).join("brif");
    // A bridge without ports, or none.
    let Ok(listed) = std::fs::read_dir(ports) else { return Ok(()) };
    for port in listed.flatten() {
        match std::fs::write(port.path().join("isolated"), "1") {
            // It is gone again.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !port.path().exists() => {}
            Err(source) if !bridges_are_filtered() => {
                return Err(Hole::PortOpen { port: port.file_name().to_string_lossy().into_owned(), source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether iptables' rules apply to what goes from one port of a bridge to another.
fn bridges_are_filtered() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
    setting.is_ok_and(|setting| setting.trim() == "1")
}

/// Sets the rules where they are not as they were `before`; gives how iptables lists our chains.
async fn set_rules(private: bool, before: Option<&str>) -> Result<String, Hole> {
    if !Path::new("/sys/class/net").join(BRIDGE).exists() {
        return Err(Hole::BridgeElsewhere);
    }
    // Without this jump of Docker's own, ours leads nowhere.
    run("iptables", &["-w", "5", "-C", "FORWARD", "-j", "DOCKER-USER"], "").await?;
    let mut listed = list_chains().await.unwrap_or_default();
    if before != Some(listed.as_str()) {
        // One atomic write: there is no moment without rules.
        run("iptables-restore", &["-w", "5", "--noflush"], &chains(private)).await?;
        listed = list_chains().await?;
    }
    for (from, to) in JUMPS {
        let rule = format!("-A {from} -i {BRIDGE} -j {to}");
        let places = places_of(&rule, &run("iptables", &["-w", "5", "-S", from], "").await?);
        if places != [1] {
            // By what they say, never by their places, which others' rules may shift meanwhile; and all at once.
            let delete = format!("-D {from} -i {BRIDGE} -j {to}\n").repeat(places.len());
            let moved = format!("*filter\n{delete}-I {from} 1 -i {BRIDGE} -j {to}\nCOMMIT\n");
            run("iptables-restore", &["-w", "5", "--noflush"], &moved).await?;
        }
    }
    isolate_ports().await?;
    Ok(listed)
}

/// Our chains, as they are. An error where they are not.
async fn list_chains() -> Result<String, Hole> {
    let mut listed = String::new();
    for chain in ["GPURENT-HOST", "GPURENT-FORWARD"] {
        listed.push_str(&run("iptables", &["-w", "5", "-S", chain], "").await?);
    }
    Ok(listed)
}

/// The places of a chain at which a rule stands, as `iptables -S` lists it; the first is 1.
fn places_of(rule: &str, listed: &str) -> Vec<usize> {
    let rules = listed.lines().filter(|line| line.starts_with("-A "));
    (1..).zip(rules).filter(|(_, line)| line.trim() == rule).map(|(place, _)| place).collect()
}

fn chains(private: bool) -> String {
    let mut text = String::from(
        "*filter\n\
         :GPURENT-HOST - [0:0]\n\
         :GPURENT-FORWARD - [0:0]\n\
         -A GPURENT-HOST -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN\n\
         -A GPURENT-HOST -j DROP\n\
         -A GPURENT-FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN\n",
    );
    // The table of connections is the machine's: one tenant has a share of it.
    text.push_str(&format!(
        "-A GPURENT-FORWARD -m connlimit --connlimit-above {CONNECTIONS} --connlimit-mask 32 --connlimit-saddr -j DROP\n"
    ));
    for resolver in RESOLVERS {
        for protocol in ["udp", "tcp"] {
            text.push_str(&format!("-A GPURENT-FORWARD -d {resolver} -p {protocol} --dport 53 -j RETURN\n"));
        }
    }
    for network in METADATA {
        text.push_str(&format!("-A GPURENT-FORWARD -d {network} -j DROP\n"));
    }
    text.push_str(&format!("-A GPURENT-FORWARD -o {BRIDGE} -j DROP\n"));
    for network in PRIVATE.iter().filter(|_| !private) {
        // The resolvers that an engine asks for its containers are often there.
        for protocol in ["udp", "tcp"] {
            text.push_str(&format!("-A GPURENT-FORWARD -d {network} -p {protocol} --dport 53 -j RETURN\n"));
        }
        text.push_str(&format!("-A GPURENT-FORWARD -d {network} -j DROP\n"));
    }
    text.push_str("COMMIT\n");
    text
}

/// Runs a program, and gives what it printed.
pub(crate) async fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, Hole> {
    let failed = |source| Hole::NoProgram { program, source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
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
    let output =
        tokio::time::timeout(IPTABLES_TIMEOUT, talk).await.map_err(|_| Hole::Hangs(program))?.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(300).collect();
    Err(Hole::Refused { program, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_behind_others_is_found() {
        let listed = "-P INPUT ACCEPT\n-A INPUT -p tcp -j ACCEPT\n-A INPUT -i gpurent0 -j GPURENT-HOST\n-A INPUT -j X\n\
                      -A INPUT -i gpurent0 -j GPURENT-HOST\n";
        assert_eq!(places_of("-A INPUT -i gpurent0 -j GPURENT-HOST", listed), [2, 4]);
        assert!(places_of("-A INPUT -i gpurent0 -j GPURENT-HOST", "-P INPUT ACCEPT\n").is_empty());
    }

    #[test]
    fn private_networks_are_left_out_where_the_operator_says_so() {
        assert!(chains(false).contains("-d 10.0.0.0/8 -j DROP") && !chains(true).contains("10.0.0.0/8"));
        assert!(chains(true).contains("-d 169.254.0.0/16 -j DROP"));
    }

    #[tokio::test]
    async fn a_firewall_that_cannot_be_set_is_told_of() {
        let off = Firewall::off();
        off.ensure().await;
        assert!(matches!(off.isolation(), Isolation::Degraded(_)));
        let missing = run("gpurent-no-such-program", &[], "").await.unwrap_err();
        assert!(missing.to_string().contains("install iptables"), "{missing}");
    }
}

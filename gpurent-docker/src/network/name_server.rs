//! The engine's own name server, which each container has at 127.0.0.11, and what a tenant may have of it.
//!
//! The engine answers there itself, with its own files, memory and CPU, outside of any limit of the tenant's: a few thousand
//! connections from one container are as many files of the engine, until it can open none for anybody. So the container's
//! own network namespace gets rules, which a tenant without CAP_NET_ADMIN cannot change: a few connections at once, and some
//! hundred questions a second.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use gpurent_core::id::LaunchId;

use crate::network::firewall::run;

/// Replaces all rules of the table, of which the engine uses none: the same as often as it is done. After the engine's own
/// translation both go to some port of 127.0.0.11.
const RULES: &str = "*filter\n\
    -F OUTPUT\n\
    -A OUTPUT -d 127.0.0.11/32 -p tcp --syn -m connlimit --connlimit-above 16 --connlimit-mask 0 --connlimit-daddr -j DROP\n\
    -A OUTPUT -d 127.0.0.11/32 -p udp -m limit --limit 200/second --limit-burst 400 -j ACCEPT\n\
    -A OUTPUT -d 127.0.0.11/32 -p udp -j DROP\n\
    COMMIT\n";

/// How long passes before it is tried again for a container for which it failed.
const RETRY_DELAY: Duration = Duration::from_secs(60);

/// The state of a container's rules.
enum Rules {
    Set,
    /// Being set since then, or failed then.
    Tried(Instant),
}

/// The containers whose rules are set, or were to be.
#[derive(Default)]
pub(crate) struct NameServerLimits(Mutex<BTreeMap<LaunchId, Rules>>);

impl NameServerLimits {
    fn rules(&self) -> MutexGuard<'_, BTreeMap<LaunchId, Rules>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets them in a container that runs, unless they are, without holding anything up. Where that fails the container runs
    /// on, and a later call tries again.
    pub(crate) fn set_soon(self: &Arc<Self>, docker: &Docker, launch: LaunchId, container: &str) {
        let is_due = match self.rules().get(&launch) {
            Some(Rules::Set) => false,
            Some(Rules::Tried(at)) => at.elapsed() > RETRY_DELAY,
            None => true,
        };
        if !is_due {
            return;
        }
        self.rules().insert(launch, Rules::Tried(Instant::now()));
        let (this, docker, container) = (Arc::clone(self), docker.clone(), container.to_owned());
        tokio::spawn(async move {
            match set(&docker, &container).await {
                Ok(()) => drop(this.rules().insert(launch, Rules::Set)),
                Err(error) => {
                    let error = &*error as &dyn Error;
                    tracing::warn!(%launch, error, "a tenant can take the engine's name server for itself");
                }
            }
        });
    }

    /// Forgets a container that is gone.
    pub(crate) fn forget(&self, launch: LaunchId) {
        self.rules().remove(&launch);
    }
}

async fn set(docker: &Docker, container: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let found = docker.inspect_container(container, None).await?;
    let id = found.id.filter(|id| !id.is_empty()).ok_or("the engine does not tell its id")?;
    let pid = found.state.and_then(|state| state.pid).filter(|pid| *pid > 0).ok_or("it does not run")?;
    // The number may be another process's by now, or be counted otherwise here than by the engine.
    let is_its = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?.contains(&id);
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net"));
    if !is_its || namespace(&pid.to_string())? == namespace("self")? {
        return Err("its processes are not seen from here".into());
    }
    let net = format!("--net=/proc/{pid}/ns/net");
    run("nsenter", &[&net, "iptables-restore", "-w", "5", "--noflush"], RULES).await?;
    Ok(())
}

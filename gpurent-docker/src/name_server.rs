//! The engine's own name server, which each container has at 127.0.0.11, and what a tenant may have of it.
//!
//! The engine answers there itself, with its own files, memory and CPU, outside of any limit of the tenant's: a few thousand
//! connections from one container are as many files of the engine, until it can open none for anybody. So the container's
//! own network namespace gets rules, which a tenant without CAP_NET_ADMIN cannot change: a few connections at once, and some
//! hundred questions a second.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use gpurent_core::id::LaunchId;

use crate::firewall::run;

/// Replaces all rules of the table, of which the engine uses none: the same as often as it is done. After the engine's own
/// translation both go to some port of 127.0.0.11.
const RULES: &str = "*filter\n\
    -F OUTPUT\n\
    -A OUTPUT -d 127.0.0.11/32 -p tcp -m connlimit --connlimit-above 16 --connlimit-mask 0 --connlimit-daddr -j DROP\n\
    -A OUTPUT -d 127.0.0.11/32 -p udp -m limit --limit 200/second --limit-burst 400 -j ACCEPT\n\
    -A OUTPUT -d 127.0.0.11/32 -p udp -j DROP\n\
    COMMIT\n";

/// The containers whose rules are set.
#[derive(Default)]
pub(crate) struct NameServerLimits(Mutex<BTreeSet<LaunchId>>);

impl NameServerLimits {
    /// Whether a container's rules were set by this process.
    pub(crate) fn has(&self, launch: LaunchId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&launch)
    }

    /// Sets them in the container of this process, without holding up its start. A container that could not be kept from
    /// the name server runs on, and the next observation tries again.
    pub(crate) fn set_soon(self: &Arc<Self>, launch: LaunchId, pid: i64) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let namespace = format!("--net=/proc/{pid}/ns/net");
            match run("nsenter", &[&namespace, "iptables-restore", "-w", "5", "--noflush"], RULES).await {
                Ok(_) => drop(this.0.lock().unwrap_or_else(PoisonError::into_inner).insert(launch)),
                Err(hole) => {
                    let error = &hole as &dyn std::error::Error;
                    tracing::warn!(%launch, error, "a tenant can take the engine's name server for itself");
                }
            }
        });
    }

    /// It is gone.
    pub(crate) fn forget(&self, launch: LaunchId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&launch);
    }
}

//! Host keys for new rentals, RSA included: clients that are old or strict ask for it first.
//!
//! An RSA key takes tenths of a second to be made, so a stock of them is kept. It lies in this process's memory; while it
//! is empty, a rental has the two keys that are made at once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gpurent_core::model::{GeneratedHostKeys, HostKey, HostKeySource, HostKeys};
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::control::credential_dir::{lies_in_memory, make_private};

/// How many keys are kept.
const STOCK: usize = 32;
/// Between two keys, so that many rentals at once do not become many keys at once.
const KEY_INTERVAL: Duration = Duration::from_millis(500);
/// How long is waited after one could not be made.
const RETRY_DELAY: Duration = Duration::from_secs(60);
/// The length that OpenSSH makes by itself (ssh-keygen(1)).
const BITS: &str = "3072";

struct Shared {
    keys: Mutex<VecDeque<HostKey>>,
    taken: Notify,
}

impl Shared {
    fn keys(&self) -> MutexGuard<'_, VecDeque<HostKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stock of RSA host keys, made by `ssh-keygen` at the lowest priority; the other kinds are made as they are needed.
pub struct HostKeyStock {
    shared: Arc<Shared>,
    fills: AbortHandle,
}

impl HostKeyStock {
    /// Begins to fill a stock, on the present tokio runtime. `folder` has to lie in memory (tmpfs), since a new key lies
    /// in it for a moment.
    ///
    /// # Errors
    /// Where the folder cannot be made, or does not lie in memory.
    pub fn fill(folder: &Path) -> std::io::Result<Self> {
        make_private(folder)?;
        if !lies_in_memory(folder)? {
            return Err(std::io::Error::other("it is not on a tmpfs, so that keys would reach a disk"));
        }
        let shared = Arc::new(Shared { keys: Mutex::default(), taken: Notify::new() });
        let fills = tokio::spawn(fill(Arc::clone(&shared), folder.to_owned())).abort_handle();
        Ok(Self { shared, fills })
    }
}

impl Drop for HostKeyStock {
    fn drop(&mut self) {
        self.fills.abort();
    }
}

impl HostKeySource for HostKeyStock {
    fn next(&self) -> HostKeys {
        let rsa = self.shared.keys().pop_front();
        self.shared.taken.notify_one();
        GeneratedHostKeys.next().iter().cloned().chain(rsa).collect()
    }
}

async fn fill(shared: Arc<Shared>, folder: PathBuf) {
    loop {
        while shared.keys().len() < STOCK {
            match make(&folder).await {
                Ok(key) => {
                    shared.keys().push_back(key);
                    tokio::time::sleep(KEY_INTERVAL).await;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "no RSA host key was made");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
        shared.taken.notified().await;
    }
}

async fn make(folder: &Path) -> std::io::Result<HostKey> {
    let name: u64 = rand::random();
    let path = folder.join(format!("new-{name:016x}"));
    let mut keygen = Command::new("nice");
    keygen.args(["-n", "19", "ssh-keygen", "-q", "-t", "rsa", "-b", BITS, "-N", "", "-C", "", "-f"]).arg(&path);
    let made = keygen.kill_on_drop(true).output().await;
    let key = tokio::fs::read_to_string(&path).await;
    for made in [path.clone(), path.with_extension("pub")] {
        // Not there, where the key was not made.
        drop(tokio::fs::remove_file(made).await);
    }
    let output = made?;
    if !output.status.success() {
        return Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    HostKey::from_openssh(key?).map_err(std::io::Error::other)
}

//! Writes down who did what: everything that may change something, and whoever was told a secret.
//!
//! Entries are written behind the answers, in batches. When more come than can be written, the host's log has
//! those that the database has not.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, OriginalUri, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use gpurent_core::store::audit::MOST_ENTRIES;
use gpurent_core::store::{AuditEntry, AuditLog};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::Caller;
use crate::middleware::auth::origin::address;

/// How many entries wait to be written.
const WAITING: usize = 1024;
/// How many are written at once.
const BATCH: usize = 100;
/// How often it is tried, and the pause in between.
const TRIES: u32 = 5;
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Where entries go.
#[derive(Clone)]
pub(crate) struct Audit {
    entries: mpsc::Sender<AuditEntry>,
    pub(crate) log: Arc<dyn AuditLog>,
}

impl Audit {
    /// Begins to write to `log`, until the last request was answered.
    pub(crate) fn begin(log: Arc<dyn AuditLog>, tasks: &TaskTracker, answered: CancellationToken) -> Self {
        let (entries, waiting) = mpsc::channel(WAITING);
        tasks.spawn(write(Arc::clone(&log), waiting, answered));
        Self { entries, log }
    }

    pub(crate) fn note(&self, entry: AuditEntry) {
        if let Err(full) = self.entries.try_send(entry) {
            log_instead(&full.into_inner());
        }
    }
}

async fn write(log: Arc<dyn AuditLog>, mut waiting: mpsc::Receiver<AuditEntry>, answered: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let received = tokio::select! {
            received = waiting.recv_many(&mut batch, BATCH) => received,
            () = answered.cancelled(), if !waiting.is_closed() => {
                // What waits already is written still.
                waiting.close();
                continue;
            }
        };
        if received == 0 {
            return;
        }
        let mut tries = 0;
        while let Err(error) = log.append(&batch, MOST_ENTRIES).await {
            tries += 1;
            if tries == TRIES {
                tracing::error!(error = &error as &dyn std::error::Error, "who did what is in this log only");
                batch.iter().for_each(log_instead);
                break;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
        batch.clear();
    }
}

fn log_instead(entry: &AuditEntry) {
    let key = entry.key.as_ref().map(ToString::to_string);
    let (who, role, what, status) = (&entry.renter, entry.role.as_str(), &entry.action, entry.status);
    tracing::warn!(target: "gpurent::audit", %who, role, key, address = ?entry.address, what, status);
}

/// Notes what a caller did.
pub(crate) async fn note(
    State((audit, reveals)): State<(Option<Audit>, Reveals)>,
    request: Request,
    next: Next,
) -> Response {
    let Some(audit) = audit else { return next.run(request).await };
    let Some(caller) = request.extensions().get::<Caller>().cloned() else { return next.run(request).await };
    let path = request.extensions().get::<OriginalUri>().map_or_else(|| request.uri(), |OriginalUri(uri)| uri).path();
    // What leads nowhere does nothing, and must not push out what did something.
    if request.extensions().get::<MatchedPath>().is_none() || !is_worth_it(request.method(), path, reveals) {
        return next.run(request).await;
    }
    // Without the query, and not more than fits on a line.
    let path: String = path.chars().take(256).collect();
    let action = format!("{} {path}", request.method());
    let (parts, body) = request.into_parts();
    let address = address(&parts);
    // Also if nobody waits for the answer any more: it may have been done all the same.
    let mut noting = Noting { audit, entry: Some(entry(&caller, address, action, UNANSWERED)) };
    let response = next.run(Request::from_parts(parts, body)).await;
    if let Some(entry) = &mut noting.entry {
        entry.status = response.status().as_u16();
    }
    response
}

/// The status of what nobody waited for, as web servers' logs have it.
const UNANSWERED: u16 = 499;

/// Notes an entry when it goes.
struct Noting {
    audit: Audit,
    entry: Option<AuditEntry>,
}

impl Drop for Noting {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.audit.note(entry);
        }
    }
}

pub(crate) fn entry(caller: &Caller, address: Option<std::net::IpAddr>, action: String, status: u16) -> AuditEntry {
    let (renter, role, key) = (caller.renter.clone(), caller.role, caller.key.clone());
    AuditEntry { at: Timestamp::now(), renter, role, key, address, action, status }
}

/// Which paths that are only read tell a secret.
type Reveals = fn(&str) -> bool;

fn is_worth_it(method: &Method, path: &str, reveals: Reveals) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) || reveals(path)
}

//! `/downloads/{file}`: files that an operator offers to everybody, such as the installer of the program by which the desktop
//! client shows a container's screen.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_DISPOSITION, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::Response;
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tower_http::services::ServeDir;

use crate::middleware::auth::DEFAULT_ADDRESS;
use crate::middleware::auth::origin::address;
use crate::protocols::dashboard::{Dashboard, Refused};
use crate::subscribers::Subscribers;

pub(super) const PLACE: &str = "/downloads";

/// Files that are sent at once.
const AT_ONCE: usize = 64;
/// Of these, to one address.
const AT_ONCE_TO_ONE: usize = 16;
/// How long one may take to be fetched.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(1800);

/// A folder of files for everybody.
#[derive(Clone)]
pub(super) struct Downloads {
    folder: PathBuf,
    places: Arc<Semaphore>,
}

impl Downloads {
    pub(super) fn of(folder: PathBuf) -> Self {
        Self { folder, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

fn missing() -> Refused {
    Refused(StatusCode::NOT_FOUND, "there is no such file".to_owned())
}

pub(super) async fn download(
    State(dashboard): State<Arc<Dashboard>>,
    State(subscribers): State<Subscribers>,
    request: Request,
) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let from = address(&parts).unwrap_or(DEFAULT_ADDRESS);
    let mut request = Request::from_parts(parts, body);
    let downloads = dashboard.downloads.clone().ok_or_else(missing)?;
    let file = request.uri().path().strip_prefix(PLACE).and_then(|file| file.parse::<Uri>().ok());
    *request.uri_mut() = file.ok_or_else(missing)?;
    let busy = || Refused(StatusCode::SERVICE_UNAVAILABLE, "too many files are fetched at once; try again".to_owned());
    let place = downloads.places.try_acquire_owned().map_err(|_full| busy())?;
    let one_of_theirs = subscribers.send_to(from, AT_ONCE_TO_ONE).ok_or_else(busy)?;
    let (answer, answered) = oneshot::channel();
    // By a task of its own, which has its place until the disk has answered, also where nobody waits any more: a disk that
    // hangs holds no more threads than there are places.
    tokio::spawn(async move {
        send(downloads.folder, request, answer, subscribers.stopping).await;
        drop((place, one_of_theirs));
    });
    // Only a task that panicked says nothing.
    let broken = |_| Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be sent".to_owned()));
    answered.await.unwrap_or_else(broken)
}

async fn send(
    folder: PathBuf,
    request: Request,
    answer: oneshot::Sender<Result<Response, Refused>>,
    stopping: CancellationToken,
) {
    let until = Instant::now() + DOWNLOAD_TIMEOUT;
    let found = ServeDir::new(folder).append_index_html_on_directories(false).try_call(request).await;
    let (mut head, file) = match found {
        Ok(found) if found.status() != StatusCode::NOT_FOUND => found.into_parts(),
        found => {
            let refused = match found {
                Err(error) if !matches!(error.kind(), ErrorKind::InvalidFilename | ErrorKind::InvalidInput) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a file for download cannot be read");
                    Refused(StatusCode::SERVICE_UNAVAILABLE, "the file cannot be read now; try again".to_owned())
                }
                _ => missing(),
            };
            // Whoever asked may be gone.
            drop(answer.send(Err(refused)));
            return;
        }
    };
    if head.status.is_success() {
        // Kept and not shown, as the protocol has it: whatever a page among them does, it does not do as this host's own.
        head.headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
        head.headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    let (pieces, written) = mpsc::channel(1);
    let written =
        unfold(written, async |mut written: mpsc::Receiver<_>| written.recv().await.map(|piece| (piece, written)));
    if answer.send(Ok(Response::from_parts(head, Body::from_stream(written)))).is_err() {
        return;
    }
    let mut file = Body::new(file).into_data_stream();
    while let Some(piece) = file.next().await {
        if let Err(error) = &piece {
            tracing::warn!(error = error as &dyn std::error::Error, "a file for download cannot be read to its end");
        }
        // Who is too slow, or is left when the host stops, has less than was announced, and knows.
        let taken = tokio::select! {
            taken = timeout_at(until, pieces.send(piece)) => matches!(taken, Ok(Ok(()))),
            () = stopping.cancelled() => false,
        };
        if !taken {
            return;
        }
    }
}

//! A container's output as it comes, for as long as somebody reads.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use gpurent_core::runtime::Bytes;
use tokio_util::sync::CancellationToken;

use crate::middleware::auth::SocketSession;
use crate::subscribers::{RentalPermit, SubscriberPermit};

/// How often it is asked whether the reader may still read.
const AUTH_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// How long a reader may take for one piece. Meanwhile the engine keeps what comes, up to 64 MiB for each reader
/// (<https://github.com/moby/moby/blob/v20.10.24/daemon/logger/logger.go>, `logWatcherBufferSize`).
const READ_TIMEOUT: Duration = Duration::from_secs(10);

struct Reading {
    output: Bytes,
    session: SocketSession,
    stopping: CancellationToken,
    look: tokio::time::Interval,
    /// When the reader was given the last piece.
    given: Option<tokio::time::Instant>,
    _places: (SubscriberPermit, RentalPermit),
}

/// The bytes as the container's program writes them. A reader who does not keep up is given up.
pub(super) fn answer(
    output: Bytes,
    session: SocketSession,
    stopping: CancellationToken,
    places: (SubscriberPermit, RentalPermit),
) -> Response {
    let look = tokio::time::interval_at(tokio::time::Instant::now() + AUTH_CHECK_INTERVAL, AUTH_CHECK_INTERVAL);
    let reading = Reading { output, session, stopping, look, given: None, _places: places };
    let body = stream::unfold(reading, |mut reading| async move {
        if reading.given.is_some_and(|given| given.elapsed() > READ_TIMEOUT) {
            return None;
        }
        loop {
            let chunk = tokio::select! {
                biased;
                () = reading.stopping.cancelled() => return None,
                // Before the output, which may never pause.
                _ = reading.look.tick() => {
                    if reading.session.is_valid().await {
                        continue;
                    }
                    return None;
                }
                chunk = reading.output.next() => chunk?,
            };
            reading.given = Some(tokio::time::Instant::now());
            return Some((chunk, reading));
        }
    });
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(body)).into_response()
}

//! A container's output as it comes, for as long as somebody reads.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use gpurent_core::inside::Bytes;
use tokio_util::sync::CancellationToken;

use crate::auth::Pass;
use crate::listeners::Place;

/// How often it is asked whether the reader may still read.
const LOOK_EVERY: Duration = Duration::from_secs(30);

struct Reading {
    output: Bytes,
    pass: Pass,
    stopping: CancellationToken,
    look: tokio::time::Interval,
    _place: Place,
}

/// The bytes as the container's program writes them. A reader who does not read holds up nothing but the engine's own
/// copy, until their connection is given up.
pub(super) fn answer(output: Bytes, pass: Pass, stopping: CancellationToken, place: Place) -> Response {
    let look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK_EVERY, LOOK_EVERY);
    let reading = Reading { output, pass, stopping, look, _place: place };
    let body = stream::unfold(reading, |mut reading| async move {
        loop {
            let chunk = tokio::select! {
                biased;
                () = reading.stopping.cancelled() => return None,
                // Before the output, which may never pause.
                _ = reading.look.tick() => {
                    if reading.pass.is_valid().await {
                        continue;
                    }
                    return None;
                }
                chunk = reading.output.next() => chunk?,
            };
            return Some((chunk, reading));
        }
    });
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(body)).into_response()
}

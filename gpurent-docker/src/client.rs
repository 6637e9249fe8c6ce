//! The connection to Docker, with the API version really sent.
//!
//! bollard 0.21 negotiates a version but requests go out without it
//! (<https://github.com/fussybeaver/bollard/issues/736>), so that the engine answers in its newest
//! version. Every request is therefore prefixed here.

use std::time::Duration;

use bollard::{BollardRequest, Docker};
use gpurent_core::runtime::RuntimeError;
use http::Uri;
use http::uri::PathAndQuery;

use crate::error::unavailable;

/// The newest API this crate was written for; older engines are spoken to in theirs.
const NEWEST: (usize, usize) = (1, 45);

/// How long one request may take. Pulls and waits are streams and have deadlines of their own.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Connects and agrees on a version.
pub(crate) async fn connect(address: &str) -> Result<Docker, RuntimeError> {
    let docker = Docker::connect_with_host(address).map_err(unavailable)?.with_timeout(REQUEST_TIMEOUT);
    let answer = docker.version().await.map_err(unavailable)?;
    let theirs = answer
        .api_version
        .as_deref()
        .and_then(parse)
        .ok_or_else(|| RuntimeError::Unavailable("the engine does not tell its API version".into()))?;
    let (major, minor) = theirs.min(NEWEST);
    let prefix = format!("/v{major}.{minor}");
    Ok(docker.with_request_modifier(move |request| with_version(&prefix, request)))
}

fn parse(version: &str) -> Option<(usize, usize)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn with_version(prefix: &str, mut request: BollardRequest) -> BollardRequest {
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    if path.starts_with("/v1.") {
        return request;
    }
    let mut parts = request.uri().clone().into_parts();
    // A prefix of letters and digits before a valid path is a valid path; were it not, the request would
    // go out as it was.
    if let Ok(path) = format!("{prefix}{path}").parse() {
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(uri: &str) -> String {
        let request = http::Request::builder().uri(uri).body(bollard::body_full("".into())).unwrap();
        with_version("/v1.41", request).uri().to_string()
    }

    #[test]
    fn every_request_carries_the_version_once() {
        assert_eq!(sent("unix://2f72/containers/json?all=true"), "unix://2f72/v1.41/containers/json?all=true");
        assert_eq!(sent("http://localhost/v1.41/info"), "http://localhost/v1.41/info");
    }
}

//! The connection to Docker, with the API version really sent.
//!
//! bollard 0.21 negotiates a version but requests go out without it
//! (<https://github.com/fussybeaver/bollard/issues/736>), so that the engine answers in its newest
//! version. Every request is therefore prefixed here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::{BollardRequest, Docker};
use gpurent_core::runtime::RuntimeError;
use http::Uri;
use http::uri::PathAndQuery;

use crate::engine::error::unavailable;

/// The newest API this crate was written for; older engines are spoken to in theirs.
const NEWEST: (usize, usize) = (1, 45);

/// How long one request may take. Pulls and waits are streams and have deadlines of their own.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Where an engine is, and how to speak to it.
///
/// | address | |
/// |---|---|
/// | `unix:///var/run/docker.sock` | a socket of this machine |
/// | `npipe:////./pipe/docker_engine` | a named pipe of this machine, on Windows |
/// | `tcp://host:2375` | plain: whoever reaches it owns the machine |
/// | `tcp://host:2376` with [`TlsFiles`] | both sides prove who they are |
#[derive(Clone, Debug)]
pub struct EngineAddress {
    address: String,
    tls: Option<TlsFiles>,
}

/// The files of a TLS connection, as `docker` itself names them in a folder: `ca.pem`, `cert.pem`, `key.pem`.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority that may vouch for the engine.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// The client's private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// The three files in a folder, under their usual names.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self { ca: directory.join("ca.pem"), cert: directory.join("cert.pem"), key: directory.join("key.pem") }
    }
}

impl EngineAddress {
    /// An engine that is spoken to over TLS.
    #[must_use]
    pub fn with_tls(address: &str, files: TlsFiles) -> Self {
        Self { address: address.to_owned(), tls: Some(files) }
    }

    /// Where its containers' published ports are reached: the machine that the address names.
    #[must_use]
    pub fn host(&self) -> &str {
        let named = ["tcp://", "http://", "https://"].iter().find_map(|scheme| self.address.strip_prefix(scheme));
        let Some(named) = named else { return "127.0.0.1" };
        let host = named.split('/').next().unwrap_or(named);
        host.rsplit_once(':').map_or(host, |(host, _port)| host)
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.host(), "127.0.0.1" | "localhost" | "[::1]")
    }
}

impl From<&str> for EngineAddress {
    fn from(address: &str) -> Self {
        Self { address: address.to_owned(), tls: None }
    }
}

fn open(engine: &EngineAddress) -> Result<Docker, RuntimeError> {
    let Some(files) = &engine.tls else { return Docker::connect_with_host(&engine.address).map_err(unavailable) };
    #[cfg(feature = "tls")]
    {
        let seconds = REQUEST_TIMEOUT.as_secs();
        let version = bollard::API_DEFAULT_VERSION;
        Docker::connect_with_ssl(&engine.address, &files.key, &files.cert, &files.ca, seconds, version)
            .map_err(unavailable)
    }
    #[cfg(not(feature = "tls"))]
    {
        let without = format!("{} needs TLS, and this program was built without the feature tls", files.ca.display());
        Err(RuntimeError::Refused(without.into()))
    }
}

/// Connects and agrees on a version.
pub(crate) async fn connect(address: &EngineAddress) -> Result<Docker, RuntimeError> {
    let docker = open(address)?.with_timeout(REQUEST_TIMEOUT);
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

    #[test]
    fn published_ports_are_where_the_engine_is() {
        let host = |address: &str| EngineAddress::from(address).host().to_owned();
        assert_eq!(host("unix:///var/run/docker.sock"), "127.0.0.1");
        assert_eq!(host("npipe:////./pipe/docker_engine"), "127.0.0.1");
        assert_eq!(host("tcp://10.0.0.7:2376"), "10.0.0.7");
        assert!(!EngineAddress::from("tcp://10.0.0.7:2376").is_local());
        assert!(EngineAddress::from("tcp://127.0.0.1:2375").is_local());
    }

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

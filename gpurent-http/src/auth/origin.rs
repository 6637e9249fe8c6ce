//! What a request says of where it comes from, and by which key.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};

/// The address that a request's connection comes from, where the server tells.
pub(crate) fn address(request: &Parts) -> Option<IpAddr> {
    let connection = request.extensions.get::<ConnectInfo<SocketAddr>>();
    connection.map(|ConnectInfo(address)| address.ip().to_canonical())
}

/// The key in `Authorization: Bearer` or `X-API-Key`; never in a URL, where logs would keep it.
pub(super) fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok()).map(str::trim)
}

/// A browser can be made to call loopback addresses by any web page: its requests name the page in
/// `Origin`, or (DNS rebinding) a foreign name in `Host`.
pub(super) fn comes_from_this_machine(request: &Parts) -> bool {
    let headers = &request.headers;
    // A proxy on this machine speaks for others.
    let is_passed_on = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];
    let is_local = address(request).is_some_and(|address| address.is_loopback());
    is_local && is_passed_on.iter().all(|name| !headers.contains_key(*name)) && is_meant_for_this_machine(headers)
}

/// Whether a web page had a browser send it, as far as that can be told.
pub(super) fn is_sent_by_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.get("sec-fetch-site").is_some_and(|site| site != "none")
}

/// What the request itself says of where it goes to and comes from.
fn is_meant_for_this_machine(headers: &HeaderMap) -> bool {
    let is_local = |host: &str| {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let host_is_local = match headers.get(HOST).map(|host| host.to_str().map(str::parse::<Uri>)) {
        None => true,
        Some(Ok(Ok(uri))) => uri.host().is_some_and(is_local),
        Some(_) => false,
    };
    let origin_is_local = match headers.get(ORIGIN).map(|origin| origin.to_str().map(str::parse::<Uri>)) {
        None => true,
        Some(Ok(Ok(uri))) => uri.host().is_some_and(is_local),
        Some(_) => false,
    };
    host_is_local && origin_is_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_browser_on_another_page_is_not_this_machine() {
        assert!(is_meant_for_this_machine(&headers(&[("host", "127.0.0.1:8000")])));
        assert!(is_meant_for_this_machine(&headers(&[
            ("host", "localhost:8000"),
            ("origin", "http://localhost:3000")
        ])));
        assert!(is_meant_for_this_machine(&headers(&[("host", "[::1]:8000")])));
        assert!(!is_meant_for_this_machine(&headers(&[("host", "evil.example:8000")])));
        assert!(!is_meant_for_this_machine(&headers(&[("host", "127.0.0.1"), ("origin", "https://evil.example")])));
        assert!(!is_meant_for_this_machine(&headers(&[("host", "127.0.0.1"), ("origin", "null")])));
    }
}

//! The origin of a request, as it says: the address that it comes from, and the key that it shows.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, Version};

/// The address that a request's connection comes from, where the server tells.
pub(crate) fn address(request: &Parts) -> Option<IpAddr> {
    let connection = request.extensions.get::<ConnectInfo<SocketAddr>>();
    connection.map(|ConnectInfo(address)| address.ip().to_canonical())
}

/// The key in `Authorization: Bearer` or `X-API-Key`; never in a URL, where logs would keep it.
pub(crate) fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok()).map(str::trim)
}

/// Whether a program on this machine sent it, on a connection of its own.
///
/// A browser can be made to call loopback addresses by any web page: its requests name the page in `Origin`, or (DNS
/// rebinding) a foreign name in `Host`. A page on another port of this machine may be a tenant's.
pub(super) fn comes_from_this_machine(request: &Parts) -> bool {
    let is_local = address(request).is_some_and(|address| address.is_loopback());
    is_local && is_sent_by_a_program(request) && names_a_machine(&request.headers, |ip| ip.is_loopback())
}

/// Whether a program in a network sent it to an address of ours: no page from elsewhere in a browser there, and no proxy
/// for somebody else.
pub(super) fn comes_from_its_own_machine(request: &Parts) -> bool {
    is_sent_by_a_program(request) && names_a_machine(&request.headers, |_| true)
}

/// How headers begin that proxies and content networks add, to tell for whom they speak.
const OF_PROXIES: [&str; 17] = [
    "forwarded",
    "via",
    "cdn-loop",
    "cf-",
    "client-ip",
    "fastly-",
    "true-client-ip",
    "x-amz",
    "x-azure-",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-",
    "x-forwarded",
    "x-original-",
    "x-proxy",
    "x-real-",
    "x-scheme",
];

/// Whether a program speaks for itself: no page in a browser, and no proxy.
fn is_sent_by_a_program(request: &Parts) -> bool {
    let headers = &request.headers;
    let is_passed_on = headers.keys().any(|name| OF_PROXIES.iter().any(|of| name.as_str().starts_with(of)))
        // What nginx speaks to those behind it, where it is not told otherwise; and it adds no header then.
        || request.version < Version::HTTP_11;
    let by_another_page = headers.get("sec-fetch-site").is_some_and(|site| site != "none" && site != "same-origin");
    // Our own page names the very host and port that it came from.
    let origin = headers.get(ORIGIN).map(|origin| origin.to_str().ok().and_then(|text| text.split_once("://")));
    let from_elsewhere = match (origin, headers.get(HOST).and_then(|host| host.to_str().ok())) {
        (None, _) => false,
        (Some(Some((_, origin))), Some(host)) => origin != host,
        (Some(_), _) => true,
    };
    !by_another_page && !from_elsewhere && !is_passed_on
}

/// Whether `Host` is an address or `localhost`: a name could be anybody's who controls its DNS.
fn names_a_machine(headers: &HeaderMap, is_right: impl Fn(IpAddr) -> bool) -> bool {
    // Every client of HTTP/1.1 sends one (RFC 9112, section 3.2).
    let Some(host) = headers.get(HOST) else { return false };
    let Ok(Ok(uri)) = host.to_str().map(str::parse::<Uri>) else { return false };
    let Some(name) = uri.host() else { return false };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| is_right(address.to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_browser_on_another_page_is_not_this_machine() {
        let local = |pairs: &[(&'static str, &'static str)]| {
            let mut request = axum::http::Request::new(()).into_parts().0;
            request.headers = headers(pairs);
            request.extensions.insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 4711))));
            comes_from_this_machine(&request)
        };
        assert!(local(&[("host", "127.0.0.1:8000")]));
        assert!(local(&[("host", "localhost:8000"), ("origin", "http://localhost:8000")]), "our own page");
        assert!(local(&[("host", "[::1]:8000")]));
        assert!(!local(&[("host", "localhost:8000"), ("origin", "http://localhost:8123")]), "a tenant's page");
        assert!(!local(&[("host", "localhost:8000"), ("sec-fetch-site", "same-site")]));
        assert!(!local(&[("host", "evil.example:8000")]));
        for name in [
            "10.0.0.5:8000",
            "127.0.0.1.evil.example:8000",
            "localhost.evil.example",
            "0.0.0.0:8000",
            "127.1:8000",
            "2130706433",
            "0x7f.1",
            "127.0.0.1:8000, evil.example",
            "",
        ] {
            assert!(!local(&[("host", name)]), "{name}");
        }
        assert!(!local(&[("host", "127.0.0.1"), ("origin", "https://evil.example")]));
        assert!(!local(&[("host", "127.0.0.1"), ("origin", "null")]));
        for of_a_proxy in
            ["x-forwarded-for", "x-forwarded-proto", "x-client-ip", "cf-connecting-ip", "true-client-ip", "via"]
        {
            assert!(!local(&[("host", "127.0.0.1"), (of_a_proxy, "192.0.2.1")]), "{of_a_proxy}");
        }
        assert!(!local(&[]), "nobody speaks HTTP/1.1 without a host");
        let mut by_nginx = axum::http::Request::new(()).into_parts().0;
        by_nginx.version = Version::HTTP_10;
        by_nginx.headers = headers(&[("host", "127.0.0.1:8000"), ("connection", "close")]);
        by_nginx.extensions.insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 4711))));
        assert!(!comes_from_this_machine(&by_nginx));
    }
}

//! Reading a JSON body, and saying which field of it is wrong.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use serde::de::DeserializeOwned;

use crate::middleware::auth::origin::presented;
use crate::problem::Problem;

/// The largest body that is read.
pub(crate) const MAX_BODY: usize = 256 * 1024;

/// Why a body could not be read. Each protocol renders it in its own form.
#[derive(Debug)]
pub(crate) enum Malformed {
    /// The body is larger than [`MAX_BODY`].
    TooLarge,
    /// The body broke off.
    Incomplete,
    /// The body is not said to be JSON. A web page can send other types to loopback addresses unasked.
    NotJson,
    /// The body is JSON, but not of the expected form.
    Wrong {
        /// Where: a path such as `auth.password`; empty at the root.
        field: String,
        /// The reason, as a phrase that follows the field.
        reason: String,
        /// The missing field's name, if that is what is wrong.
        missing: Option<String>,
    },
}

/// A request's JSON body, or what is wrong with it. Has to be said to be JSON, unless a key came in a header: then nothing
/// need be said (as Python's `requests` does of a string), or that it is a form (as `curl --data` does). No page of another
/// origin can send such a header without being let.
pub(crate) struct JsonBody<T>(pub(crate) Result<T, Malformed>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        if !is_json(request.headers()) || is_encoded(&request) {
            return Ok(Self(Err(Malformed::NotJson)));
        }
        Ok(Self(read(request, state).await.and_then(|bytes| parse(&bytes))))
    }
}

/// A request's JSON body, whatever it is said to be: clients of older protocols send it under any type, or none at
/// all where nothing has to be said. Only for routes that a browser cannot reach from another page.
pub(crate) struct LooseJson<T>(pub(crate) Result<T, Malformed>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for LooseJson<T> {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        if is_encoded(&request) {
            return Ok(Self(Err(Malformed::NotJson)));
        }
        Ok(Self(match read(request, state).await {
            Ok(bytes) if bytes.is_empty() => parse(b"{}"),
            Ok(bytes) => parse(&bytes),
            Err(malformed) => Err(malformed),
        }))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let keyed = || presented(headers).is_some();
    let Some(kind) = headers.get(CONTENT_TYPE) else { return keyed() };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => true,
        "application/x-www-form-urlencoded" => keyed(),
        kind => kind.ends_with("+json"),
    }
}

/// Whether the body is compressed: none is taken, so none can grow while it is unpacked.
fn is_encoded(request: &Request) -> bool {
    request.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity")
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Malformed> {
    match Bytes::from_request(request, state).await {
        Ok(bytes) => Ok(bytes),
        Err(BytesRejection::FailedToBufferBody(error)) => {
            use axum::response::IntoResponse;
            let status = error.into_response().status();
            Err(if status == 413 { Malformed::TooLarge } else { Malformed::Incomplete })
        }
        Err(_) => Err(Malformed::Incomplete),
    }
}

impl Malformed {
    /// The problem in one sentence.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::TooLarge => "the body is larger than 256 KiB".to_owned(),
            Self::Incomplete => "the body broke off".to_owned(),
            Self::NotJson => "send uncompressed JSON".to_owned(),
            Self::Wrong { field, reason, .. } => format!("{field} {reason}").trim().to_owned(),
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let wrong = |field: String, error: &serde_json::Error| {
        let text = error.to_string();
        let missing = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()).map(str::to_owned);
        // serde tells the value that was wrong; it may be a secret, and the position is of no use.
        let reason = match error.classify() {
            serde_json::error::Category::Data => expected(&text),
            _ => "is not valid JSON".to_owned(),
        };
        Malformed::Wrong { field: field.trim_start_matches('.').to_owned(), reason, missing }
    };
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        wrong(path, error.inner())
    })?;
    json.end().map_err(|error| wrong(String::new(), &error))?;
    Ok(value)
}

/// Keeps of serde's message what was expected, and drops what was found.
fn expected(text: &str) -> String {
    let text = text.split(" at line ").next().unwrap_or(text);
    if text.starts_with("missing field") || text.starts_with("unknown field") || text.starts_with("duplicate field") {
        return text.to_owned();
    }
    match text.split_once(", expected ") {
        Some((_, expected)) => format!("must be {expected}"),
        None => "has a wrong form".to_owned(),
    }
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        let title = "Malformed body";
        match malformed {
            Malformed::TooLarge => {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", title, "the body is larger than 256 KiB")
            }
            Malformed::NotJson => Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not-json",
                title,
                "send Content-Type: application/json",
            ),
            Malformed::Incomplete => Problem::new(StatusCode::BAD_REQUEST, "malformed", title, "the body broke off"),
            Malformed::Wrong { field, reason, missing } => {
                let path = [Some(field).filter(|field| !field.is_empty()), missing].into_iter().flatten();
                let field = path.collect::<Vec<_>>().join(".");
                // Not JSON at all, or JSON that says something we cannot take.
                let status = if field.is_empty() { StatusCode::BAD_REQUEST } else { StatusCode::UNPROCESSABLE_ENTITY };
                Problem::new(status, "malformed", title, format!("{field} {reason}").trim().to_owned()).about(field)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[allow(dead_code, reason = "only its form matters")]
        auth: Inner,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Inner {
        #[allow(dead_code, reason = "only its form matters")]
        n: u8,
    }

    fn wrong(json: &str) -> (String, String) {
        match parse::<Outer>(json.as_bytes()).unwrap_err() {
            Malformed::Wrong { field, reason, .. } => (field, reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_field_is_named_and_the_value_is_not() {
        let (field, reason) = wrong(r#"{"auth":{"n":"hunter2"}}"#);
        assert_eq!((field.as_str(), reason.as_str()), ("auth.n", "must be u8"));
        assert_eq!(wrong(r#"{"auth":{}}"#).1, "missing field `n`");
        assert_eq!(wrong(r#"{"auth":{"n":1},"x":1}"#).0, "x");
        assert_eq!(wrong(r#"{"auth""#).1, "is not valid JSON");
        assert_eq!(wrong(r#"{"auth":{"n":1}} trailing"#).1, "is not valid JSON");
    }
}

//! WebSockets whose key comes as their first message: a browser cannot send headers with one, and a URL is
//! no place for a key.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, close_code};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HeaderValue};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::caller::Caller;
use crate::farewell;
use crate::middleware::auth::origin::address;
use crate::middleware::auth::{AuthError, AuthLayer, SocketSession};

/// How long a client may take to show its key.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A caller who wants to listen.
#[derive(Clone)]
pub(crate) enum SocketAuth {
    /// A caller who has shown who they are.
    Authenticated(Caller, SocketSession),
    /// A caller who has yet to.
    Pending(PendingAuth),
}

/// The parts that are needed to let a caller in later.
#[derive(Clone)]
pub(crate) struct PendingAuth {
    gate: AuthLayer,
    request: Arc<Parts>,
}

/// Lets a WebSocket pass with its caller, or to show its key as its first message; any other request as
/// [`authenticate`](crate::middleware::auth::authenticate) does.
pub(crate) async fn authenticate_socket(State(gate): State<AuthLayer>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let auth = match gate.authenticator.authenticate(&parts).await {
        Ok(caller) => {
            let request = Arc::new(parts.clone());
            parts.extensions.insert(caller.clone());
            SocketAuth::Authenticated(
                caller.clone(),
                SocketSession { authenticator: gate.authenticator, caller, request },
            )
        }
        Err(AuthError::Unauthenticated) if asks_for_a_socket(&parts) && !shows_a_key(&parts) => {
            // A socket is one guess at a key, and counts as one.
            if let Some(Err(problem)) = gate.rates.as_ref().map(|rates| rates.anonymous(&parts)) {
                return problem.into_response();
            }
            SocketAuth::Pending(PendingAuth { request: Arc::new(parts.clone()), gate })
        }
        Err(denied) => return gate.refuse(denied, &parts),
    };
    parts.extensions.insert(auth);
    next.run(Request::from_parts(parts, body)).await
}

fn asks_for_a_socket(parts: &Parts) -> bool {
    parts.headers.get("upgrade").is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn shows_a_key(parts: &Parts) -> bool {
    parts.headers.contains_key(AUTHORIZATION) || parts.headers.contains_key("x-api-key")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstMessage {
    api_key: String,
}

impl SocketAuth {
    /// The caller, once that is shown. `None` where it is not: the socket was told why then.
    pub(crate) async fn admit(self, socket: &mut WebSocket) -> Option<(Caller, SocketSession)> {
        let late = match self {
            Self::Authenticated(caller, session) => return Some((caller, session)),
            Self::Pending(late) => late,
        };
        let Some(_waiting) = late.gate.waiting.enter(address(&late.request)) else {
            farewell::close(socket, close_code::AGAIN, "too many are waiting").await;
            return None;
        };
        let heard = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, async {
            loop {
                match socket.recv().await {
                    Some(Ok(Message::Text(text))) => return Some(text),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    _ => return None,
                }
            }
        });
        let first = heard.await.ok().flatten().and_then(|text| serde_json::from_str::<FirstMessage>(&text).ok());
        let admitted = match first.and_then(|first| HeaderValue::try_from(format!("Bearer {}", first.api_key)).ok()) {
            Some(mut key) => {
                key.set_sensitive(true);
                late.admit(key).await
            }
            None => Err(AuthError::Unauthenticated),
        };
        match admitted {
            Ok(admitted) => Some(admitted),
            Err(AuthError::Unavailable(_)) => {
                farewell::close(socket, close_code::AGAIN, "who calls cannot be found out now").await;
                None
            }
            Err(_) => {
                farewell::close(socket, close_code::POLICY, "send {\"api_key\":\"KEY\"} first").await;
                None
            }
        }
    }
}

impl PendingAuth {
    async fn admit(self, key: HeaderValue) -> Result<(Caller, SocketSession), AuthError> {
        let mut request = (*self.request).clone();
        request.headers.insert(AUTHORIZATION, key);
        let caller = self.gate.authenticator.authenticate(&request).await?;
        let session = SocketSession {
            authenticator: self.gate.authenticator,
            caller: caller.clone(),
            request: Arc::new(request),
        };
        Ok((caller, session))
    }
}

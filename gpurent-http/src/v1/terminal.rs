//! `/v1/rentals/{id}/terminal`: a program inside a rental on a WebSocket, by default its user's shell on a terminal.
//!
//! Binary messages are bytes: what is typed one way, what the program writes the other. Text messages are JSON:
//! `{"resize":{"columns":120,"rows":40}}` to the host, `{"exit_code":0}` from it, at the end. A browser, which cannot send
//! headers with a WebSocket, sends `{"api_key":"..."}` first.

use std::net::IpAddr;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::response::Response;
use futures_util::StreamExt;
use gpurent_core::error::ValidationError;
use gpurent_core::host::Rentals;
use gpurent_core::id::RentalId;
use gpurent_core::runtime::{Input, Program, Session, TerminalSize};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;
use crate::middleware::audit;
use crate::middleware::audit::Audit;
use crate::middleware::auth::SocketSession;
use crate::middleware::auth::first_message::SocketAuth;
use crate::problem::Problem;
use crate::subscribers::{RentalPermit, SubscriberPermit, Subscribers};
use crate::v1::Refusals;

/// A client that takes longer to read one message is cut off.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent client is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// The largest message that is taken: what is typed or pasted at once.
const MOST_TYPED: usize = 64 * 1024;

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct TerminalQuery {
    /// Of the terminal: 80 by default.
    #[param(minimum = 1, maximum = 1000)]
    columns: Option<u16>,
    /// Of the terminal: 24 by default.
    #[param(minimum = 1, maximum = 1000)]
    rows: Option<u16>,
    /// A program and its arguments as a JSON array, instead of the shell.
    command: Option<String>,
}

impl TerminalQuery {
    fn program(&self) -> Result<Program, ValidationError> {
        let default = TerminalSize::default();
        let size = TerminalSize::new(self.columns.unwrap_or(default.columns()), self.rows.unwrap_or(default.rows()))?;
        match &self.command {
            None => Ok(Program::shell(size)),
            Some(command) => {
                let words = serde_json::from_str(command);
                Program::new(
                    words.map_err(|_| ValidationError::new("command", "must be a JSON array of texts"))?,
                    Some(size),
                )
            }
        }
    }
}

/// Opens a terminal
#[utoipa::path(
    get, path = "/v1/rentals/{id}/terminal", operation_id = "open_terminal", tag = "rentals", params(("id" = String, Path, format = Uuid), TerminalQuery),
    responses((status = 101, description = "A WebSocket"), Refusals)
)]
#[allow(clippy::too_many_arguments, reason = "one for each part of the request")]
pub(super) async fn terminal(
    State(rentals): State<Rentals>,
    State(subscribers): State<Subscribers>,
    State(audit): State<Option<Audit>>,
    Extension(auth): Extension<SocketAuth>,
    Path(id): Path<String>,
    connection: Option<Extension<ConnectInfo<std::net::SocketAddr>>>,
    query: Result<Query<TerminalQuery>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|_| ValidationError::new("query", "takes columns, rows and command"))?;
    let program = query.program()?;
    let id = id.parse::<RentalId>().map_err(|_| Problem::not_found())?;
    // Who is known already hears at once what is wrong.
    if let SocketAuth::Authenticated(caller, _) = &auth {
        crate::v1::find(&rentals, caller, &id.to_string()).await?;
    }
    let upgrade = upgrade.map_err(|_| Problem::upgrade_required())?;
    let address = connection.map(|Extension(ConnectInfo(address))| address.ip().to_canonical());
    let asked = Asked {
        rentals,
        subscribers,
        audit,
        address,
        id,
        program,
        noted: matches!(auth, SocketAuth::Authenticated(..)),
    };
    Ok(upgrade.max_message_size(MOST_TYPED).on_upgrade(move |mut socket| async move {
        let Some((caller, access)) = auth.admit(&mut socket).await else { return };
        let tracker = asked.subscribers.tracker.clone();
        tracker.track_future(asked.serve(socket, caller, access)).await;
    }))
}

struct Asked {
    rentals: Rentals,
    subscribers: Subscribers,
    audit: Option<Audit>,
    address: Option<IpAddr>,
    id: RentalId,
    program: Program,
    /// Whether it was written down with the request.
    noted: bool,
}

impl Asked {
    async fn serve(self, mut socket: WebSocket, caller: Caller, access: SocketSession) {
        let result = self.begin(&caller).await;
        if let Some(audit) = self.audit.as_ref().filter(|_| !self.noted) {
            let action = format!("GET /v1/rentals/{}/terminal", self.id);
            let status = if result.is_ok() { 101 } else { 404 };
            audit.note(audit::entry(&caller, self.address, action, status));
        }
        let (code, reason) = match result {
            Ok((session, _places)) => relay(&mut socket, session, access, self.subscribers.stopping.clone()).await,
            Err(problem) => (close_code::POLICY, problem.sentence()),
        };
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        // A farewell that does not arrive changes nothing.
        drop(tokio::time::timeout(SEND_TIMEOUT, socket.send(close)).await);
    }

    async fn begin(&self, caller: &Caller) -> Result<(Session, (SubscriberPermit, RentalPermit)), Problem> {
        let place = self.subscribers.enter(caller)?;
        let rental = crate::v1::find(&self.rentals, caller, &self.id.to_string()).await?;
        let terminal = self.subscribers.open_terminal(rental.id())?;
        Ok((self.rentals.run_inside(&rental, &self.program).await?, (place, terminal)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Control {
    resize: Resize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    columns: u16,
    rows: u16,
}

/// A client's message to the program.
enum Typed {
    Bytes(axum::body::Bytes),
    Size(TerminalSize),
}

/// How much may wait for a program that reads slowly, in messages; whoever types more waits.
const TYPED_AHEAD: usize = 4;

/// Types what comes, for as long as the program takes it.
async fn type_in(mut input: Box<dyn Input>, mut typed: mpsc::Receiver<Typed>) {
    while let Some(next) = typed.recv().await {
        let result = match next {
            Typed::Bytes(bytes) => input.write(&bytes).await,
            Typed::Size(size) => input.resize(size).await,
        };
        // A program that has ended reads nothing; its output ends in a moment, and tells.
        if let Err(error) = result {
            tracing::debug!(error = &error as &dyn std::error::Error, "not typed");
        }
    }
}

/// Carries bytes both ways until one side ends; tells how to say goodbye. No way waits for the other: a program that
/// writes before it reads on would otherwise never read on.
async fn relay(
    socket: &mut WebSocket,
    session: Session,
    access: SocketSession,
    stopping: CancellationToken,
) -> (u16, String) {
    let Session { input, mut output, exit } = session;
    let (typing, typed) = mpsc::channel(TYPED_AHEAD);
    let mut typist = std::pin::pin!(type_in(input, typed));
    let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING_INTERVAL, PING_INTERVAL);
    let message = loop {
        let message = tokio::select! {
            biased;
            () = stopping.cancelled() => return (close_code::AWAY, "the host shuts down".to_owned()),
            // Before what may never end.
            _ = ping.tick() => {
                if !access.is_valid().await {
                    return (close_code::POLICY, "no longer allowed".to_owned());
                }
                Message::Ping(Vec::new().into())
            }
            () = &mut typist => return (close_code::NORMAL, String::new()),
            written = output.next() => match written {
                Some(Ok(bytes)) => Message::Binary(bytes.into()),
                Some(Err(error)) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a terminal broke");
                    return (close_code::ERROR, "the terminal broke".to_owned());
                }
                None => break Message::Text(json!({"exit_code": exit.await}).to_string().into()),
            },
            heard = socket.recv(), if typing.capacity() > 0 => {
                let typed = match heard {
                    Some(Ok(Message::Binary(bytes))) => Typed::Bytes(bytes),
                    Some(Ok(Message::Text(text))) => match size_of(&text) {
                        Some(size) => Typed::Size(size),
                        None => return (close_code::INVALID, "text messages are {\"resize\":{...}}".to_owned()),
                    },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return (close_code::NORMAL, String::new()),
                };
                // There is room, and nobody else types.
                if typing.try_send(typed).is_err() {
                    return (close_code::NORMAL, String::new());
                }
                continue;
            }
        };
        match tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return (close_code::POLICY, "too slow".to_owned()),
        }
    };
    // The last word; whoever does not hear it sees the close.
    drop(tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await);
    (close_code::NORMAL, "the program has ended".to_owned())
}

fn size_of(text: &str) -> Option<TerminalSize> {
    let control: Control = serde_json::from_str(text).ok()?;
    TerminalSize::new(control.resize.columns, control.resize.rows).ok()
}

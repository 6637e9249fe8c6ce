//! `/v1/rentals/{id}/terminal`: a program inside a rental on a WebSocket, by default its user's shell on a terminal.
//!
//! Binary messages are bytes: what is typed one way, what the program writes the other. Text messages are JSON:
//! `{"resize":{"columns":120,"rows":40}}` to the host, `{"exit_code":0}` from it, at the end. A browser, which cannot send
//! headers with a WebSocket, sends `{"api_key":"..."}` first.

use std::net::IpAddr;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::response::Response;
use futures_util::StreamExt;
use gpurent_core::error::ValidationError;
use gpurent_core::host::Rentals;
use gpurent_core::id::RentalId;
use gpurent_core::runtime::{Input, Program, RuntimeError, Session, TerminalSize};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::caller::Caller;
use crate::middleware::audit;
use crate::middleware::audit::Audit;
use crate::middleware::auth::SocketSession;
use crate::middleware::auth::first_message::SocketAuth;
use crate::problem::Problem;
use crate::subscribers::{RentalPermit, SubscriberPermit, Subscribers};
use crate::v1::Refusals;
use crate::websocket::{Connection, Incoming, Turn};

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
    async fn serve(self, socket: WebSocket, caller: Caller, access: SocketSession) {
        let result = self.begin(&caller).await;
        if let Some(audit) = self.audit.as_ref().filter(|_| !self.noted) {
            let action = format!("GET /v1/rentals/{}/terminal", self.id);
            let status = if result.is_ok() { 101 } else { 404 };
            audit.note(audit::entry(&caller, self.address, action, status));
        }
        let connection = Connection::new(socket, access, self.subscribers.stopping.clone());
        match result {
            Ok((session, _places)) => relay(connection, session).await,
            Err(problem) => connection.close(close_code::POLICY, problem.sentence()).await,
        }
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

/// An event of the program.
enum Progress {
    Wrote(Option<Result<Vec<u8>, RuntimeError>>),
    HasRoom,
    TakesNoMore,
}

/// Carries bytes both ways until one side ends. No way waits for the other: a program that writes before it reads on would
/// otherwise never read on.
async fn relay(mut connection: Connection, session: Session) {
    let Session { input, mut output, exit } = session;
    let (typing, typed) = mpsc::channel(TYPED_AHEAD);
    let mut typist = std::pin::pin!(type_in(input, typed));
    // Heard, and not passed on yet: nothing else is heard meanwhile.
    let mut waiting: Option<Typed> = None;
    loop {
        let incoming = if waiting.is_some() { Incoming::Hold } else { Incoming::Deliver };
        let program = async {
            tokio::select! {
                biased;
                () = &mut typist => Progress::TakesNoMore,
                // Before what may never pause: it would hold up what stops it.
                _ = typing.reserve(), if incoming == Incoming::Hold => Progress::HasRoom,
                written = output.next() => Progress::Wrote(written),
            }
        };
        let bytes = match connection.turn(incoming, program).await {
            Turn::Done(Progress::Wrote(Some(Ok(bytes)))) => bytes,
            Turn::Done(Progress::Wrote(Some(Err(error)))) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a terminal broke");
                return connection.close(close_code::ERROR, "the terminal broke").await;
            }
            Turn::Done(Progress::Wrote(None)) => break,
            Turn::Done(Progress::HasRoom) => {
                // There is room, and nobody else types.
                if waiting.take().is_some_and(|typed| typing.try_send(typed).is_err()) {
                    return connection.close(close_code::NORMAL, "").await;
                }
                continue;
            }
            Turn::Heard(Message::Text(text)) => match size_of(&text) {
                Some(size) => {
                    waiting = Some(Typed::Size(size));
                    continue;
                }
                None => return connection.close(close_code::INVALID, "text messages are {\"resize\":{...}}").await,
            },
            Turn::Heard(Message::Binary(bytes)) => {
                waiting = Some(Typed::Bytes(bytes));
                continue;
            }
            Turn::Heard(_) => continue,
            Turn::Done(Progress::TakesNoMore) | Turn::Gone => return connection.close(close_code::NORMAL, "").await,
            Turn::TooSlow => return connection.close(close_code::POLICY, "too slow").await,
            Turn::Stopping => return connection.close_stopping().await,
            Turn::Revoked => return connection.close_revoked().await,
        };
        if connection.send(Message::Binary(bytes.into())).await.is_err() {
            return connection.close(close_code::POLICY, "too slow").await;
        }
    }
    let last_word = Message::Text(json!({"exit_code": exit.await}).to_string().into());
    match connection.send(last_word).await {
        Ok(()) => connection.close(close_code::NORMAL, "the program has ended").await,
        // Whoever does not hear it sees the close.
        Err(_) => connection.close(close_code::POLICY, "too slow").await,
    }
}

fn size_of(text: &str) -> Option<TerminalSize> {
    let control: Control = serde_json::from_str(text).ok()?;
    TerminalSize::new(control.resize.columns, control.resize.rows).ok()
}

//! `/v1/events`: the host's journal from any position on, then live; each event once and in order.
//!
//! Three ways to read the same: a WebSocket, server-sent events (`Accept: text/event-stream`), or page by
//! page. `after` is the last position that the reader has (server-sent events: also `Last-Event-ID`);
//! without it a page begins at the journal's beginning, and a stream with what happens next.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream;
use gpurent_core::error::ValidationError;
use gpurent_core::host::{Followed, Follower, Rentals};
use gpurent_core::id::{Position, RentalId};
use gpurent_core::store::StoreError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;
use crate::farewell::{self, SEND_TIMEOUT};
use crate::middleware::auth::SocketSession;
use crate::middleware::auth::first_message::SocketAuth;
use crate::problem::Problem;
use crate::subscribers::{READ_BUFFER, Subscribers};
use crate::v1::event_cache::EventCache;
use crate::v1::{Refusals, event, find};
use crate::websocket::{Connection, Incoming, PING_INTERVAL, SendError, Turn};

/// How many events wait for a client that reads slowly.
const SENT_AHEAD: usize = 16;
/// Between two tries to read the journal.
const STORE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// How many rentals a reader's rights to are remembered.
const MOST_KNOWN: usize = 4096;

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// The last position that the reader has.
    after: Option<u64>,
    /// Only of this rental.
    rental: Option<String>,
    /// Of a page; 100 by default.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
}

/// A page of the journal.
#[derive(Serialize, utoipa::ToSchema)]
struct EventPage {
    #[schema(value_type = Vec<event::EventSchema>)]
    events: Vec<Value>,
    /// The position to ask for `after` next.
    #[schema(value_type = u64)]
    next: Position,
}

/// Tells what happens
///
/// A WebSocket (a browser sends `{"api_key":"..."}` first), server-sent events (`Accept: text/event-stream`), or a page of
/// the journal. A subscriber who reads too slowly is dropped, and resumes after the last position that they have.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "list_events", tag = "events", params(EventsQuery),
    responses(
        (status = 200, description = "A page of events, or a stream of them", content((EventPage = "application/json"), (String = "text/event-stream"))),
        (status = 101, description = "A WebSocket: each message is an event"),
        Refusals,
    )
)]
pub(super) async fn events(
    State(rentals): State<Rentals>,
    State(subscribers): State<Subscribers>,
    State(cache): State<Arc<EventCache>>,
    Extension(auth): Extension<SocketAuth>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|_| ValidationError::new("query", "takes after, rental and limit"))?;
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let after = resumed.or(query.after).map(Position::new);
    let (caller, session) = match auth {
        SocketAuth::Authenticated(caller, session) => (caller, session),
        // Only a WebSocket is let in before it has shown a key.
        late => {
            let upgrade = upgrade.map_err(|_| Problem::unauthorized())?;
            return Ok(admit_late(upgrade, late, Late { rentals, subscribers, cache, after, only: query.rental }));
        }
    };
    if let Some(after) = after {
        expect_known(&rentals, after).await?;
    }
    let only = match &query.rental {
        Some(id) => Some(find(&rentals, &caller, id).await?.id()),
        None => None,
    };
    let wants_stream = headers.get(ACCEPT).is_some_and(|kinds| {
        kinds.to_str().is_ok_and(|kinds| kinds.to_ascii_lowercase().contains("text/event-stream"))
    });
    if upgrade.is_err() && !wants_stream {
        let limit = query.limit.unwrap_or(100);
        if !(1..=500).contains(&limit) {
            return Err(ValidationError::new("limit", "must be 1 to 500").into());
        }
        return page(&rentals, caller, only, after.unwrap_or(Position::ZERO), limit).await;
    }
    let from = match after {
        Some(after) => after,
        None => rentals.last_position().ok_or_else(Problem::overloaded)?,
    };
    let place = subscribers.enter(&caller)?;
    let stopping = subscribers.stopping.clone();
    let reader = Reader::new(rentals, caller, session, only, from, cache);
    Ok(match upgrade {
        Ok(upgrade) => {
            upgrade.max_message_size(64 * 1024).read_buffer_size(READ_BUFFER).on_upgrade(move |socket| async move {
                subscribers.tracker.track_future(send_events(socket, reader, stopping)).await;
                drop(place);
            })
        }
        Err(_) => {
            let (sender, receiver) = mpsc::channel(SENT_AHEAD);
            subscribers.tracker.spawn(async move {
                pump(sender, reader, stopping).await;
                drop(place);
            });
            let sent = stream::unfold(receiver, |mut receiver| async move {
                Some((Ok::<_, Infallible>(receiver.recv().await?), receiver))
            });
            Sse::new(sent).keep_alive(KeepAlive::default()).into_response()
        }
    })
}

/// The wish of a listener who has yet to show who they are.
struct Late {
    rentals: Rentals,
    subscribers: Subscribers,
    cache: Arc<EventCache>,
    after: Option<Position>,
    only: Option<String>,
}

fn admit_late(upgrade: WebSocketUpgrade, auth: SocketAuth, late: Late) -> Response {
    upgrade.max_message_size(64 * 1024).read_buffer_size(READ_BUFFER).on_upgrade(move |mut socket| async move {
        let Some((caller, session)) = auth.admit(&mut socket).await else { return };
        let Late { rentals, subscribers, cache, after, only } = late;
        let begun = async {
            let only = match &only {
                Some(id) => Some(find(&rentals, &caller, id).await?.id()),
                None => None,
            };
            if let Some(after) = after {
                expect_known(&rentals, after).await?;
            }
            let from = after.or(rentals.last_position()).ok_or_else(Problem::overloaded)?;
            let place = subscribers.enter(&caller)?;
            Ok::<_, Problem>((only, from, place))
        };
        match begun.await {
            Ok((only, from, place)) => {
                let stopping = subscribers.stopping.clone();
                let reader = Reader::new(rentals, caller, session, only, from, cache);
                subscribers.tracker.track_future(send_events(socket, reader, stopping)).await;
                drop(place);
            }
            Err(problem) => farewell::close(&mut socket, close_code::POLICY, problem.sentence()).await,
        }
    })
}

/// A position that the journal does not have (after a restored backup, say) would be waited for in vain.
async fn expect_known(rentals: &Rentals, after: Position) -> Result<(), Problem> {
    let known = rentals.last_position().unwrap_or(Position::ZERO);
    if after <= known {
        return Ok(());
    }
    // What was just published may not have reached this process's own feed.
    let before = Position::new(after.get() - 1);
    let found = rentals.journal(before, 1).await?;
    if found.first().is_some_and(|entry| entry.position == after) {
        Ok(())
    } else {
        Err(Problem::unknown_cursor(known))
    }
}

async fn page(
    rentals: &Rentals,
    caller: Caller,
    only: Option<RentalId>,
    after: Position,
    limit: usize,
) -> Result<Response, Problem> {
    let mut visible = Visible { rentals: rentals.clone(), caller, only, known: BTreeMap::new() };
    let entries = rentals.journal(after, limit).await?;
    // Also past what this reader may not see.
    let next = entries.last().map_or(after, |entry| entry.position);
    let mut events = Vec::with_capacity(entries.len());
    for entry in entries {
        if visible.is(entry.rental).await? {
            events.push(event::entry(rentals.public_host(), &entry));
        }
    }
    Ok(Json(EventPage { events, next }).into_response())
}

/// The part of the journal that a caller may see.
struct Visible {
    rentals: Rentals,
    caller: Caller,
    only: Option<RentalId>,
    known: BTreeMap<RentalId, bool>,
}

impl Visible {
    async fn is(&mut self, id: RentalId) -> Result<bool, StoreError> {
        if self.only.is_some_and(|only| only != id) {
            return Ok(false);
        }
        // That one was looked at when the stream was opened; a rental never changes its renter.
        if self.only.is_some() || self.caller.scope().is_none() {
            return Ok(true);
        }
        if let Some(known) = self.known.get(&id) {
            return Ok(*known);
        }
        let visible = self.rentals.get(id).await?.is_some_and(|rental| self.caller.may_see(&rental));
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        self.known.insert(id, visible);
        Ok(visible)
    }
}

/// One message.
struct Told {
    position: Option<Position>,
    kind: &'static str,
    text: Utf8Bytes,
}

impl Told {
    fn into_sent(self) -> Sent {
        let sent = Sent::default().event(self.kind).data(self.text.as_str());
        match self.position {
            Some(position) => sent.id(position.to_string()),
            None => sent,
        }
    }
}

struct Reader {
    follower: Follower,
    /// Up to where the client was told.
    told: Position,
    session: SocketSession,
    /// Taken from the follower, and not told yet.
    pending: Option<Followed>,
    visible: Visible,
    rendered: Arc<EventCache>,
}

impl Reader {
    fn new(
        rentals: Rentals,
        caller: Caller,
        session: SocketSession,
        only: Option<RentalId>,
        from: Position,
        rendered: Arc<EventCache>,
    ) -> Self {
        let follower = rentals.follow(from);
        let visible = Visible { rentals, caller, only, known: BTreeMap::new() };
        Self { follower, pending: None, told: from, session, visible, rendered }
    }

    /// The next message for this reader. A store that does not answer is waited for: what it holds is not
    /// lost, only late.
    async fn next(&mut self) -> Told {
        loop {
            match self.try_next().await {
                Ok(Some(told)) => return told,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "events wait for the store");
                    tokio::time::sleep(STORE_RETRY_DELAY).await;
                }
            }
        }
    }

    /// The next message. It is put down only when it is known who may see it, as it is never told again:
    /// this may be cancelled, and asked again, at any time.
    async fn try_next(&mut self) -> Result<Option<Told>, StoreError> {
        let next = match &self.pending {
            Some(pending) => pending.clone(),
            None => self.pending.insert(self.follower.next().await?).clone(),
        };
        let (rental, position) = match &next {
            Followed::Entry(entry) => (entry.rental, Some(entry.position)),
            Followed::Progress { rental, .. } => (*rental, None),
        };
        let visible = self.visible.is(rental).await?;
        self.pending = None;
        self.told = position.unwrap_or(self.told);
        if !visible {
            return Ok(None);
        }
        let (kind, text) = match &next {
            Followed::Entry(entry) => {
                (entry.recorded.event.name(), self.rendered.of(self.visible.rentals.public_host(), entry))
            }
            Followed::Progress { rental, progress } => {
                ("progress", event::progress(*rental, progress).to_string().into())
            }
        };
        Ok(Some(Told { position, kind, text }))
    }
}

/// Tells one client of server-sent events everything until it leaves, is too slow, or the server ends.
async fn pump(sender: mpsc::Sender<Sent>, mut reader: Reader, stopping: CancellationToken) {
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + PING_INTERVAL, PING_INTERVAL);
    loop {
        let told = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            () = sender.closed() => return,
            // Before what may never end.
            _ = look.tick() => {
                if !reader.session.is_valid().await {
                    return;
                }
                continue;
            }
            told = reader.next() => told,
        };
        // A client that does not read is cut off; it resumes by the id of the last event that it has.
        if sender.send_timeout(told.into_sent(), SEND_TIMEOUT).await.is_err() {
            return;
        }
    }
}

/// Tells one client everything until it leaves, is too slow, or the server ends.
async fn send_events(socket: WebSocket, mut reader: Reader, stopping: CancellationToken) {
    let mut connection = Connection::new(socket, reader.session.clone(), stopping);
    loop {
        match connection.turn(Incoming::Discard, reader.next()).await {
            Turn::Done(told) => match connection.send(Message::Text(told.text)).await {
                Ok(()) => {}
                Err(SendError::Gone) => return,
                Err(SendError::TooSlow) => return too_slow(connection, reader.told).await,
            },
            Turn::TooSlow => return too_slow(connection, reader.told).await,
            Turn::Stopping => {
                let reason = format!("the host shuts down; resume after {}", reader.told);
                return connection.close(close_code::AWAY, reason).await;
            }
            Turn::Revoked => return connection.close_revoked().await,
            Turn::Gone | Turn::Heard(_) => return,
        }
    }
}

/// Tells a client that does not read where to resume, should it read after all.
async fn too_slow(connection: Connection, told: Position) {
    connection.close(close_code::POLICY, format!("too slow; resume after {told}")).await;
}

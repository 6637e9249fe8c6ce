//! One WebSocket of a client, whatever it is for: pings, the client's right to be there, messages in time, a farewell.
//!
//! Events, updates and terminals bring what they send, and what they do with what a client says; the rest is here, once.

use std::pin::pin;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, close_code};
use futures_util::future::poll_immediate;
use tokio::time::{Instant, Interval, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use crate::farewell::{SEND_TIMEOUT, close};
use crate::middleware::auth::SocketSession;

/// How often a client is asked whether it is still there, and whether it may be.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(30);

/// A client's WebSocket, and by which right it is there.
pub(crate) struct Connection {
    socket: WebSocket,
    session: SocketSession,
    stopping: CancellationToken,
    ping: Interval,
}

/// A client's messages while the server has something to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// Messages are dropped.
    Discard,
    /// Messages are delivered.
    Deliver,
    /// Messages are not read: the client waits.
    Hold,
}

/// The event that came first.
pub(crate) enum Turn<T> {
    /// The server's own work was done.
    Done(T),
    /// The client said this.
    Heard(Message),
    /// The client is gone: nobody is left to tell why.
    Gone,
    /// The client does not read.
    TooSlow,
    /// The host shuts down.
    Stopping,
    /// The client may not be here any more.
    Revoked,
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The client is gone.
    Gone,
    /// The client does not read.
    TooSlow,
}

impl Connection {
    pub(crate) fn new(socket: WebSocket, session: SocketSession, stopping: CancellationToken) -> Self {
        let ping = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        Self { socket, session, stopping, ping }
    }

    /// Does the server's own work until it is done, the client says something that is to be delivered, or the connection is
    /// over. Work that is not done is dropped then.
    pub(crate) async fn turn<T>(&mut self, incoming: Incoming, work: impl Future<Output = T>) -> Turn<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Turn::Stopping,
                // Before what may never end.
                _ = self.ping.tick() => {
                    if !self.session.is_valid().await {
                        return Turn::Revoked;
                    }
                    match self.send(Message::Ping(Vec::new().into())).await {
                        Ok(()) => {}
                        Err(SendError::Gone) => return Turn::Gone,
                        Err(SendError::TooSlow) => return Turn::TooSlow,
                    }
                }
                done = &mut work => return Turn::Done(done),
                heard = self.socket.recv(), if incoming != Incoming::Hold => match heard {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Turn::Gone,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(message)) if incoming == Incoming::Deliver => return Turn::Heard(message),
                    Some(Ok(_)) => {}
                },
            }
        }
    }

    /// Sends a message in time. A clock is needed only for a client who does not take it at once.
    pub(crate) async fn send(&mut self, message: Message) -> Result<(), SendError> {
        let mut sending = pin!(self.socket.send(message));
        let sent = match poll_immediate(sending.as_mut()).await {
            Some(sent) => sent,
            None => timeout(SEND_TIMEOUT, sending).await.map_err(|_elapsed| SendError::TooSlow)?,
        };
        sent.map_err(|_broken| SendError::Gone)
    }

    /// Says why the connection ends.
    pub(crate) async fn close(mut self, code: u16, reason: impl Into<String>) {
        close(&mut self.socket, code, reason).await;
    }

    /// Says that the host shuts down.
    pub(crate) async fn close_stopping(self) {
        self.close(close_code::AWAY, "the host shuts down").await;
    }

    /// Says that the client's right to be here has ended.
    pub(crate) async fn close_revoked(self) {
        self.close(close_code::POLICY, "no longer allowed").await;
    }
}

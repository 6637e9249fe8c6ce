//! The last message of a WebSocket: why it ends.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use tokio::time::timeout;

/// How long a client may take to read one message.
pub(crate) const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Says why a connection ends.
pub(crate) async fn close(socket: &mut WebSocket, code: u16, reason: impl Into<String>) {
    let frame = CloseFrame { code, reason: reason.into().into() };
    // A farewell that does not arrive changes nothing.
    drop(timeout(SEND_TIMEOUT, socket.send(Message::Close(Some(frame)))).await);
}

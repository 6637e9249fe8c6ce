//! Events as they are sent, written once however many hear them.

use std::sync::{Mutex, PoisonError};

use axum::extract::ws::Utf8Bytes;
use gpurent_core::id::{Position, RentalId};
use gpurent_core::model::JournalEntry;

use crate::v1::event;

/// How many of the latest events are kept: who is further behind has them written anew.
const KEPT: usize = 512;

/// An event's position, its rental, its number, and its text.
type Text = (Position, RentalId, u64, Utf8Bytes);

/// The latest events' texts.
pub(crate) struct EventCache {
    /// An event's place follows from its position. The rental and the number tell one journal from another, as after a
    /// backup was restored.
    texts: Vec<Mutex<Option<Text>>>,
}

impl Default for EventCache {
    fn default() -> Self {
        Self { texts: (0..KEPT).map(|_| Mutex::new(None)).collect() }
    }
}

impl EventCache {
    /// An event's text.
    pub(super) fn of(&self, public_host: &str, entry: &JournalEntry) -> Utf8Bytes {
        let (position, rental, seq) = (entry.position, entry.rental, entry.recorded.seq.get());
        let place = usize::try_from(position.get() % KEPT as u64).unwrap_or(0);
        let mut kept = self.texts[place].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((.., text)) = kept.as_ref().filter(|(at, of, n, _)| (*at, *of, *n) == (position, rental, seq)) {
            return text.clone();
        }
        let text = Utf8Bytes::from(event::entry(public_host, entry).to_string());
        *kept = Some((position, rental, seq, text.clone()));
        text
    }
}

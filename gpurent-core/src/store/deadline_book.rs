//! Until when each container is paid for, kept on the host itself.
//!
//! The store has all of it too, but may be away just when a rental ends, or when a host starts: then
//! this book alone says which containers have had their time. It also says when each was last seen alive,
//! so that nobody pays for time that no container lived to use, whatever happened to agent and machine.

use async_trait::async_trait;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::id::LaunchId;
use crate::model::Term;

/// The paid time of one launch that became ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// Which launch.
    pub launch: LaunchId,
    /// From when its paid time counts.
    pub paid_from: Moment,
    /// How long it is, all launches of the rental together.
    pub term: Term,
    /// How much of it was used before this launch.
    #[serde(default, skip_serializing_if = "SignedDuration::is_zero")]
    pub used: SignedDuration,
    /// When its container was last seen running, as far as that was written down.
    pub last_seen: Moment,
}

impl Deadline {
    /// How much paid time is left; negative past the end, `None` where the term is open.
    #[must_use]
    pub fn time_left(&self, now: &Moment) -> Option<SignedDuration> {
        Some(self.term.duration()? - self.used - now.since(&self.paid_from))
    }
}

/// Why the book was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadlineError {
    /// The disk refuses: it is full, or the folder is gone.
    #[error("the book of deadlines cannot be used")]
    Io(#[source] std::io::Error),
    /// Something else was found where the book should be: an operator has to look.
    #[error("the book of deadlines is unreadable")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Keeps the deadlines of one host where they survive the process, and best the machine.
#[async_trait]
pub trait DeadlineBook: Send + Sync + 'static {
    /// Reads the deadlines that were written last; none where none were.
    ///
    /// # Errors
    /// [`DeadlineError`]. A book that cannot be understood is put aside, so that another can be begun.
    async fn read(&self) -> Result<Vec<Deadline>, DeadlineError>;

    /// Replaces all of it, and returns only once it would survive a power cut. A crash in between leaves the
    /// old or the new book, never a part. Writes take effect in the order in which they were asked for, also one
    /// whose caller has gone.
    ///
    /// # Errors
    /// [`DeadlineError`]: the old book is there, or the new one, of which it is not sure that it would survive.
    async fn write(&self, deadlines: &[Deadline]) -> Result<(), DeadlineError>;
}

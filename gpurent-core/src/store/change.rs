//! A rental as it was read, and what is to happen to it: one write.

use jiff::Timestamp;

use crate::id::{Epoch, Revision};
use crate::model::{IllegalTransition, Outcome, RecordedEvent, Rental, RentalEvent, Sealed};
use crate::store::HostOwnership;

/// The last lines of a container's output, which outlive it for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTail {
    /// The lines, oldest first.
    pub lines: Vec<String>,
    /// When they were read. What other rentals of the host left and is out of date by then is dropped
    /// with this write, and with every end.
    pub at: Timestamp,
    /// Until when they are kept.
    pub until: Timestamp,
}

/// A rental as it was read, and the events that are to happen to it.
#[derive(Clone, Debug)]
pub struct Change {
    rental: Rental,
    expected: Revision,
    events: Vec<RecordedEvent>,
    fence: Option<Epoch>,
    sealed: Option<Sealed>,
    log_tail: Option<LogTail>,
}

impl Change {
    /// An intent: allowed to every process.
    #[must_use]
    pub fn intent(rental: Rental) -> Self {
        let expected = rental.revision();
        Self { rental, expected, events: Vec::new(), fence: None, sealed: None, log_tail: None }
    }

    /// An observation: allowed to the process that owns the host, as long as it does.
    #[must_use]
    pub fn observation(rental: Rental, owner: HostOwnership) -> Self {
        Self { fence: Some(owner.epoch), ..Self::intent(rental) }
    }

    /// Lets an event happen.
    ///
    /// # Errors
    /// [`IllegalTransition`]: it cannot happen to the rental as it is.
    pub fn apply(&mut self, event: RentalEvent, at: Timestamp) -> Result<Outcome, IllegalTransition> {
        let outcome = self.rental.apply(event.clone(), at)?;
        if outcome == Outcome::Changed {
            if self.events.is_empty() {
                self.rental.bump_revision(at);
            }
            self.events.push(RecordedEvent { seq: self.rental.last_seq(), at, event });
        }
        Ok(outcome)
    }

    /// Replaces the rental's sealed secrets.
    #[must_use]
    pub fn with_sealed(self, sealed: Sealed) -> Self {
        Self { sealed: Some(sealed), ..self }
    }

    /// Keeps the last lines of the rental's output.
    #[must_use]
    pub fn with_log_tail(self, tail: LogTail) -> Self {
        Self { log_tail: Some(tail), ..self }
    }

    /// The new sealed secrets, if they are to be replaced.
    #[must_use]
    pub fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_ref()
    }

    /// The lines to keep, if any.
    #[must_use]
    pub fn log_tail(&self) -> Option<&LogTail> {
        self.log_tail.as_ref()
    }

    /// The rental as it will be.
    #[must_use]
    pub fn rental(&self) -> &Rental {
        &self.rental
    }

    /// The rental as it will be, for the caller to go on with.
    #[must_use]
    pub fn into_rental(self) -> Rental {
        self.rental
    }

    /// The revision that the stored rental must still have.
    #[must_use]
    pub fn expected(&self) -> Revision {
        self.expected
    }

    /// The events of the change; empty where nothing is to be written.
    #[must_use]
    pub fn events(&self) -> &[RecordedEvent] {
        &self.events
    }

    /// The epoch that the host must still have.
    #[must_use]
    pub fn fence(&self) -> Option<Epoch> {
        self.fence
    }
}

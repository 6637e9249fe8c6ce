//! The host's deadline book as this process knows it: written through, and never behind what was promised.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::lock::Mutex;
use jiff::SignedDuration;

use crate::clock::Moment;
use crate::id::{LaunchId, RentalId, Revision};
use crate::model::{Rental, Term};
use crate::store::{Deadline, DeadlineBook, DeadlineError};

/// How old the written time of the last sight may grow before it is written again.
const CHECKPOINT_INTERVAL: SignedDuration = SignedDuration::from_secs(30);

/// The book, and what is in it.
pub(crate) struct Deadlines {
    book: Arc<dyn DeadlineBook>,
    /// Held while the book is written, so that a later state is never overwritten by an earlier one.
    /// `None` until it was read.
    pages: Mutex<Option<Pages>>,
}

#[derive(Clone, Default)]
struct Pages {
    entries: BTreeMap<LaunchId, Deadline>,
    /// The longer terms that were written down, and of which nobody knows yet whether the store has them.
    unsure: BTreeMap<LaunchId, Unsure>,
    /// Whether the book has something else, since it could not be written.
    unwritten: bool,
}

/// A longer term that is in the book before the store has it.
#[derive(Clone, Copy)]
struct Unsure {
    /// The rental's revision that was to be extended: any later one has the longer term, or never will.
    at: Revision,
    before: Term,
}

impl Deadlines {
    pub(crate) fn new(book: Arc<dyn DeadlineBook>) -> Self {
        Self { book, pages: Mutex::new(None) }
    }

    /// Reads the book anew, as somebody else may have written it meanwhile.
    pub(crate) async fn read(&self) -> Result<Vec<Deadline>, DeadlineError> {
        let mut pages = self.pages.lock().await;
        let found = self.book.read().await?;
        let mut entries: BTreeMap<_, _> = found.into_iter().map(|entry| (entry.launch, entry)).collect();
        // What could not be written counts all the same.
        let Pages { entries: ours, unsure, unwritten } = pages.take().unwrap_or_default();
        if unwritten {
            entries.extend(ours);
        }
        let all = entries.values().cloned().collect();
        *pages = Some(Pages { entries, unsure, unwritten });
        Ok(all)
    }

    /// Changes the deadlines, and writes the book if it differs. If the write fails, a fact (`known`) stays in memory and is
    /// written with the next change; a commitment, such as an extension, is refused.
    async fn change(
        &self,
        known: bool,
        how: impl FnOnce(&mut BTreeMap<LaunchId, Deadline>, &mut BTreeMap<LaunchId, Unsure>) -> bool,
    ) -> Result<(), DeadlineError> {
        let mut guard = self.pages.lock().await;
        if guard.is_none() {
            let found = self.book.read().await?;
            let entries = found.into_iter().map(|entry| (entry.launch, entry)).collect();
            *guard = Some(Pages { entries, ..Pages::default() });
        }
        let Some(pages) = guard.as_mut() else { return Ok(()) };
        let (mut entries, mut unsure) = (pages.entries.clone(), pages.unsure.clone());
        if !how(&mut entries, &mut unsure) && !pages.unwritten {
            pages.unsure = unsure;
            return Ok(());
        }
        let all: Vec<_> = entries.values().cloned().collect();
        // Until the write has returned, and if this future is dropped, nobody knows which one there is.
        pages.unwritten = true;
        if known {
            pages.entries.clone_from(&entries);
            pages.unsure.clone_from(&unsure);
        }
        self.book.write(&all).await?;
        *pages = Pages { entries, unsure, unwritten: false };
        Ok(())
    }

    /// A launch is about to be recorded as ready, or was found to be.
    pub(crate) async fn keep(&self, deadline: Deadline) -> Result<(), DeadlineError> {
        self.change(true, |entries, _| {
            let mut deadline = deadline;
            if let Some(known) = entries.get(&deadline.launch).filter(|known| deadline.term.is_shorter_than(known.term))
            {
                // What was promised once is kept, whatever a store says that was set back.
                deadline.term = known.term;
            }
            entries.insert(deadline.launch, deadline.clone()).as_ref() != Some(&deadline)
        })
        .await
    }

    /// A launch's time is about to get longer than it is at this revision of its rental; it never gets shorter.
    pub(crate) async fn extend(&self, launch: LaunchId, term: Term, at: Revision) -> Result<(), DeadlineError> {
        self.change(false, |entries, unsure| {
            let Some(entry) = entries.get_mut(&launch) else { return false };
            let is_longer = entry.term.is_shorter_than(term);
            if is_longer {
                unsure.entry(launch).or_insert(Unsure { at, before: entry.term });
                entry.term = term;
            }
            if let Some(unsure) = unsure.get_mut(&launch) {
                unsure.at = at;
            }
            is_longer
        })
        .await
    }

    /// The store has the longer term: it was promised.
    pub(crate) async fn extended(&self, launch: LaunchId, term: Term) {
        let mut guard = self.pages.lock().await;
        let Some(Pages { entries, unsure, .. }) = guard.as_mut() else { return };
        let is_longer = entries.get(&launch).is_some_and(|entry| term.is_shorter_than(entry.term));
        match unsure.get_mut(&launch) {
            // Another, longer extension was asked for, too.
            Some(asked) if is_longer => asked.before = term,
            _ => drop(unsure.remove(&launch)),
        }
    }

    /// Takes over what the store knows better, and forgets what nobody needs any more.
    pub(crate) async fn agree_with(
        &self,
        ready: &[Arc<Rental>],
        seen: &[(LaunchId, Moment)],
        is_needed: impl Fn(LaunchId) -> bool,
    ) -> Result<(), DeadlineError> {
        self.change(true, |entries, unsure| {
            let before = entries.len();
            entries.retain(|launch, _| is_needed(*launch));
            unsure.retain(|launch, _| is_needed(*launch));
            let mut changed = entries.len() != before;
            for rental in ready {
                let Some(paid_from) = rental.paid_from() else { continue };
                let (launch, term, used) = (rental.launch(), rental.spec().term, rental.used_before());
                let entry = entries.entry(launch).or_insert_with(|| {
                    changed = true;
                    Deadline { launch, paid_from: paid_from.clone(), term, used, last_seen: paid_from.clone() }
                });
                if let Some(asked) = unsure.get(&launch).copied().filter(|asked| asked.at < rental.revision()) {
                    unsure.remove(&launch);
                    if term.is_shorter_than(entry.term) {
                        // The extension was not recorded, and cannot be any more: its renter was told that it failed.
                        entry.term = asked.before;
                        changed = true;
                    }
                }
                if entry.term.is_shorter_than(term) {
                    entry.term = term;
                    changed = true;
                }
                if entry.paid_from != *paid_from {
                    entry.paid_from = paid_from.clone();
                    changed = true;
                }
            }
            for (launch, moment) in seen {
                let Some(entry) = entries.get_mut(launch) else { continue };
                if moment.boot.boot != entry.last_seen.boot.boot
                    || moment.since(&entry.last_seen) >= CHECKPOINT_INTERVAL
                {
                    entry.last_seen = moment.clone();
                    changed = true;
                }
            }
            changed
        })
        .await
    }

    /// The container of a rental is gone for good.
    pub(crate) async fn forget(&self, rental: RentalId) -> Result<(), DeadlineError> {
        self.change(true, |entries, _| {
            let before = entries.len();
            entries.retain(|launch, _| launch.rental != rental);
            entries.len() != before
        })
        .await
    }

    /// The deadline of a launch, where one is known.
    pub(crate) async fn of(&self, launch: LaunchId) -> Option<Deadline> {
        self.pages.lock().await.as_ref()?.entries.get(&launch).cloned()
    }
}

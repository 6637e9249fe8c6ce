//! Places for those who stay to listen: WebSockets and event streams.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use gpurent_core::id::{RentalId, RenterId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::Caller;
use crate::limits::HttpLimits;
use crate::problem::Problem;

/// The buffer that is set aside for each WebSocket whose client has little to say: a thirtieth of the usual 128 KiB.
pub(crate) const READ_BUFFER: usize = 4 * 1024;

/// One renter's part of the requests at once: others get their answers whatever one does.
const SHARE_OF_A_RENTER: usize = 8;
/// Terminals at once of one rental: each is a program in it, and a connection of ours.
const TERMINALS_OF_A_RENTAL: usize = 8;
/// How many may follow one rental's output.
const FOLLOWERS_OF_A_RENTAL: usize = 4;
/// All renters together leave this part of the places to platforms.
const KEPT_FOR_PLATFORMS: usize = 8;

/// The subscribers: how many there may be, and how they are told to go.
#[derive(Clone)]
pub(crate) struct Subscribers {
    pub(crate) stopping: CancellationToken,
    pub(crate) tracker: TaskTracker,
    /// Cancelled when no request is under way any more.
    pub(crate) answered: CancellationToken,
    free: Arc<Semaphore>,
    most: usize,
    most_of_a_renter: usize,
    renters: Renters,
    terminals: Counts<RentalId>,
    followers: Counts<RentalId>,
    sending: Counts<IpAddr>,
    /// Places for requests, one set for all protocols.
    pub(crate) requests: Arc<Semaphore>,
    /// How many requests each renter has under way.
    under_way: Renters,
    most_requests_of_a_renter: usize,
}

/// How many places each has taken.
type Counts<Who> = Arc<Mutex<HashMap<Who, usize>>>;
type Renters = Counts<RenterId>;

/// A listener's place, until it is dropped.
pub(crate) struct SubscriberPermit {
    _one_of_all: OwnedSemaphorePermit,
    _one_of_a_renter: Option<Counted<RenterId>>,
}

/// A terminal of a rental, or a reader who follows its output, until they leave.
pub(crate) struct RentalPermit(#[allow(dead_code, reason = "counts until it is dropped")] Counted<RentalId>);

/// A renter's request, until it is answered.
pub(crate) struct RequestPermit(#[allow(dead_code, reason = "counts until it is dropped")] Counted<RenterId>);

/// A file that is sent to an address, until it is sent.
pub(crate) struct DownloadPermit(#[allow(dead_code, reason = "counts until it is dropped")] Counted<IpAddr>);

/// One of what somebody has.
struct Counted<Who: Eq + Hash> {
    who: Who,
    counts: Counts<Who>,
}

impl<Who: Eq + Hash + Clone> Counted<Who> {
    /// One more for `who`, unless they have `most` already.
    fn one_of(counts: &Counts<Who>, who: &Who, most: usize) -> Option<Self> {
        let mut counted = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counted.get(who).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        counted.insert(who.clone(), count + 1);
        Some(Self { who: who.clone(), counts: Arc::clone(counts) })
    }
}

impl<Who: Eq + Hash> Drop for Counted<Who> {
    fn drop(&mut self) {
        let mut counted = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counted.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                counted.remove(&self.who);
            }
        }
    }
}

impl Subscribers {
    pub(crate) fn new(limits: &HttpLimits) -> Self {
        Self {
            stopping: CancellationToken::new(),
            tracker: TaskTracker::new(),
            answered: CancellationToken::new(),
            free: Arc::new(Semaphore::new(limits.listeners.min(Semaphore::MAX_PERMITS))),
            most: limits.listeners,
            most_of_a_renter: limits.listeners_of_a_renter,
            renters: Arc::default(),
            terminals: Arc::default(),
            followers: Arc::default(),
            sending: Arc::default(),
            under_way: Arc::default(),
            most_requests_of_a_renter: (limits.requests / SHARE_OF_A_RENTER).max(1),
            requests: Arc::new(Semaphore::new(limits.requests.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// The same, with other limits; for before anybody listens.
    pub(crate) fn limited(self, limits: &HttpLimits) -> Self {
        let Self { stopping, tracker, answered, .. } = self;
        Self { stopping, tracker, answered, ..Self::new(limits) }
    }

    /// A place for one more request. A renter has some of them, not all.
    pub(crate) fn begin(&self, caller: &Caller) -> Result<Option<RequestPermit>, Problem> {
        let Some(renter) = caller.scope() else { return Ok(None) };
        match Counted::one_of(&self.under_way, &renter, self.most_requests_of_a_renter) {
            Some(one) => Ok(Some(RequestPermit(one))),
            None => Err(Problem::rate_limited(1)),
        }
    }

    /// A place for one more. A renter has a few; they never take those of the platform.
    pub(crate) fn enter(&self, caller: &Caller) -> Result<SubscriberPermit, Problem> {
        let one_of_all = Arc::clone(&self.free).try_acquire_owned().map_err(|_full| Problem::overloaded())?;
        let Some(renter) = caller.scope() else {
            return Ok(SubscriberPermit { _one_of_all: one_of_all, _one_of_a_renter: None });
        };
        if self.free.available_permits() < self.most / KEPT_FOR_PLATFORMS {
            return Err(Problem::overloaded());
        }
        let one = Counted::one_of(&self.renters, &renter, self.most_of_a_renter).ok_or_else(Problem::overloaded)?;
        Ok(SubscriberPermit { _one_of_all: one_of_all, _one_of_a_renter: Some(one) })
    }

    /// A place for one more file that is sent to an address, unless `most` are.
    pub(crate) fn send_to(&self, address: IpAddr, most: usize) -> Option<DownloadPermit> {
        Counted::one_of(&self.sending, &address, most).map(DownloadPermit)
    }

    /// A place for one more terminal of a rental.
    pub(crate) fn open_terminal(&self, rental: RentalId) -> Result<RentalPermit, Problem> {
        Counted::one_of(&self.terminals, &rental, TERMINALS_OF_A_RENTAL)
            .map(RentalPermit)
            .ok_or_else(Problem::overloaded)
    }

    /// A place for one more who follows a rental's output: for each the engine keeps what they have not read.
    pub(crate) fn follow(&self, rental: RentalId) -> Result<RentalPermit, Problem> {
        Counted::one_of(&self.followers, &rental, FOLLOWERS_OF_A_RENTAL)
            .map(RentalPermit)
            .ok_or_else(Problem::overloaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rental_has_so_many_terminals_and_followers() {
        let subscribers = Subscribers::new(&HttpLimits::default());
        let (one, other) = (RentalId::generate(), RentalId::generate());
        let mut at_it: Vec<_> = (0..FOLLOWERS_OF_A_RENTAL).map(|_| subscribers.follow(one).ok()).collect();
        assert!(at_it.iter().all(Option::is_some) && subscribers.follow(one).is_err());
        assert!(subscribers.follow(other).is_ok() && subscribers.open_terminal(one).is_ok(), "each has its own");
        at_it.pop();
        assert!(subscribers.follow(one).is_ok(), "a place that was left is free");
    }
}

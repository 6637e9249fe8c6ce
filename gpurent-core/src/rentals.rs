//! What an embedder holds: rent, get, list, cancel, subscribe.
//!
//! None of it touches the engine. A request is validated by its types, placed and written by the store,
//! and the [`Reconciler`](crate::reconcile::Reconciler) is nudged; everything else happens there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::access::{Credential, CredentialKind, CredentialRequest, LoginUser};
use crate::clock::Moment;
use crate::event::{Event, JournalEntry, Recorded};
use crate::feed::Subscription;
use crate::gpu::Gpu;
pub use crate::host::AccessError;
use crate::host::Shared;
use crate::id::{HostId, InstanceName, Position, RentalId, Seq};
use crate::lifecycle::EndReason;
use crate::placement::NoPlace;
use crate::port::HostPort;
use crate::rental::{Outcome, Rental};
use crate::runtime::Cause;
use crate::seal::SealError;
use crate::spec::{RentalRequest, RentalSpec};
use crate::store::{Change, ClaimError, Claimed, Filter, NewRental, StoreError};

/// Why a rental was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RentError {
    /// There is no place for it: the host has no such GPU, or all are rented, or a port is taken.
    #[error(transparent)]
    NoPlace(NoPlace),
    /// A live rental has this name, and was asked for in another way.
    #[error("the name {0} belongs to another rental that still runs")]
    NameTaken(InstanceName),
    /// Nobody runs the host's reconciler, so nothing would ever happen.
    #[error("no reconciler runs for this host: spawn the one that came with these rentals")]
    NotReconciled,
    /// The credential could not be sealed.
    #[error("the credential could not be sealed")]
    Seal(#[source] SealError),
    /// The store failed; nothing was done.
    #[error(transparent)]
    Store(StoreError),
    /// The store does not answer, and so does not tell whether the rental was made: ask for it later, or
    /// rent again under the same name, which makes no second one.
    #[error("the store does not answer; rental {id} may or may not have been made")]
    Unconfirmed {
        /// The id that it has if it was made.
        id: RentalId,
        /// Why the store did not answer.
        #[source]
        cause: Cause,
    },
}

impl From<ClaimError> for RentError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::NoPlace(why) => Self::NoPlace(why),
            ClaimError::NameTaken(name) => Self::NameTaken(name),
            ClaimError::Store(error) => Self::Store(error),
        }
    }
}

/// How to get into a rental.
#[derive(Clone, Debug)]
pub struct Access {
    /// The host's public name or address.
    pub host: String,
    /// The host's port that leads to SSH.
    pub port: HostPort,
    /// The login user.
    pub user: LoginUser,
    /// Password or key.
    pub kind: CredentialKind,
    /// The credential; `None` once the rental has ended.
    pub credential: Option<Credential>,
}

impl Access {
    /// The command that logs in.
    #[must_use]
    pub fn ssh_command(&self) -> String {
        format!("ssh -p {} {}@{}", self.port, self.user.as_str(), self.host)
    }
}

/// The rentals of one host. Cheap to clone.
#[derive(Clone)]
pub struct Rentals {
    shared: Arc<Shared>,
}

impl Rentals {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Claims GPUs and ports for a request. Returns as soon as that is written; the container follows.
    ///
    /// A live rental that was asked for in exactly the same way under the same name is returned instead
    /// of a second one.
    ///
    /// # Errors
    /// [`RentError`]; nothing happens on the engine then.
    pub async fn rent(&self, request: RentalRequest) -> Result<Claimed, RentError> {
        let shared = &self.shared;
        if !shared.reconciling.load(Ordering::SeqCst) {
            return Err(RentError::NotReconciled);
        }
        let id = RentalId::generate();
        let fingerprint = shared.sealer.fingerprint(&what_was_asked(&request));
        let credential = request.credential.resolve();
        let at = shared.clock.now();
        let new = NewRental {
            id,
            host: shared.host.clone(),
            name: request.spec.name.clone().unwrap_or_else(|| made_up_name(id)),
            spec: request.spec,
            credential: credential.kind(),
            sealed: shared.sealer.seal(id, &credential.to_plaintext()).map_err(RentError::Seal)?,
            fingerprint,
            due: at.wall.saturating_add(shared.timing.provisioning).unwrap_or(at.wall),
            at,
        };
        let claimed = match shared.store.claim(&new, &shared.placement).await {
            Err(ClaimError::Store(StoreError::Unavailable(cause))) => self.look_again(id, cause).await?,
            other => other?,
        };
        if let Claimed::New(rental) = &claimed {
            let (gpus, image) = (rental.gpus().len(), rental.spec().image.as_str());
            tracing::info!(rental = %rental.id(), renter = %rental.spec().renter, gpus, image, "claimed");
        }
        shared.failpoints.pass("claimed");
        shared.nudge();
        Ok(claimed)
    }

    /// A claim whose answer was lost may have been written.
    async fn look_again(&self, id: RentalId, cause: Cause) -> Result<Claimed, RentError> {
        match self.shared.store.get(id).await {
            Ok(Some(rental)) => Ok(Claimed::New(rental)),
            Ok(None) => Err(RentError::Store(StoreError::Unavailable(cause))),
            Err(_still_away) => Err(RentError::Unconfirmed { id, cause }),
        }
    }

    /// One rental, live or ended.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn get(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        self.shared.store.get(id).await
    }

    /// Rentals, newest first, at most `limit` of those after `after`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list(
        &self,
        filter: &Filter,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        self.shared.store.list(&self.shared.host, filter, after, limit).await
    }

    /// Ends a rental before its time. Ending what already ends, or has ended, changes nothing.
    /// `None` where there is no such rental.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] it may have been recorded all the same.
    pub async fn cancel(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        // A conflict means that the rental moved on in between; it moves a bounded number of times.
        for _ in 0..16 {
            let Some(rental) = self.shared.store.get(id).await? else { return Ok(None) };
            let mut change = Change::intent(rental);
            let event = Event::EndBegan { reason: EndReason::Cancelled };
            let applied = change.apply(event, self.shared.clock.now().wall);
            if !matches!(applied, Ok(Outcome::Changed)) {
                return Ok(Some(change.into_rental()));
            }
            match self.shared.store.commit(&change).await {
                Ok(()) => {
                    self.shared.nudge();
                    return Ok(Some(change.into_rental()));
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict)
    }

    /// How to get into a rental: for its renter's eyes only.
    ///
    /// # Errors
    /// [`AccessError`]
    pub async fn access(&self, rental: &Rental) -> Result<Option<Access>, AccessError> {
        let Some(port) = rental.ssh_port() else { return Ok(None) };
        Ok(Some(Access {
            host: self.shared.public_host.clone(),
            port,
            user: rental.spec().login.clone(),
            kind: rental.credential(),
            credential: self.shared.credential(rental.id()).await?,
        }))
    }

    /// A rental's events after a number, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn events(&self, id: RentalId, after: Seq, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        self.shared.store.events(id, after, limit).await
    }

    /// The host's journal after a position, at most `limit`: what a subscriber that fell behind reads.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn journal(&self, after: Position, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        self.shared.store.journal(&self.shared.host, after, limit).await
    }

    /// Everything that happens from now on, live. Works in the process that runs the reconciler; others
    /// read the [`journal`](Self::journal).
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.shared.feed.subscribe()
    }

    /// The GPUs of the host.
    #[must_use]
    pub fn gpus(&self) -> &[Gpu] {
        &self.shared.placement.gpus
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &HostId {
        &self.shared.host
    }

    /// The name or address that renters reach the host under.
    #[must_use]
    pub fn public_host(&self) -> &str {
        &self.shared.public_host
    }

    /// Both clocks now.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.shared.clock.now()
    }

    /// Whether a reconciler runs: without one the host only looks alive.
    #[must_use]
    pub fn is_reconciled(&self) -> bool {
        self.shared.reconciling.load(Ordering::SeqCst)
    }
}

/// The bytes whose fingerprint tells one request from another. A generated credential is not part of
/// what was asked for.
fn what_was_asked(request: &RentalRequest) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Asked<'a> {
        spec: &'a RentalSpec,
        credential: Vec<u8>,
    }
    let credential = match &request.credential {
        CredentialRequest::Generate => b"g".to_vec(),
        given => given.clone().resolve().to_plaintext(),
    };
    // Structs of strings and numbers always have a JSON form.
    serde_json::to_vec(&Asked { spec: &request.spec, credential }).unwrap_or_default()
}

fn made_up_name(id: RentalId) -> InstanceName {
    // Letters, digits and a dash: always a valid name.
    let text = format!("rental-{id}");
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a valid name"))
}

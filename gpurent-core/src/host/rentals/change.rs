//! Changes of a rental: its end, its term, its credential.

use jiff::SignedDuration;

use crate::error::ValidationError;
use crate::host::{AccessError, ChangeAccessError, ExtendError, Rentals};
use crate::id::RentalId;
use crate::model::{
    Credential, CredentialRequest, EndReason, HostKeys, Outcome, PublicKey, PublicKeys, Rental, RentalEvent, Secrets,
    Term,
};
use crate::store::{Change, DeadlineError, StoreError};

/// The shortest time before the end in which a change is still taken: later, the container may be stopped already by
/// the time that it is recorded.
pub(super) const LAST_MOMENT: SignedDuration = SignedDuration::from_secs(1);

/// How often a change is tried while others write in between: a rental moves on a bounded number of times.
pub(super) const TRIES: usize = 16;

/// By how much a rental is to be extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TermExtension {
    /// By so much beyond its present end. Sent twice it extends twice.
    By(Term),
    /// To so much in all. May be sent again and changes nothing then.
    To(Term),
}

/// The decision on a change, seen from the rental as it is.
pub(super) enum ChangeDecision<E> {
    /// Nothing is to be written: it is so already.
    NoOp(Rental),
    /// The change is to be written.
    Commit(Change),
    /// The change is to be written once the host itself has written down the longer term.
    CommitAfterDeadline(Change, Term, fn(DeadlineError) -> E),
}

impl Rentals {
    /// Ends a rental before its time. Ending what already ends, or has ended, changes nothing.
    /// `None` where there is no such rental.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] it may have been recorded all the same.
    pub async fn cancel(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        self.change(id, |rental| {
            let mut change = Change::intent(rental);
            let event = RentalEvent::EndBegan { reason: EndReason::Cancelled };
            let applied = change.apply(event, self.context.clock.now().wall);
            Ok(match applied {
                Ok(Outcome::Changed) => ChangeDecision::Commit(change),
                _ => ChangeDecision::NoOp(change.into_rental()),
            })
        })
        .await
    }

    /// Makes a rental's paid time longer. `None` where there is no such rental.
    ///
    /// # Errors
    /// [`ExtendError`]; after [`StoreError::Unavailable`] it may have been recorded all the same.
    pub async fn extend(&self, id: RentalId, extension: TermExtension) -> Result<Option<Rental>, ExtendError> {
        self.change(id, |rental| {
            let now = self.context.clock.now();
            let running_out = rental.time_left(&now).is_some_and(|left| left < LAST_MOMENT);
            if rental.state().end_reason().is_some() || running_out {
                return Err(ExtendError::Over);
            }
            let present = rental.spec().term.duration().ok_or(ExtendError::OpenEnded)?;
            let term = match extension {
                TermExtension::To(term) => term,
                TermExtension::By(more) => {
                    let more = more.duration().ok_or_else(|| ValidationError::new("by", "must be a duration"))?;
                    Term::fixed(present.checked_add(more).unwrap_or(jiff::SignedDuration::MAX))?
                }
            };
            if term == rental.spec().term {
                return Ok(ChangeDecision::NoOp(rental));
            }
            let mut change = Change::intent(rental);
            match change.apply(RentalEvent::Extended { term }, now.wall) {
                Ok(_) => Ok(ChangeDecision::CommitAfterDeadline(change, term, ExtendError::Unkept)),
                Err(_shorter) => Err(ValidationError::new("to", "must not be shorter than the present term").into()),
            }
        })
        .await
    }

    /// Changes how a rental's renter gets in: at once in the books, within moments in the container.
    /// Sessions that are open stay open. `None` where there is no such rental.
    ///
    /// # Errors
    /// [`ChangeAccessError`]; after [`StoreError::Unavailable`] it may have been recorded all the same.
    pub async fn change_access(
        &self,
        id: RentalId,
        credential: CredentialRequest,
    ) -> Result<Option<Rental>, ChangeAccessError> {
        let credential = credential.resolve();
        let secrets = match self.context.secrets(id).await {
            Ok(Some(secrets)) => Secrets { credential, ..secrets },
            // Ended, or never there: the change tells which.
            Ok(None) => Secrets { credential, host_keys: HostKeys::default(), registry: None },
            Err(AccessError::Seal(error)) => return Err(ChangeAccessError::Seal(error)),
            Err(AccessError::Store(error)) => return Err(error.into()),
        };
        let sealed = self.context.sealer.seal(id, &secrets.to_plaintext()).map_err(ChangeAccessError::Seal)?;
        let kind = secrets.credential.kind();
        self.change(id, |rental| {
            if rental.time_left(&self.context.clock.now()).is_some_and(|left| !left.is_positive()) {
                return Err(ChangeAccessError::Over);
            }
            let mut change = Change::intent(rental).with_sealed(sealed.clone());
            match change.apply(RentalEvent::AccessChanged { credential: kind }, self.context.clock.now().wall) {
                Ok(_) => Ok(ChangeDecision::Commit(change)),
                Err(_over) => Err(ChangeAccessError::Over),
            }
        })
        .await
    }

    /// Lets in by one more key, where the renter logs in by keys. A key that lets in already changes nothing. `None` where
    /// there is no such rental.
    ///
    /// # Errors
    /// [`ChangeAccessError`]; after [`StoreError::Unavailable`] it may have been recorded all the same.
    pub async fn add_key(&self, id: RentalId, key: PublicKey) -> Result<Option<Rental>, ChangeAccessError> {
        self.change_keys(id, |keys| keys.with(key.clone())).await
    }

    /// Lets in no longer by the key that has this fingerprint ([`PublicKey::fingerprint`]). One that does not let in
    /// changes nothing. Sessions that are open stay open. `None` where there is no such rental.
    ///
    /// # Errors
    /// [`ChangeAccessError`]; after [`StoreError::Unavailable`] it may have been recorded all the same.
    pub async fn remove_key(&self, id: RentalId, fingerprint: &str) -> Result<Option<Rental>, ChangeAccessError> {
        self.change_keys(id, |keys| keys.without(fingerprint)).await
    }

    /// Changes the keys as they are at the rental's present revision: of two changes at once none is lost.
    pub(super) async fn change_keys(
        &self,
        id: RentalId,
        decide: impl Fn(&PublicKeys) -> Result<PublicKeys, ValidationError> + Send + Sync,
    ) -> Result<Option<Rental>, ChangeAccessError> {
        for _ in 0..TRIES {
            let Some(rental) = self.context.store.get(id).await? else { return Ok(None) };
            self.expect_as_seen(&rental)?;
            let secrets = match self.context.secrets(id).await {
                Ok(Some(secrets)) => secrets,
                Ok(None) => return Err(ChangeAccessError::Over),
                Err(AccessError::Seal(error)) => return Err(ChangeAccessError::Seal(error)),
                Err(AccessError::Store(error)) => return Err(error.into()),
            };
            let Credential::PublicKeys(keys) = &secrets.credential else { return Err(ChangeAccessError::ByPassword) };
            let changed = decide(keys)?;
            if changed == *keys {
                return Ok(Some(rental));
            }
            let as_read = self.only_at(self.only_at.unwrap_or(rental.revision()));
            let wanted = CredentialRequest::PublicKeys(changed);
            match as_read.change_access(id, wanted).await {
                Err(ChangeAccessError::Store(StoreError::Conflict)) if self.only_at.is_none() => {}
                other => return other,
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// Reads, decides and writes, again and again while others write in between.
    pub(super) async fn change<E: From<StoreError>>(
        &self,
        id: RentalId,
        decide: impl Fn(Rental) -> Result<ChangeDecision<E>, E> + Send + Sync,
    ) -> Result<Option<Rental>, E> {
        let mut is_in_the_book = false;
        let changed = self.try_to_change(id, decide, &mut is_in_the_book).await;
        if changed.is_err() && is_in_the_book {
            // The reconciler may know already that it did not come to this, and the book is to say so.
            self.context.wake_reconciler();
        }
        changed
    }

    async fn try_to_change<E: From<StoreError>>(
        &self,
        id: RentalId,
        decide: impl Fn(Rental) -> Result<ChangeDecision<E>, E> + Send + Sync,
        is_in_the_book: &mut bool,
    ) -> Result<Option<Rental>, E> {
        for _ in 0..TRIES {
            let Some(rental) = self.context.store.get(id).await? else { return Ok(None) };
            self.expect_as_seen(&rental)?;
            let read = rental.revision();
            let (change, prolonged) = match decide(rental)? {
                ChangeDecision::NoOp(rental) => return Ok(Some(rental)),
                ChangeDecision::Commit(change) => (change, None),
                ChangeDecision::CommitAfterDeadline(change, term, unkept) => {
                    // Before the promise: should the store be away by the old end, the book decides.
                    let launch = change.rental().launch();
                    self.context.deadlines.extend(launch, term, read).await.map_err(unkept)?;
                    *is_in_the_book = true;
                    (change, Some((launch, term)))
                }
            };
            match self.context.store.commit(&change).await {
                Ok(()) => {
                    if let Some((launch, term)) = prolonged {
                        self.context.deadlines.extended(launch, term).await;
                    }
                    self.context.wake_reconciler();
                    return Ok(Some(change.into_rental()));
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }
}

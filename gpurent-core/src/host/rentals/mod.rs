//! What an embedder holds: rent, get, list, extend, suspend, resume, cancel, subscribe.
//!
//! None of it touches the engine. A request is validated by its types, placed and written by the store,
//! and the [`Reconciler`](crate::host::Reconciler) is nudged; everything else happens there.

mod error;
mod exec;
mod force_end;
mod suspend;

use std::sync::Arc;

pub use error::{ChangeAccessError, ExtendError, InsideError, LogsError, RentError, ResumeError, SuspendError};
pub use force_end::{ForceEndError, force_end};
use jiff::{SignedDuration, Timestamp};

use crate::allocation::{Held, NoPlace, Placement, RenterLimits, TooMany};
use crate::clock::Moment;
use crate::error::{Cause, Invalid};
use crate::host::context::Shared;
use crate::host::pulls::Pull;
use crate::host::readiness::Stage;
use crate::host::{AccessError, EngineHealth, Follower, Setback, Subscription};
use crate::id::{ContainerId, HostId, IdempotencyKey, InstanceName, Position, RentalId, RenterId, Revision, Seq};
use crate::model::{
    Credential, CredentialKind, CredentialRequest, EndReason, Event, Gpu, HostKeys, HostPort, JournalEntry, LoginUser,
    Outcome, PortBinding, PublicKey, PublicKeys, Recorded, Rental, RentalRequest, RentalSpec, Secrets, Service, State,
    Term,
};
use crate::runtime::{Isolation, RuntimeError};
use crate::store::{Change, ClaimError, Claimed, DeadlineError, Filter, NewRental, StoreError};

/// What is asked for later than this before the end comes too late: the container may be stopped already by
/// the time that it is recorded.
const LAST_MOMENT: SignedDuration = SignedDuration::from_secs(1);

/// How often a change is tried while others write in between: a rental moves on a bounded number of times.
const TRIES: usize = 16;

/// By how much a rental is to be extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// By so much beyond its present end. Sent twice it extends twice.
    By(Term),
    /// To so much in all. May be sent again and changes nothing then.
    To(Term),
}

/// A rental's last lines of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// The lines, oldest first; they may hold control characters.
    pub lines: Vec<String>,
    /// Whether they come from the container itself; else they are what was kept of it.
    pub live: bool,
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
    /// The keys by which the renter knows the server; none once the rental has ended.
    pub host_keys: Vec<PublicKey>,
    /// The name under which the rental is known to SSH, wherever it is reached: ports are used again, names are not.
    pub host_key_alias: String,
}

impl Access {
    /// The command that logs in. The alias keeps it from running into the key that another rental had on the same port.
    #[must_use]
    pub fn ssh_command(&self) -> String {
        let Self { host, port, user, host_key_alias, .. } = self;
        format!("ssh -o HostKeyAlias={host_key_alias} -p {port} {}@{host}", user.as_str())
    }

    /// Lines of a file `known_hosts` by which SSH knows the rental before it first connects.
    #[must_use]
    pub fn known_hosts(&self) -> String {
        self.host_keys.iter().map(|key| format!("{} {key}\n", self.host_key_alias)).collect()
    }
}

/// The rentals of one host. Cheap to clone.
#[derive(Clone)]
pub struct Rentals {
    shared: Arc<Shared>,
    /// Changes are made to a rental of this revision alone.
    only_at: Option<Revision>,
    /// Whether a renter's limits apply.
    limited: bool,
}

impl Rentals {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, only_at: None, limited: true }
    }

    /// The same, for somebody who changes a rental only if it is as they saw it: changes of one that has another
    /// revision by now fail with [`StoreError::Conflict`].
    #[must_use]
    pub fn only_at(&self, revision: Revision) -> Self {
        Self { only_at: Some(revision), ..self.clone() }
    }

    /// The same, for somebody who rents for many under one name: what [one renter](crate::allocation::RenterLimits) may have
    /// does not apply to them.
    #[must_use]
    pub fn for_a_platform(&self) -> Self {
        Self { limited: false, ..self.clone() }
    }

    pub(crate) fn renter_limits(&self, renter: &RenterId) -> RenterLimits {
        let shared = &self.shared;
        let usual = shared.placement.renter_limits;
        if self.limited { shared.limits_of.get(renter).copied().unwrap_or(usual) } else { RenterLimits::none() }
    }

    /// Whether a rental is as the caller saw it, if that matters to them.
    fn expect_as_seen(&self, rental: &Rental) -> Result<(), StoreError> {
        match self.only_at {
            Some(revision) if revision != rental.revision() => Err(StoreError::Conflict),
            _ => Ok(()),
        }
    }

    /// Claims GPUs and ports for a request. Returns as soon as that is written; the container follows.
    ///
    /// A live rental that was asked for in exactly the same way under the same name is returned instead
    /// of a second one.
    ///
    /// # Errors
    /// [`RentError`]; nothing happens on the engine then.
    pub async fn rent(&self, request: RentalRequest) -> Result<Claimed, RentError> {
        self.place(request, None).await
    }

    /// As [`rent`](Self::rent), but a key of the renter's tells whether a request is the same: however often
    /// it is sent, and whatever was lost on the way, it makes at most one rental. The key is kept as long as
    /// the rental; a request that was refused binds no key.
    ///
    /// # Errors
    /// [`RentError::KeyReused`] where the renter used the key for another request.
    pub async fn rent_once(&self, key: IdempotencyKey, request: RentalRequest) -> Result<Claimed, RentError> {
        self.place(request, Some(key)).await
    }

    async fn place(&self, request: RentalRequest, key: Option<IdempotencyKey>) -> Result<Claimed, RentError> {
        let shared = &self.shared;
        match shared.standing.settled().await {
            Stage::Acting => {}
            Stage::Absent => return Err(RentError::NotReconciled),
            Stage::TakingStock | Stage::Stuck => return Err(RentError::TakingStock),
        }
        let id = (shared.new_id)();
        let fingerprint = shared.sealer.fingerprint(&what_was_asked(&request));
        let (credential, registry) = (request.credential.resolve(), request.registry);
        let login = registry.clone();
        let secrets = Secrets { credential, host_keys: shared.host_keys.next(), registry };
        let at = shared.clock.now();
        let new = NewRental {
            id,
            host: shared.host.clone(),
            name: request.spec.name.clone().unwrap_or_else(|| made_up_name(id)),
            spec: request.spec,
            credential: secrets.credential.kind(),
            sealed: shared.sealer.seal(id, &secrets.to_plaintext()).map_err(RentError::Seal)?,
            fingerprint,
            key,
            due: at.wall.saturating_add(shared.timing.provisioning).unwrap_or(at.wall),
            at,
        };
        let renter_limits = self.renter_limits(&new.spec.renter);
        let mut placement = Placement { renter_limits, ..shared.placement.clone() };
        placement.awaits_image = shared.pulls.is_some();
        placement.engine_away = shared.engine_health() == EngineHealth::Silent;
        placement.one_workspace_too_many = self.one_workspace_too_many(&new.spec).await;
        let mut claim = shared.store.claim(&new, &placement).await;
        if let (Err(ClaimError::NoPlace(NoPlace::ImageNotHere)), Some(pulls)) = (&claim, &shared.pulls) {
            match pulls.ask(&new.spec, login.as_ref(), &new.at, || shared.nudge()).await {
                Pull::Here => {}
                Pull::UnderWay => return Err(RentError::Pulling(new.spec.image)),
                Pull::Failed(why) => return Err(RentError::Unpullable(why)),
            }
            placement.awaits_image = false;
            claim = shared.store.claim(&new, &placement).await;
        }
        let claimed = match claim {
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

    /// The limit that is reached where the workspace that is asked for would be one more than a renter may have.
    async fn one_workspace_too_many(&self, spec: &RentalSpec) -> Option<TooMany> {
        let workspace = spec.workspace.as_ref().filter(|_| self.limited)?;
        let most = self.renter_limits(&spec.renter).workspaces;
        match self.shared.runtime.workspaces_of(&spec.renter).await {
            Ok(theirs) if theirs.contains(&workspace.folder) => None,
            Ok(theirs) => {
                (theirs.len() >= usize::try_from(most).unwrap_or(usize::MAX)).then_some(TooMany::Workspaces(most))
            }
            Err(error) => {
                // Where they cannot be listed none can be made either.
                tracing::warn!(renter = %spec.renter, error = &error as &dyn std::error::Error, "workspaces not counted");
                None
            }
        }
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

    /// The rental that has or had this container; see [`Store::of_container`](crate::store::Store::of_container).
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn of_container(&self, container: &ContainerId) -> Result<Option<Rental>, StoreError> {
        match self.shared.store.of_container(&self.shared.host, container).await? {
            Some(id) => self.shared.store.get(id).await,
            None => Ok(None),
        }
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

    /// Rentals that ended before a time; see [`Store::ended_before`](crate::store::Store::ended_before).
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn ended_before(
        &self,
        before: Timestamp,
        after: Option<RentalId>,
        limit: usize,
    ) -> Result<Vec<Rental>, StoreError> {
        self.shared.store.ended_before(&self.shared.host, before, after, limit).await
    }

    /// Deletes ended rentals and tells how many; see [`Store::forget`](crate::store::Store::forget).
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forget(&self, rentals: &[RentalId]) -> Result<usize, StoreError> {
        self.shared.store.forget(&self.shared.host, rentals).await
    }

    /// Ends a rental before its time. Ending what already ends, or has ended, changes nothing.
    /// `None` where there is no such rental.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] it may have been recorded all the same.
    pub async fn cancel(&self, id: RentalId) -> Result<Option<Rental>, StoreError> {
        self.change(id, |rental| {
            let mut change = Change::intent(rental);
            let event = Event::EndBegan { reason: EndReason::Cancelled };
            let applied = change.apply(event, self.shared.clock.now().wall);
            Ok(match applied {
                Ok(Outcome::Changed) => Wish::Write(change),
                _ => Wish::Granted(change.into_rental()),
            })
        })
        .await
    }

    /// Makes a rental's paid time longer. `None` where there is no such rental.
    ///
    /// # Errors
    /// [`ExtendError`]; after [`StoreError::Unavailable`] it may have been recorded all the same.
    pub async fn extend(&self, id: RentalId, extension: Extension) -> Result<Option<Rental>, ExtendError> {
        self.change(id, |rental| {
            let now = self.shared.clock.now();
            let running_out = rental.time_left(&now).is_some_and(|left| left < LAST_MOMENT);
            if rental.state().end_reason().is_some() || running_out {
                return Err(ExtendError::Over);
            }
            let present = rental.spec().term.duration().ok_or(ExtendError::OpenEnded)?;
            let term = match extension {
                Extension::To(term) => term,
                Extension::By(more) => {
                    let more = more.duration().ok_or_else(|| Invalid::new("by", "must be a duration"))?;
                    Term::fixed(present.checked_add(more).unwrap_or(jiff::SignedDuration::MAX))?
                }
            };
            if term == rental.spec().term {
                return Ok(Wish::Granted(rental));
            }
            let mut change = Change::intent(rental);
            match change.apply(Event::Extended { term }, now.wall) {
                Ok(_) => Ok(Wish::Prolong(change, term, ExtendError::Unkept)),
                Err(_shorter) => Err(Invalid::new("to", "must not be shorter than the present term").into()),
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
        let secrets = match self.shared.secrets(id).await {
            Ok(Some(secrets)) => Secrets { credential, ..secrets },
            // Ended, or never there: the change tells which.
            Ok(None) => Secrets { credential, host_keys: HostKeys::default(), registry: None },
            Err(AccessError::Seal(error)) => return Err(ChangeAccessError::Seal(error)),
            Err(AccessError::Store(error)) => return Err(error.into()),
        };
        let sealed = self.shared.sealer.seal(id, &secrets.to_plaintext()).map_err(ChangeAccessError::Seal)?;
        let kind = secrets.credential.kind();
        self.change(id, |rental| {
            if rental.time_left(&self.shared.clock.now()).is_some_and(|left| !left.is_positive()) {
                return Err(ChangeAccessError::Over);
            }
            let mut change = Change::intent(rental).with_sealed(sealed.clone());
            match change.apply(Event::AccessChanged { credential: kind }, self.shared.clock.now().wall) {
                Ok(_) => Ok(Wish::Write(change)),
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
    async fn change_keys(
        &self,
        id: RentalId,
        decide: impl Fn(&PublicKeys) -> Result<PublicKeys, Invalid> + Send + Sync,
    ) -> Result<Option<Rental>, ChangeAccessError> {
        for _ in 0..TRIES {
            let Some(rental) = self.shared.store.get(id).await? else { return Ok(None) };
            self.expect_as_seen(&rental)?;
            let secrets = match self.shared.secrets(id).await {
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
    async fn change<E: From<StoreError>>(
        &self,
        id: RentalId,
        decide: impl Fn(Rental) -> Result<Wish<E>, E> + Send + Sync,
    ) -> Result<Option<Rental>, E> {
        for _ in 0..TRIES {
            let Some(rental) = self.shared.store.get(id).await? else { return Ok(None) };
            self.expect_as_seen(&rental)?;
            let read = rental.revision();
            let (change, prolonged) = match decide(rental)? {
                Wish::Granted(rental) => return Ok(Some(rental)),
                Wish::Write(change) => (change, None),
                Wish::Prolong(change, term, unkept) => {
                    // Before the promise: should the store be away by the old end, the book decides.
                    let launch = change.rental().launch();
                    self.shared.deadlines.extend(launch, term, read).await.map_err(unkept)?;
                    (change, Some((launch, term)))
                }
            };
            match self.shared.store.commit(&change).await {
                Ok(()) => {
                    if let Some((launch, term)) = prolonged {
                        self.shared.deadlines.extended(launch, term).await;
                    }
                    self.shared.nudge();
                    return Ok(Some(change.into_rental()));
                }
                Err(StoreError::Conflict) => {}
                Err(error) => {
                    if prolonged.is_some() {
                        // The reconciler may know already that it did not come to this, and the book is to say so.
                        self.shared.nudge();
                    }
                    return Err(error.into());
                }
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// How to get into a rental: for its renter's eyes only.
    ///
    /// # Errors
    /// [`AccessError`]
    pub async fn access(&self, rental: &Rental) -> Result<Option<Access>, AccessError> {
        let Some(port) = rental.ssh_port() else { return Ok(None) };
        let secrets = self.shared.secrets(rental.id()).await?;
        Ok(Some(Access {
            host_keys: secrets.as_ref().map(|secrets| secrets.host_keys.public()).unwrap_or_default(),
            host_key_alias: format!("gpurent-{}", rental.id()),
            host: self.shared.public_host.clone(),
            port,
            user: rental.spec().login.clone(),
            kind: rental.credential(),
            credential: secrets.map(|secrets| secrets.credential),
        }))
    }

    /// The services that answer on a rental's published ports at this moment. [`Rental::services`] are those that have
    /// answered so far, and cost nothing.
    ///
    /// # Errors
    /// [`RuntimeError`]
    pub async fn services(&self, rental: &Rental) -> Result<Vec<Service>, RuntimeError> {
        let ports: Vec<_> = rental.ports().iter().copied().filter(PortBinding::may_lead_to_a_service).collect();
        self.shared.runtime.services(rental.launch(), &ports).await
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

    /// The journal after a position, then everything that happens, without a gap.
    #[must_use]
    pub fn follow(&self, after: Position) -> Follower {
        Follower::new(Arc::clone(&self.shared), self.subscribe(), after)
    }

    /// The last position of the journal, as far as this process knows; `None` until it has taken over the
    /// host.
    #[must_use]
    pub fn last_position(&self) -> Option<Position> {
        self.shared.feed.last_position()
    }

    /// A rental's last lines of output, at most `lines`: from its container, or what was kept of it.
    ///
    /// # Errors
    /// [`LogsError`]
    pub async fn logs(&self, rental: &Rental, lines: usize) -> Result<Logs, LogsError> {
        if rental.container().is_some() && !matches!(rental.state(), State::Ended { .. }) {
            let lines = self.shared.runtime.logs(rental.launch(), lines).await?;
            if !lines.is_empty() || rental.state().end_reason().is_none() {
                return Ok(Logs { lines, live: true });
            }
        }
        let kept = self.shared.store.log_tail(rental.id(), self.shared.clock.now().wall).await?.unwrap_or_default();
        Ok(Logs { lines: kept[kept.len().saturating_sub(lines)..].to_vec(), live: false })
    }

    /// The host's rentals that have not ended.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn live(&self) -> Result<Vec<Rental>, StoreError> {
        self.shared.store.live(&self.shared.host).await
    }

    /// The live rentals that are not suspended.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn active(&self) -> Result<Vec<Rental>, StoreError> {
        self.shared.store.active(&self.shared.host).await
    }

    /// The GPUs and ports that live rentals hold.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn held(&self) -> Result<Held, StoreError> {
        self.shared.store.held(&self.shared.host).await
    }

    /// How well tenants are kept apart.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.shared.runtime.isolation()
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

    /// What holds a rental up at the moment, if anything.
    #[must_use]
    pub fn setback(&self, id: RentalId) -> Option<Setback> {
        self.shared.setback(id)
    }

    /// Whether a reconciler runs, and knows what is there: without one the host only looks alive.
    #[must_use]
    pub fn is_reconciled(&self) -> bool {
        self.shared.standing.get() == Stage::Acting
    }

    /// Whether this process holds the host's lease: it took the host over, and the store confirmed within the lease's time that
    /// nobody else has done so since. Without it nothing is changed on the engine.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        self.shared.holds_lease()
    }

    /// Whether the engine told how the containers are when it was last asked; one that has not answered for ten seconds does
    /// not.
    #[must_use]
    pub fn engine_health(&self) -> EngineHealth {
        self.shared.engine_health()
    }

    /// Whether the host's disks have room for another rental.
    #[must_use]
    pub fn has_disk_room(&self) -> bool {
        self.shared.placement.disks.has_room()
    }
}

/// What a change comes to, seen from the rental as it is.
enum Wish<E> {
    /// Nothing is to be written: it is so already.
    Granted(Rental),
    /// This is.
    Write(Change),
    /// This is, once the host itself has written down the longer term.
    Prolong(Change, Term, fn(DeadlineError) -> E),
}

/// The bytes whose fingerprint tells one request from another. A generated credential is not part of
/// what was asked for.
fn what_was_asked(request: &RentalRequest) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Asked<'a> {
        spec: &'a RentalSpec,
        credential: Vec<u8>,
        #[serde(skip_serializing_if = "Option::is_none")]
        registry: Option<(&'a str, &'a str)>,
    }
    let credential = match &request.credential {
        CredentialRequest::Generate => b"g".to_vec(),
        given => given.clone().resolve().to_plaintext(),
    };
    // Structs of strings and numbers always have a JSON form.
    let registry = request.registry.as_ref().map(|login| (login.username(), login.expose()));
    serde_json::to_vec(&Asked { spec: &request.spec, credential, registry }).unwrap_or_default()
}

fn made_up_name(id: RentalId) -> InstanceName {
    // Letters, digits and a dash: always a valid name.
    let text = format!("rental-{id}");
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a valid name"))
}

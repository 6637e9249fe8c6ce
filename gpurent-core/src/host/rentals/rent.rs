//! A request becomes a rental.
use crate::allocation::{Placement, PlacementError, TooMany};
use crate::error::BoxError;
use crate::host::pulls::Pull;
use crate::host::readiness::Readiness;
use crate::host::{EngineHealth, RentError, Rentals};
use crate::id::{IdempotencyKey, InstanceName, RentalId};
use crate::model::{CredentialRequest, RentalRequest, RentalSpec, Secrets};
use crate::store::{ClaimError, ClaimOutcome, NewRental, StoreError};

/// The bytes whose fingerprint tells one request from another. A generated credential is not part of
/// what was asked for.
fn fingerprint_input(request: &RentalRequest) -> Vec<u8> {
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

fn default_name(id: RentalId) -> InstanceName {
    // Letters, digits and a dash: always a valid name.
    let text = format!("rental-{id}");
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a valid name"))
}

impl Rentals {
    /// Claims GPUs and ports for a request. Returns as soon as that is written; the container follows.
    ///
    /// A live rental that was asked for in exactly the same way under the same name is returned instead
    /// of a second one.
    ///
    /// # Errors
    /// [`RentError`]; nothing happens on the engine then.
    pub async fn rent(&self, request: RentalRequest) -> Result<ClaimOutcome, RentError> {
        self.place(request, None).await
    }

    /// As [`rent`](Self::rent), but a key of the renter's tells whether a request is the same: however often
    /// it is sent, and whatever was lost on the way, it makes at most one rental. The key is kept as long as
    /// the rental; a request that was refused binds no key.
    ///
    /// # Errors
    /// [`RentError::KeyReused`] where the renter used the key for another request.
    pub async fn rent_once(&self, key: IdempotencyKey, request: RentalRequest) -> Result<ClaimOutcome, RentError> {
        self.place(request, Some(key)).await
    }

    pub(super) async fn place(
        &self,
        request: RentalRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<ClaimOutcome, RentError> {
        let context = &self.context;
        match context.readiness.settled().await {
            Readiness::Ready => {}
            Readiness::NoReconciler => return Err(RentError::NotReconciled),
            Readiness::Starting | Readiness::Stalled => return Err(RentError::Starting),
        }
        let id = (context.new_id)();
        let fingerprint = context.sealer.fingerprint(&fingerprint_input(&request));
        let (credential, registry) = (request.credential.resolve(), request.registry);
        let login = registry.clone();
        let secrets = Secrets { credential, host_keys: context.host_keys.next(), registry };
        let at = context.clock.now();
        let new = NewRental {
            id,
            host: context.host.clone(),
            name: request.spec.name.clone().unwrap_or_else(|| default_name(id)),
            spec: request.spec,
            credential: secrets.credential.kind(),
            sealed: context.sealer.seal(id, &secrets.to_plaintext()).map_err(RentError::Seal)?,
            fingerprint,
            key,
            due: at.wall.saturating_add(context.timing.provisioning).unwrap_or(at.wall),
            at,
        };
        let renter_limits = self.renter_limits(&new.spec.renter);
        let mut placement = Placement { renter_limits, ..context.placement.clone() };
        placement.awaits_image = context.pulls.is_some();
        placement.engine_unavailable = context.engine_health() == EngineHealth::Silent;
        placement.one_workspace_too_many = self.one_workspace_too_many(&new.spec).await;
        let mut claim = context.store.claim(&new, &placement).await;
        if let (Err(ClaimError::NotPlaced(PlacementError::ImageNotHere)), Some(pulls)) = (&claim, &context.pulls) {
            match pulls.ask(&new.spec, login.as_ref(), &new.at, || context.wake_reconciler()).await {
                Pull::Here => {}
                Pull::UnderWay => return Err(RentError::Pulling(new.spec.image)),
                Pull::Failed(why) => return Err(RentError::Unpullable(why)),
            }
            placement.awaits_image = false;
            claim = context.store.claim(&new, &placement).await;
        }
        let claimed = match claim {
            Err(ClaimError::Store(StoreError::Unavailable(cause))) => self.look_again(id, cause).await?,
            other => other?,
        };
        if let ClaimOutcome::New(rental) = &claimed {
            let (gpus, image) = (rental.gpus().len(), rental.spec().image.as_str());
            tracing::info!(rental = %rental.id(), renter = %rental.spec().renter, gpus, image, "claimed");
        }
        context.failpoints.pass("claimed");
        context.wake_reconciler();
        Ok(claimed)
    }

    /// The limit that is reached where the workspace that is asked for would be one more than a renter may have.
    pub(super) async fn one_workspace_too_many(&self, spec: &RentalSpec) -> Option<TooMany> {
        let workspace = spec.workspace.as_ref().filter(|_| self.limited)?;
        let most = self.renter_limits(&spec.renter).workspaces;
        match self.context.runtime.workspaces_of(&spec.renter).await {
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
    pub(super) async fn look_again(&self, id: RentalId, cause: BoxError) -> Result<ClaimOutcome, RentError> {
        match self.context.store.get(id).await {
            Ok(Some(rental)) => Ok(ClaimOutcome::New(rental)),
            Ok(None) => Err(RentError::Store(StoreError::Unavailable(cause))),
            Err(_still_away) => Err(RentError::Unconfirmed { id, cause }),
        }
    }
}

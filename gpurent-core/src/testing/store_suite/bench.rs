//! A host of the store under test, and the events of a life.

use std::sync::Arc;
use std::task::Poll;

use jiff::Timestamp;
use uuid::Uuid;

use crate::allocation::{Placement, PortPools};
use crate::clock::{BootId, BootTime, Moment};
use crate::id::{EngineId, HostId, RentalId};
use crate::memory::SimulatedGpus;
use crate::model::{
    CredentialKind, EndReason, Exit, Files, Fingerprint, GpuRequest, GpuSelector, Rental, RentalEvent, RentalSpec,
    Sealed, Term,
};
use crate::store::{Change, ClaimError, ClaimOutcome, HostOwnership, HostStore, NewRental};

/// One host of a store, with two GPUs.
pub(super) struct Bench<S> {
    pub(super) store: Arc<S>,
    pub(super) host: HostId,
    pub(super) engine: EngineId,
    pub(super) placement: Placement,
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap_or(Timestamp::UNIX_EPOCH)
}

pub(super) fn moment(second: i64) -> Moment {
    Moment { wall: at(second), boot: BootTime { boot: BootId("boot".to_owned()), micros: second * 1_000_000 } }
}

pub(super) use crate::testing::valid;

impl<S: HostStore> Bench<S> {
    pub(super) fn new(store: Arc<S>) -> Self {
        Self::with_gpus(store, 2)
    }

    pub(super) fn with_gpus(store: Arc<S>, gpus: u8) -> Self {
        let host: HostId = valid(format!("suite-{}", Uuid::new_v4()).parse());
        let gpus = SimulatedGpus::new(&host, gpus, valid("RTX 5090".parse()));
        let pools = PortPools::new(valid("22000-22999".parse()), valid("8000-8999".parse()));
        Self {
            store,
            engine: valid("engine".parse()),
            placement: Placement {
                udp: true,
                ..Placement::new(gpus.gpus().to_vec(), valid(pools).allow_requests(valid("1024-65535".parse())))
            },
            host,
        }
    }

    pub(super) async fn owner(&self) -> HostOwnership {
        valid(self.store.acquire_host(&self.host, &self.engine, None).await)
    }

    pub(super) fn request(&self, name: &str) -> NewRental {
        let selector: GpuSelector = valid("RTX 5090".parse());
        let spec = RentalSpec::new(
            valid("renter".parse()),
            GpuRequest::one(selector),
            valid("ubuntu:22.04".parse()),
            valid(Term::hours(1)),
        );
        NewRental {
            id: RentalId::generate(),
            host: self.host.clone(),
            name: valid(name.parse()),
            spec,
            credential: CredentialKind::Password,
            sealed: Sealed { key_id: "k".to_owned(), bytes: vec![1, 2, 3] },
            fingerprint: Fingerprint([7; 32]),
            key: None,
            due: at(600),
            at: moment(0),
        }
    }

    pub(super) async fn claim(&self, new: &NewRental) -> Result<ClaimOutcome, ClaimError> {
        self.store.claim(new, &self.placement).await
    }

    pub(super) async fn claimed(&self, name: &str) -> Rental {
        match self.claim(&self.request(name)).await {
            Ok(ClaimOutcome::New(rental)) => rental,
            other => panic!("a new rental was expected, not {other:?}"),
        }
    }

    /// Lets events happen, each in a write of its own.
    pub(super) async fn live_through(
        &self,
        mut rental: Rental,
        owner: HostOwnership,
        events: Vec<RentalEvent>,
    ) -> Rental {
        for (second, event) in (1..).zip(events) {
            let mut change = Change::observation(rental, owner);
            valid(change.apply(event, at(second)));
            valid(self.store.commit(&change).await);
            rental = change.into_rental();
        }
        rental
    }

    pub(super) async fn get(&self, id: RentalId) -> Option<Rental> {
        valid(self.store.get(id).await)
    }
}

/// Gives the executor a turn: a store in memory never waits by itself.
pub(super) async fn let_others_go_on() {
    let mut waited = false;
    std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

pub(super) fn cancelled() -> RentalEvent {
    RentalEvent::EndBegan { reason: EndReason::Cancelled }
}

pub(super) fn way_down() -> Vec<RentalEvent> {
    vec![cancelled(), RentalEvent::Stopped { exit: None, ended: None }, RentalEvent::Ended]
}

pub(super) fn whole_life() -> Vec<RentalEvent> {
    vec![
        RentalEvent::Created {
            container: valid("c1".parse()),
            gpus_attached: true,
            at: None,
            image: None,
            files: Files::New,
            copied_bytes: 0,
        },
        RentalEvent::Started { started_at: at(1), started: moment(1) },
        RentalEvent::Verified { paid_from: moment(1) },
        RentalEvent::Warned,
        RentalEvent::EndBegan { reason: EndReason::Expired },
        RentalEvent::Stopped {
            exit: Some(Exit { finished_at: at(3601), code: 137, out_of_memory: false }),
            ended: None,
        },
        RentalEvent::Ended,
    ]
}

//! The clauses that every [`HostStore`] has to keep. Each works on a host of its own, so all may share a database.

mod history;
mod renter;
mod suspend;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::join_all;
pub use history::{ended_rentals_are_read_by_age_and_forgotten, lists_are_what_their_filters_let_pass};
use jiff::{SignedDuration, Timestamp};
pub use renter::{
    one_renter_has_no_more_than_one_may, there_are_so_many_places_without_a_gpu,
    what_came_to_nothing_counts_for_a_while,
};
pub use suspend::{
    a_container_leads_to_its_rental_for_ever, a_resumed_rental_takes_nothing_from_others,
    what_is_suspended_holds_nothing_but_its_name,
};
pub use tables::{
    a_range_in_use_is_not_given_back, a_range_stays_its_renters_until_it_is_given_back,
    many_renters_at_once_get_ranges_of_their_own, who_did_what_is_read_newest_first_and_bounded,
};
use uuid::Uuid;

use crate::allocation::{Placement, PlacementError, PortError, PortPools};
use crate::clock::{BootId, BootTime, Moment};
use crate::id::{Attempt, EngineId, HostId, MachineId, Position, RentalId, Seq};
use crate::memory::SimulatedGpus;
use crate::model::port::WEB;
use crate::model::{
    Adoption, CredentialKind, EndKind, EndReason, Exit, Files, Fingerprint, GpuRequest, GpuSelector, HostPort, Phase,
    PortBinding, PublishedPort, RecordedEvent, Rental, RentalEvent, RentalSpec, Sealed, Term, Transport,
};
use crate::store::{
    Change, ClaimError, ClaimOutcome, Filter, HostOwnership, HostStore, KeyDigest, KeyStore, LogTail, NewKey,
    NewRental, RecoveredRental, Role, StoreError,
};

/// Makes one test of every clause: `store_suite!(BLOCK_ON, MAKE)`. `BLOCK_ON` runs a future to its end on any
/// executor; `MAKE` is called for each test and gives a future of a [`HostStore`].
#[macro_export]
macro_rules! store_suite {
    ($block_on:expr, $make:expr) => {
        $crate::store_suite!(@clauses $block_on, $make;
            a_claim_is_read_back_whole,
            gpus_are_never_held_twice,
            who_acts_is_noted_until_it_resigns,
            one_renter_has_no_more_than_one_may,
            there_are_so_many_places_without_a_gpu,
            what_came_to_nothing_counts_for_a_while,
            many_claims_at_once_win_as_often_as_there_are_gpus,
            a_port_asked_for_is_held_once,
            datagrams_are_refused_where_the_engine_publishes_none,
            the_same_request_under_one_name_is_one_rental,
            a_name_is_free_again_after_the_end,
            one_key_is_one_rental_for_ever,
            a_refused_request_binds_no_key,
            a_stale_write_changes_nothing,
            observations_need_the_current_epoch,
            intents_need_no_epoch,
            a_host_with_live_rentals_is_pinned_to_its_engine,
            a_clone_of_the_engines_machine_is_another_engine,
            the_end_frees_what_was_held_and_erases_the_credential,
            a_lost_rental_is_adopted_once_and_holds_what_it_has,
            a_recovered_rental_takes_nothing_from_others,
            new_ports_replace_the_old_ones,
            what_is_suspended_holds_nothing_but_its_name,
            a_resumed_rental_takes_nothing_from_others,
            a_container_leads_to_its_rental_for_ever,
            new_secrets_replace_the_old_ones,
            last_lines_outlive_the_container_for_their_time,
            events_fold_to_the_rental,
            the_journal_has_every_event_once_and_in_order,
            readers_miss_nothing_while_others_write,
            publications_at_once_leave_no_gap,
            lists_are_filtered_and_paged,
            lists_are_filtered_by_name_label_and_outcome,
            lists_are_what_their_filters_let_pass,
            ended_rentals_are_read_by_age_and_forgotten,
        );
    };
    (@clauses $block_on:expr, $make:expr; $($clause:ident),* $(,)?) => {
        $(
            #[test]
            fn $clause() {
                let make = $make;
                ($block_on)(async move {
                    let store = ::std::sync::Arc::new(make().await);
                    $crate::testing::store_suite::$clause(store).await;
                });
            }
        )*
    };
}

/// Makes the one test of a [`KeyStore`]: `key_suite!(BLOCK_ON, MAKE)`, as
/// [`store_suite!`](crate::store_suite).
#[macro_export]
macro_rules! key_suite {
    ($block_on:expr, $make:expr) => {
        $crate::store_suite!(@clauses $block_on, $make; keys_are_found_by_their_digest_until_revoked);
    };
}

/// Makes the tests of a [`RangeStore`](crate::store::RangeStore) that is a [`HostStore`] too:
/// `range_suite!(BLOCK_ON, MAKE)`, as [`store_suite!`](crate::store_suite).
#[macro_export]
macro_rules! range_suite {
    ($block_on:expr, $make:expr) => {
        $crate::store_suite!(@clauses $block_on, $make;
            a_range_stays_its_renters_until_it_is_given_back,
            many_renters_at_once_get_ranges_of_their_own,
            a_range_in_use_is_not_given_back,
        );
    };
}

/// Makes the one test of an [`AuditLog`](crate::store::AuditLog): `audit_suite!(BLOCK_ON, MAKE)`, as
/// [`store_suite!`](crate::store_suite).
#[macro_export]
macro_rules! audit_suite {
    ($block_on:expr, $make:expr) => {
        $crate::store_suite!(@clauses $block_on, $make; who_did_what_is_read_newest_first_and_bounded);
    };
}

/// One host of a store, with two GPUs.
struct Bench<S> {
    store: Arc<S>,
    host: HostId,
    engine: EngineId,
    placement: Placement,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn moment(second: i64) -> Moment {
    Moment { wall: at(second), boot: BootTime { boot: BootId("boot".to_owned()), micros: second * 1_000_000 } }
}

fn valid<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("the suite's own data is valid: {error:?}"))
}

impl<S: HostStore> Bench<S> {
    fn new(store: Arc<S>) -> Self {
        Self::with_gpus(store, 2)
    }

    fn with_gpus(store: Arc<S>, gpus: u8) -> Self {
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

    async fn owner(&self) -> HostOwnership {
        valid(self.store.acquire_host(&self.host, &self.engine, None).await)
    }

    fn request(&self, name: &str) -> NewRental {
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

    async fn claim(&self, new: &NewRental) -> Result<ClaimOutcome, ClaimError> {
        self.store.claim(new, &self.placement).await
    }

    async fn claimed(&self, name: &str) -> Rental {
        match self.claim(&self.request(name)).await {
            Ok(ClaimOutcome::New(rental)) => rental,
            other => panic!("a new rental was expected, not {other:?}"),
        }
    }

    /// Lets events happen, each in a write of its own.
    async fn live_through(&self, mut rental: Rental, owner: HostOwnership, events: Vec<RentalEvent>) -> Rental {
        for (second, event) in (1..).zip(events) {
            let mut change = Change::observation(rental, owner);
            valid(change.apply(event, at(second)));
            valid(self.store.commit(&change).await);
            rental = change.into_rental();
        }
        rental
    }

    async fn get(&self, id: RentalId) -> Option<Rental> {
        valid(self.store.get(id).await)
    }
}

/// Gives the executor a turn: a store in memory never waits by itself.
async fn let_others_go_on() {
    let mut waited = false;
    std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

fn cancelled() -> RentalEvent {
    RentalEvent::EndBegan { reason: EndReason::Cancelled }
}

fn way_down() -> Vec<RentalEvent> {
    vec![cancelled(), RentalEvent::Stopped { exit: None, ended: None }, RentalEvent::Ended]
}

fn whole_life() -> Vec<RentalEvent> {
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

/// A claim is read back as it was given.
pub async fn a_claim_is_read_back_whole<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let rental = bench.claimed("one").await;
    assert_eq!(bench.get(rental.id()).await, Some(rental.clone()));
    assert_eq!(valid(bench.store.live(&bench.host).await), vec![rental.clone()]);
    let sealed = valid(bench.store.sealed(rental.id()).await);
    assert_eq!(sealed, Some(Sealed { key_id: "k".to_owned(), bytes: vec![1, 2, 3] }));
    let held = valid(bench.store.held(&bench.host).await);
    assert_eq!(held.gpus, rental.gpus().iter().map(|gpu| gpu.uuid.clone()).collect());
    assert_eq!(held.ports, rental.ports().iter().map(|binding| binding.host).collect());
    assert_eq!(bench.get(RentalId::generate()).await, None);
}

/// A store that notes who acts for a host says so until that one resigns.
pub async fn who_acts_is_noted_until_it_resigns<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    assert_eq!(valid(bench.store.last_acted(&bench.host).await), None);
    let owner = bench.owner().await;
    valid(bench.store.confirm(&bench.host, owner).await);
    let ago = valid(bench.store.last_acted(&bench.host).await);
    assert!(ago.is_none_or(|ago| ago.as_secs() < 20), "{ago:?}");
    valid(bench.store.resign(&bench.host, owner).await);
    assert_eq!(valid(bench.store.last_acted(&bench.host).await), None);
    // A former holder has nothing to resign.
    let next = bench.owner().await;
    let noted = valid(bench.store.last_acted(&bench.host).await);
    assert_eq!(noted.is_some(), ago.is_some(), "whoever takes over acts");
    valid(bench.store.resign(&bench.host, owner).await);
    assert_eq!(valid(bench.store.last_acted(&bench.host).await).is_some(), noted.is_some());
    valid(bench.store.confirm(&bench.host, next).await);
}

/// Two GPUs are two rentals; the third finds none free, an unknown model none at all.
pub async fn gpus_are_never_held_twice<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let (one, two) = (bench.claimed("one").await, bench.claimed("two").await);
    assert_ne!(one.gpus()[0].uuid, two.gpus()[0].uuid);
    let third = bench.claim(&bench.request("three")).await;
    assert!(matches!(third, Err(ClaimError::NotPlaced(PlacementError::NoGpuFree(_)))), "{third:?}");
    let mut unknown = bench.request("four");
    unknown.spec.gpu = Some(GpuRequest::one(valid("H200".parse())));
    let unknown = bench.claim(&unknown).await;
    assert!(matches!(unknown, Err(ClaimError::NotPlaced(PlacementError::UnknownGpu { .. }))), "{unknown:?}");
}

/// However many ask at once, there are as many winners as GPUs, and all others hear "none free".
pub async fn many_claims_at_once_win_as_often_as_there_are_gpus<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let requests: Vec<_> = (0..50).map(|n| bench.request(&format!("r{n}"))).collect();
    let results = join_all(requests.iter().map(|new| bench.claim(new))).await;
    let winners: Vec<_> = results.iter().flatten().map(ClaimOutcome::rental).collect();
    assert_eq!(winners.len(), 2);
    assert_ne!(winners[0].gpus()[0].uuid, winners[1].gpus()[0].uuid);
    let ports: BTreeSet<_> = winners.iter().flat_map(|rental| rental.ports()).map(|b| b.host).collect();
    assert_eq!(ports.len(), 2);
    for error in results.into_iter().filter_map(Result::err) {
        assert!(matches!(error, ClaimError::NotPlaced(PlacementError::NoGpuFree(_))), "{error:?}");
    }
}

/// A port for datagrams is refused, and leaves no trace, where the engine publishes none.
pub async fn datagrams_are_refused_where_the_engine_publishes_none<S: HostStore>(store: Arc<S>) {
    let mut bench = Bench::new(store);
    bench.placement.udp = false;
    let mut new = bench.request("one");
    let asked = PublishedPort { transport: Transport::Udp, ..PublishedPort::tcp(WEB, None) };
    new.spec.ports = valid(vec![asked].try_into());
    let refused = bench.claim(&new).await;
    assert!(matches!(refused, Err(ClaimError::NotPlaced(PlacementError::UdpNotSupported))), "{refused:?}");
    assert!(valid(bench.store.live(&bench.host).await).is_empty());
    bench.placement.udp = true;
    valid(bench.claim(&new).await);
}

/// A host port that somebody asked for is theirs until the end.
pub async fn a_port_asked_for_is_held_once<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let asking = |name| {
        let mut new = bench.request(name);
        let asked = PublishedPort::tcp(WEB, Some(valid(HostPort::try_from(9999))));
        new.spec.ports = valid(vec![asked].try_into());
        new
    };
    valid(bench.claim(&asking("one")).await);
    let second = bench.claim(&asking("two")).await;
    assert!(matches!(second, Err(ClaimError::NotPlaced(PlacementError::NoPort(PortError::Taken(_))))), "{second:?}");
    assert_eq!(valid(bench.store.live(&bench.host).await).len(), 1, "a refused claim leaves no trace");
}

/// Asked twice in the same way, there is one rental; asked in another way, the name is taken.
pub async fn the_same_request_under_one_name_is_one_rental<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let requests: Vec<_> = (0..20).map(|_| bench.request("same")).collect();
    let results = join_all(requests.iter().map(|new| bench.claim(new))).await;
    let ids: BTreeSet<_> = results.into_iter().map(|result| valid(result).rental().id()).collect();
    assert_eq!(ids.len(), 1);
    let mut other = bench.request("same");
    other.fingerprint = Fingerprint([8; 32]);
    assert!(matches!(bench.claim(&other).await, Err(ClaimError::NameTaken(_))));
    // What is on its way out is not what somebody wants who asks again.
    let rental = valid(bench.claim(&bench.request("same")).await).rental().clone();
    let mut change = Change::intent(rental);
    valid(change.apply(cancelled(), at(1)));
    valid(bench.store.commit(&change).await);
    assert!(matches!(bench.claim(&bench.request("same")).await, Err(ClaimError::NameTaken(_))));
}

/// A name belongs to live rentals only, and is a space of each renter's.
pub async fn a_name_is_free_again_after_the_end<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let first = bench.claimed("again").await;
    bench.live_through(first.clone(), owner, way_down()).await;
    assert_ne!(bench.claimed("again").await.id(), first.id());
    let mut of_another = bench.request("again");
    of_another.spec.renter = valid("another".parse());
    assert!(matches!(valid(bench.claim(&of_another).await), ClaimOutcome::New(_)));
}

/// However often a request is sent under a key, it makes one rental, also after that has ended; another
/// request under the key is refused, and another renter's key is another key.
pub async fn one_key_is_one_rental_for_ever<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let keyed = |name: &str| NewRental { key: Some(valid("key-1".parse())), ..bench.request(name) };
    let requests: Vec<_> = (0..100).map(|n| keyed(&format!("r{n}"))).collect();
    let results = join_all(requests.iter().map(|new| bench.claim(new))).await;
    let ids: BTreeSet<_> = results.into_iter().map(|result| valid(result).rental().id()).collect();
    assert_eq!(ids.len(), 1);
    let rentals = valid(bench.store.live(&bench.host).await);
    assert_eq!(rentals.len(), 1);
    bench.live_through(rentals[0].clone(), owner, way_down()).await;
    let again = valid(bench.claim(&keyed("late")).await);
    assert!(matches!(&again, ClaimOutcome::Existing(rental) if ids.contains(&rental.id()) && !rental.is_live()));
    let other = NewRental { fingerprint: Fingerprint([8; 32]), ..keyed("other") };
    assert!(matches!(bench.claim(&other).await, Err(ClaimError::KeyReused)));
    assert!(valid(bench.store.live(&bench.host).await).is_empty(), "nothing was made");
    let mut somebody_else = keyed("else");
    somebody_else.spec.renter = valid("somebody-else".parse());
    assert!(matches!(valid(bench.claim(&somebody_else).await), ClaimOutcome::New(_)));
    // A key of its own is another request, whatever the name.
    let mut same_name = keyed("else");
    (same_name.key, same_name.spec.renter) = (Some(valid("key-2".parse())), valid("somebody-else".parse()));
    assert!(matches!(bench.claim(&same_name).await, Err(ClaimError::NameTaken(_))));
}

/// A refused request may be made again under the same key.
pub async fn a_refused_request_binds_no_key<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let (one, _two) = (bench.claimed("one").await, bench.claimed("two").await);
    let keyed = NewRental { key: Some(valid("key".parse())), ..bench.request("three") };
    assert!(matches!(bench.claim(&keyed).await, Err(ClaimError::NotPlaced(_))));
    bench.live_through(one, owner, way_down()).await;
    assert!(matches!(valid(bench.claim(&keyed).await), ClaimOutcome::New(_)));
}

/// Of two writes that saw the same revision, one is written.
pub async fn a_stale_write_changes_nothing<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let rental = bench.claimed("one").await;
    let writes = ["c1", "c2", "c3", "c4"].map(|container| {
        let mut change = Change::observation(rental.clone(), owner);
        valid(change.apply(
            RentalEvent::Created {
                container: valid(container.parse()),
                gpus_attached: true,
                at: None,
                image: None,
                files: Files::New,
                copied_bytes: 0,
            },
            at(1),
        ));
        change
    });
    let results = join_all(writes.iter().map(|change| bench.store.commit(change))).await;
    let winners: Vec<_> = writes.iter().zip(&results).filter(|(_, result)| result.is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|e| matches!(e, StoreError::Conflict)), "{results:?}");
    assert_eq!(bench.get(rental.id()).await.as_ref(), Some(winners[0].0.rental()));
    assert_eq!(valid(bench.store.events(rental.id(), Seq::ZERO, 100).await).len(), 2);
}

/// A process whose host was taken over writes no observation and publishes nothing.
pub async fn observations_need_the_current_epoch<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let old = bench.owner().await;
    let rental = bench.claimed("one").await;
    let new = bench.owner().await;
    assert!(new.epoch > old.epoch);
    let mut change = Change::observation(rental.clone(), old);
    valid(change.apply(
        RentalEvent::Created {
            container: valid("c1".parse()),
            gpus_attached: true,
            at: None,
            image: None,
            files: Files::New,
            copied_bytes: 0,
        },
        at(1),
    ));
    assert!(matches!(bench.store.commit(&change).await, Err(StoreError::Fenced)));
    assert!(matches!(bench.store.publish(&bench.host, old, 10).await, Err(StoreError::Fenced)));
    assert!(matches!(bench.store.confirm(&bench.host, old).await, Err(StoreError::Fenced)));
    assert_eq!(bench.get(rental.id()).await, Some(rental));
    valid(bench.store.confirm(&bench.host, new).await);
}

/// Any process may cancel.
pub async fn intents_need_no_epoch<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    bench.owner().await;
    let rental = bench.claimed("one").await;
    let mut change = Change::intent(rental.clone());
    valid(change.apply(cancelled(), at(1)));
    valid(bench.store.commit(&change).await);
    let phase = bench.get(rental.id()).await.map(|rental| rental.state().phase());
    assert_eq!(phase, Some(Phase::Ending));
}

/// A host id cannot be used with two engines, unless nothing of the first one is left.
pub async fn a_host_with_live_rentals_is_pinned_to_its_engine<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let rental = bench.claimed("one").await;
    let other: EngineId = valid("another".parse());
    let refused = bench.store.acquire_host(&bench.host, &other, None).await;
    assert!(matches!(&refused, Err(StoreError::HostPinned(engine)) if *engine == bench.engine), "{refused:?}");
    valid(bench.store.confirm(&bench.host, owner).await);
    bench.live_through(rental, owner, way_down()).await;
    assert!(valid(bench.store.acquire_host(&bench.host, &other, None).await).epoch > owner.epoch);
    bench.claimed("two").await;
    let back = bench.store.acquire_host(&bench.host, &bench.engine, None).await;
    assert!(matches!(&back, Err(StoreError::HostPinned(engine)) if *engine == other), "{back:?}");
}

/// Engines of two machines that were cloned from one image have one id, and are two. One of which the machine is not known
/// is believed.
pub async fn a_clone_of_the_engines_machine_is_another_engine<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let machines: [MachineId; 2] = ["here", "clone"].map(|name| valid(name.parse()));
    let take_over =
        async |machine: Option<&MachineId>| bench.store.acquire_host(&bench.host, &bench.engine, machine).await;
    valid(take_over(None).await);
    bench.claimed("one").await;
    // An agent of a version that did not tell had it before.
    valid(take_over(Some(&machines[0])).await);
    let refused = take_over(Some(&machines[1])).await;
    assert!(matches!(refused, Err(StoreError::HostPinned(_))), "{refused:?}");
    valid(take_over(None).await);
    let refused = take_over(Some(&machines[1])).await;
    assert!(matches!(refused, Err(StoreError::HostPinned(_))), "it is still known: {refused:?}");
    let owner = valid(take_over(Some(&machines[0])).await);
    let rental = valid(bench.store.live(&bench.host).await).remove(0);
    bench.live_through(rental, owner, way_down()).await;
    valid(take_over(Some(&machines[1])).await);
}

/// Holds last until the end and not longer; so does the credential.
pub async fn the_end_frees_what_was_held_and_erases_the_credential<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let mut new = bench.request("one");
    new.spec.environment = valid(BTreeMap::from([("TOKEN".to_owned(), "canary-4711".to_owned())]).try_into());
    let rental = valid(bench.claim(&new).await).rental().clone();
    let stopped = bench.live_through(rental, owner, way_down()[..2].to_vec()).await;
    assert!(format!("{stopped:?}").contains("canary-4711"), "it may be launched again");
    assert_eq!(valid(bench.store.held(&bench.host).await).gpus.len(), 1);
    let ended = bench.live_through(stopped, owner, vec![RentalEvent::Ended]).await;
    let held = valid(bench.store.held(&bench.host).await);
    assert!(held.gpus.is_empty() && held.ports.is_empty());
    assert_eq!(valid(bench.store.sealed(ended.id()).await), None);
    assert!(valid(bench.store.live(&bench.host).await).is_empty());
    let events = valid(bench.store.events(ended.id(), Seq::ZERO, 100).await);
    assert!(!format!("{events:?} {ended:?}").contains("canary-4711"), "{events:?}");
    assert_eq!(bench.get(ended.id()).await, Some(ended));
}

/// The claim that the container of `rental` tells after the store has lost it: the same one under another id.
fn lost(rental: &Rental, name: &str) -> RecoveredRental {
    let mut claim = rental.claim();
    (claim.id, claim.name) = (RentalId::generate(), valid(name.parse()));
    let found = Adoption {
        attempt: Attempt::new(2),
        container: valid("found".parse()),
        ports: claim.ports.clone(),
        gpus_attached: true,
        started_at: Some(at(5)),
        claim: Box::new(claim.clone()),
    };
    let tells = [
        RentalEvent::Claimed(Box::new(claim)),
        RentalEvent::Adopted(Box::new(found)),
        RentalEvent::Verified { paid_from: moment(5) },
    ];
    let number = |(n, event)| RecordedEvent { seq: Seq::new(n), at: at(9), event };
    let events: Vec<_> = (1..).zip(tells).map(number).collect();
    let rental = Rental::folded(&events).unwrap_or_else(|| panic!("legal events"));
    RecoveredRental { rental, events, fingerprint: Fingerprint([0; 32]) }
}

/// A rental that only its container knew of is live again, holds its GPUs and ports, is in the journal, and
/// ends like any other.
pub async fn a_lost_rental_is_adopted_once_and_holds_what_it_has<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let ended = bench.live_through(bench.claimed("one").await, owner, way_down()).await;
    let found = lost(&ended, "found");
    let id = found.rental.id();
    let later = bench.owner().await;
    let fenced = bench.store.adopt(&found, owner).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    valid(bench.store.adopt(&found, later).await);
    let again = bench.store.adopt(&found, later).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    assert_eq!(bench.get(id).await, Some(found.rental.clone()));
    assert_eq!(valid(bench.store.events(id, Seq::ZERO, 10).await), found.events);
    assert_eq!(valid(bench.store.sealed(id).await), None);
    let held = valid(bench.store.held(&bench.host).await);
    assert_eq!(held.gpus, found.rental.gpus().iter().map(|gpu| gpu.uuid.clone()).collect());
    assert_eq!(held.ports, found.rental.ports().iter().map(|binding| binding.host).collect());
    let news = valid(bench.store.publish(&bench.host, later, 100).await);
    assert_eq!(news.iter().filter(|entry| entry.rental == id).count(), 3);
    bench.live_through(found.rental, later, way_down()).await;
    assert!(valid(bench.store.held(&bench.host).await).gpus.is_empty());
}

/// Where its place or its name is another's by now, nothing is written.
pub async fn a_recovered_rental_takes_nothing_from_others<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let live = bench.claimed("one").await;
    let found = lost(&live, "found");
    let refused = bench.store.adopt(&found, owner).await;
    assert!(matches!(refused, Err(StoreError::Conflict)), "its GPU is taken: {refused:?}");
    assert_eq!(bench.get(found.rental.id()).await, None);
    let namesake = bench.claimed("found").await;
    bench.live_through(live, owner, way_down()).await;
    let refused = bench.store.adopt(&found, owner).await;
    assert!(matches!(refused, Err(StoreError::Conflict)), "its name is taken: {refused:?}");
    assert_eq!(bench.get(namesake.id()).await, Some(namesake));
}

/// A relaunch holds its new ports and no longer the old ones; a port of somebody else is a conflict.
pub async fn new_ports_replace_the_old_ones<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let (one, two) = (bench.claimed("one").await, bench.claimed("two").await);
    let relaunched = |host| {
        let ports = vec![PortBinding::tcp(crate::model::port::SSH, host)];
        let mut change = Change::observation(one.clone(), owner);
        valid(change.apply(RentalEvent::Relaunched { ports }, at(1)));
        change
    };
    let taken = bench.store.commit(&relaunched(two.ports()[0].host)).await;
    assert!(matches!(taken, Err(StoreError::Conflict)), "{taken:?}");
    let free = valid(30_000.try_into());
    valid(bench.store.commit(&relaunched(free)).await);
    let held = valid(bench.store.held(&bench.host).await).ports;
    assert_eq!(held, BTreeSet::from([free, two.ports()[0].host]));
}

/// A changed credential is what is read from then on, until the end erases it.
pub async fn new_secrets_replace_the_old_ones<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let rental = bench.claimed("one").await;
    let new = Sealed { key_id: "other".to_owned(), bytes: vec![9] };
    let mut change = Change::intent(rental).with_sealed(new.clone());
    valid(change.apply(RentalEvent::AccessChanged { credential: CredentialKind::PublicKey }, at(1)));
    valid(bench.store.commit(&change).await);
    let id = change.rental().id();
    assert_eq!(valid(bench.store.sealed(id).await), Some(new));
    assert_eq!(bench.get(id).await.map(|rental| rental.credential()), Some(CredentialKind::PublicKey));
    bench.live_through(change.into_rental(), owner, way_down()).await;
    assert_eq!(valid(bench.store.sealed(id).await), None);
}

/// The last lines are there for as long as was said, and are dropped then.
pub async fn last_lines_outlive_the_container_for_their_time<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let stop_with = async |name: &str, line: &str, second| {
        let rental = bench.claimed(name).await;
        let rental = bench.live_through(rental, owner, vec![cancelled()]).await;
        let tail = LogTail { lines: vec![line.to_owned()], at: at(second), until: at(second + 100) };
        let mut change = Change::observation(rental, owner).with_log_tail(tail);
        valid(change.apply(RentalEvent::Stopped { exit: None, ended: None }, at(second)));
        valid(bench.store.commit(&change).await);
        bench.live_through(change.into_rental(), owner, vec![RentalEvent::Ended]).await.id()
    };
    let first = stop_with("one", "a \u{e9} \"line\"", 0).await;
    let lines = async |id, second| valid(bench.store.log_tail(id, at(second)).await);
    assert_eq!(lines(first, 99).await, Some(vec!["a \u{e9} \"line\"".to_owned()]));
    assert_eq!(lines(first, 100).await, None);
    let second = stop_with("two", "later", 200).await;
    assert_eq!(lines(second, 200).await, Some(vec!["later".to_owned()]));
    assert_eq!(lines(first, 0).await, None, "what is out of date goes with the next write");
    assert_eq!(lines(RentalId::generate(), 0).await, None);
}

/// The stored events tell the whole of the stored rental.
pub async fn events_fold_to_the_rental<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let rental = bench.claimed("one").await;
    let ended = bench.live_through(rental, owner, whole_life()).await;
    let events = valid(bench.store.events(ended.id(), Seq::ZERO, 100).await);
    let folded = Rental::folded(&events);
    assert_eq!(folded.as_ref().map(Rental::state), Some(ended.state()));
    assert_eq!(folded.as_ref().map(Rental::segments), Some(ended.segments()));
    assert_eq!(folded.map(|rental| rental.bill(at(0))), Some(ended.bill(at(0))));
    let rest = valid(bench.store.events(ended.id(), Seq::new(2), 3).await);
    assert_eq!(rest.iter().map(|event| event.seq.get()).collect::<Vec<_>>(), vec![3, 4, 5]);
}

/// Positions run from 1 without a gap; nothing is published twice.
pub async fn the_journal_has_every_event_once_and_in_order<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let rental = bench.claimed("one").await;
    let first = valid(bench.store.publish(&bench.host, owner, 10).await);
    assert_eq!(first.len(), 1);
    bench.live_through(rental, owner, whole_life()).await;
    let mut published = first;
    loop {
        let more = valid(bench.store.publish(&bench.host, owner, 3).await);
        if more.is_empty() {
            break;
        }
        published.extend(more);
    }
    assert!(published.iter().zip(1..).all(|(entry, n)| entry.position.get() == n && entry.recorded.seq.get() == n));
    assert_eq!(published.len(), 8);
    assert_eq!(valid(bench.store.journal(&bench.host, Position::ZERO, 100).await), published);
    let ownership = valid(bench.store.acquire_host(&bench.host, &bench.engine, None).await);
    assert_eq!(ownership.last_position, Position::new(8));
    let rest = valid(bench.store.journal(&bench.host, Position::new(6), 1).await);
    assert_eq!(rest, published[6..7]);
}

/// A reader that follows positions sees every event, however many write meanwhile.
pub async fn readers_miss_nothing_while_others_write<S: HostStore>(store: Arc<S>) {
    const WRITERS: usize = 32;
    let bench = Bench::with_gpus(store, 32);
    let owner = bench.owner().await;
    let mut rentals = Vec::new();
    for n in 0..WRITERS {
        rentals.push(bench.claimed(&format!("r{n}")).await);
    }
    let read = async {
        let (mut seen, mut cursor) = (Vec::new(), Position::ZERO);
        while seen.len() < 8 * WRITERS {
            valid(bench.store.publish(&bench.host, owner, 4).await);
            for entry in valid(bench.store.journal(&bench.host, cursor, 100).await) {
                cursor = entry.position;
                seen.push((entry.rental, entry.recorded.seq.get()));
            }
            let_others_go_on().await;
        }
        seen
    };
    let write = join_all(rentals.iter().map(|rental| bench.live_through(rental.clone(), owner, whole_life())));
    let (seen, _) = futures_util::join!(read, write);
    for rental in rentals {
        let seqs: Vec<_> = seen.iter().filter(|(id, _)| *id == rental.id()).map(|(_, seq)| *seq).collect();
        assert_eq!(seqs, (1..=8).collect::<Vec<_>>());
    }
}

/// A publication that was given up may still happen, beside the next one: each position is given once.
pub async fn publications_at_once_leave_no_gap<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let (one, two) = (bench.claimed("one").await, bench.claimed("two").await);
    let publish = async {
        for _ in 0..8 {
            let at_once = join_all((0..6).map(|_| bench.store.publish(&bench.host, owner, 100))).await;
            assert!(at_once.iter().all(Result::is_ok), "{at_once:?}");
            let_others_go_on().await;
        }
    };
    let write_one = bench.live_through(one, owner, whole_life());
    let write_two = bench.live_through(two, owner, whole_life());
    futures_util::join!(publish, write_one, write_two);
    valid(bench.store.publish(&bench.host, owner, 100).await);
    let journal = valid(bench.store.journal(&bench.host, Position::ZERO, 100).await);
    assert_eq!(journal.iter().map(|entry| entry.position.get()).collect::<Vec<_>>(), (1..=16).collect::<Vec<_>>());
}

/// Lists come newest first, page after page, filtered by renter and phase.
pub async fn lists_are_filtered_and_paged<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let mut new = bench.request(&format!("r{n}"));
        new.at = moment(n).shifted(SignedDuration::ZERO);
        if n == 3 {
            new.spec.renter = valid("other".parse());
        }
        let rental = valid(bench.claim(&new).await).rental().clone();
        ids.insert(0, rental.id());
        bench.live_through(rental, owner, if n < 4 { way_down() } else { Vec::new() }).await;
    }
    let list = async |filter: &Filter, after, limit| {
        let page = valid(bench.store.list(&bench.host, filter, after, limit).await);
        page.iter().map(Rental::id).collect::<Vec<_>>()
    };
    let all = Filter::default();
    assert_eq!(list(&all, None, 100).await, ids);
    assert_eq!(list(&all, None, 2).await, ids[..2]);
    assert_eq!(list(&all, Some(ids[1]), 2).await, ids[2..4]);
    assert_eq!(list(&all, Some(ids[4]), 2).await, []);
    let ended = Filter { phases: vec![Phase::Ended], ..Filter::default() };
    assert_eq!(list(&ended, None, 100).await, ids[1..]);
    let others = Filter { renter: Some(valid("other".parse())), ..Filter::default() };
    assert_eq!(list(&others, None, 100).await, ids[1..2]);
}

/// Names, labels and outcomes select as phases do; a state may be named either way.
pub async fn lists_are_filtered_by_name_label_and_outcome<S: HostStore>(store: Arc<S>) {
    let bench = Bench::new(store);
    let owner = bench.owner().await;
    let mut labelled = bench.request("labelled");
    let labels = [("team".to_owned(), "it's \"ours\"".to_owned())];
    labelled.spec.labels = valid(std::collections::BTreeMap::from(labels).try_into());
    let labelled = valid(bench.claim(&labelled).await).rental().id();
    let expired = bench.live_through(bench.claimed("expired").await, owner, whole_life()).await.id();
    let terminated = bench.live_through(bench.claimed("terminated").await, owner, way_down()).await.id();
    let list = async |filter: Filter| {
        let page = valid(bench.store.list(&bench.host, &filter, None, 100).await);
        page.iter().map(Rental::id).collect::<BTreeSet<_>>()
    };
    let all = Filter::default();
    let named = Filter { name: Some(valid("expired".parse())), ..all.clone() };
    assert_eq!(list(named).await, BTreeSet::from([expired]));
    let label = |value: &str| Filter { label: Some(("team".to_owned(), value.to_owned())), ..all.clone() };
    assert_eq!(list(label("it's \"ours\"")).await, BTreeSet::from([labelled]));
    assert_eq!(list(label("other")).await, BTreeSet::new());
    assert_eq!(list(Filter { ends: vec![EndKind::Terminated], ..all.clone() }).await, BTreeSet::from([terminated]));
    let either = Filter { ends: vec![EndKind::Expired], phases: vec![Phase::Provisioning], ..all };
    assert_eq!(list(either).await, BTreeSet::from([labelled, expired]));
}

/// A key is known by its digest alone, until it is revoked.
pub async fn keys_are_found_by_their_digest_until_revoked<S: KeyStore>(store: Arc<S>) {
    let networks = vec![valid("10.0.0.0/8".parse()), valid("2001:db8::1/128".parse())];
    let key = NewKey::generate(valid("renter".parse()), Role::Renter, at(1)).allowed_from(networks);
    let other = NewKey::generate(valid("platform".parse()), Role::Platform, at(2));
    assert_ne!(key.expose(), other.expose());
    valid(store.add_key(&key.record).await);
    valid(store.add_key(&other.record).await);
    let find = async |digest| valid(store.find_key(&digest).await);
    assert_eq!(find(KeyDigest::of(key.expose())).await, Some(key.record.clone()));
    assert_eq!(find(KeyDigest::of("gpurent_0000")).await, None);
    let listed = valid(store.keys().await);
    assert!(listed.contains(&key.record) && listed.contains(&other.record));
    assert!(valid(store.revoke_key(&key.record.id).await));
    assert!(!valid(store.revoke_key(&key.record.id).await));
    assert_eq!(find(KeyDigest::of(key.expose())).await, None);
    assert_eq!(find(KeyDigest::of(other.expose())).await, Some(other.record.clone()));
    // A key that stayed would be asked for by every host on the same database.
    assert!(valid(store.revoke_key(&other.record.id).await));
}

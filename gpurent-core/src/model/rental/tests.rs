//! Every state against every event, and random histories.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::{BootId, BootTime};
use crate::model::{
    Adoption, Claim, EndReason, Failure, FailureKind, GpuRequest, HourlyRate, MicroUnits, Phase, Protocol,
    RecordedEvent, RentalEvent, Resumption, SuspendCause, Term,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn moment(second: i64) -> Moment {
    Moment { wall: at(second), boot: BootTime { boot: BootId("b".to_owned()), micros: second * 1_000_000 } }
}

/// A rental that was claimed, and its first event.
pub(crate) fn claimed() -> (Rental, RecordedEvent) {
    let gpu = GpuRequest::one("RTX 5090".parse().unwrap());
    let spec = RentalSpec::new("me".parse().unwrap(), gpu, "a:1".parse().unwrap(), Term::hours(1).unwrap());
    let claim = Claim {
        id: RentalId::generate(),
        host: "h".parse().unwrap(),
        name: "n".parse().unwrap(),
        spec,
        credential: CredentialKind::Password,
        gpus: Vec::new(),
        ports: Vec::new(),
        quote: Some(Quote {
            rate: HourlyRate::new(MicroUnits::new(3_600_000)).unwrap(),
            currency: "USD".to_owned().try_into().unwrap(),
            unverified: false,
        }),
        due: at(600),
        at: moment(0),
        used: SignedDuration::ZERO,
    };
    Rental::from_claim(claim, at(0))
}

/// As [`claimed`], on a host that charges for what was never verified.
fn claimed_for_money() -> Rental {
    let (rental, _) = claimed();
    let mut claim = rental.claim();
    claim.quote = claim.quote.map(|quote| Quote { unverified: true, ..quote });
    Rental::from_claim(claim, at(0)).0
}

fn created() -> RentalEvent {
    RentalEvent::Created {
        container: "c1".parse().unwrap(),
        gpus_attached: true,
        at: None,
        image: None,
        files: Files::New,
        copied_bytes: 0,
    }
}

fn cancelled() -> RentalEvent {
    RentalEvent::EndBegan { reason: EndReason::Cancelled }
}

fn stopped(second: i64) -> RentalEvent {
    RentalEvent::Stopped { exit: Some(Exit { finished_at: at(second), code: 0, out_of_memory: false }), ended: None }
}

/// A rental that lived through `events`, one a second.
fn after(events: &[RentalEvent]) -> Rental {
    let (mut rental, _) = claimed();
    for (second, event) in (1..).zip(events) {
        assert_eq!(rental.apply(event.clone(), at(second)), Ok(Outcome::Changed), "{event:?}");
    }
    rental
}

fn way_up() -> Vec<RentalEvent> {
    vec![
        created(),
        RentalEvent::Started { started_at: at(10), started: moment(10) },
        RentalEvent::Verified { paid_from: moment(10) },
    ]
}

/// Every event once.
fn all_events() -> Vec<RentalEvent> {
    let mut all = way_up();
    all.extend([RentalEvent::Relaunched { ports: Vec::new() }, RentalEvent::Warned, RentalEvent::Notified]);
    all.extend([cancelled(), stopped(99), RentalEvent::Ended]);
    all.extend([suspended_on_request(), RentalEvent::Suspended { since: moment(99), retained: None }, resumed()]);
    all
}

fn suspended_on_request() -> RentalEvent {
    RentalEvent::SuspendBegan { cause: SuspendCause::Requested }
}

fn resumed() -> RentalEvent {
    let (gpus, ports) = (Vec::new(), Vec::new());
    RentalEvent::Resumed(Box::new(Resumption { gpus, ports, quote: None, due: at(9999), at: moment(200) }))
}

#[test]
fn a_revision_that_a_restored_store_has_forgotten_is_not_given_again() {
    let (rental, _) = claimed();
    let write = |second| {
        let mut change = crate::store::Change::intent(rental.clone());
        change.apply(RentalEvent::EndBegan { reason: EndReason::Cancelled }, at(second)).unwrap();
        change.into_rental().revision()
    };
    assert_ne!(write(1), write(2), "one of the two was forgotten, and nobody must take the other for it");
    assert!(write(-1_900_000_000) > rental.revision(), "whatever the clock says");
}

#[test]
fn every_state_takes_its_events_and_no_other() {
    let up = way_up();
    let ending: Vec<_> = up.iter().cloned().chain([cancelled()]).collect();
    let stopping: Vec<_> = ending.iter().cloned().chain([stopped(99)]).collect();
    let suspending: Vec<_> = up.iter().cloned().chain([suspended_on_request()]).collect();
    let going: Vec<_> = suspending.iter().cloned().chain([stopped(99)]).collect();
    let suspended: Vec<_> =
        going.iter().cloned().chain([RentalEvent::Suspended { since: moment(99), retained: None }]).collect();
    let again: Vec<_> = suspended.iter().cloned().chain([resumed()]).collect();
    let ended: Vec<_> = stopping.iter().cloned().chain([RentalEvent::Ended]).collect();
    /// State, how it is reached, what changes it, what it already knows. Everything else is illegal.
    type Row<'a> = (&'a str, &'a [RentalEvent], &'a [&'a str], &'a [&'a str]);
    let table: [Row<'_>; 12] = [
        ("claimed", &[], &["created", "relaunched", "suspend_began", "end_began"], &[]),
        ("created", &up[..1], &["started", "relaunched", "suspend_began", "end_began"], &[]),
        ("running", &up[..2], &["verified", "suspend_began", "end_began"], &[]),
        ("ready", &up[..3], &["warned", "notified", "suspend_began", "end_began"], &[]),
        ("suspending", &suspending, &["stopped", "end_began"], &["suspend_began"]),
        ("suspending, stopped", &going, &["suspended", "end_began"], &["suspend_began", "stopped"]),
        ("suspended", &suspended, &["resumed", "end_began"], &["suspend_began", "suspended"]),
        ("resumed", &again, &["created", "relaunched", "suspend_began", "end_began"], &[]),
        ("ending from ready", &ending, &["stopped"], &["end_began"]),
        ("ending, stopped", &stopping, &["ended"], &["end_began", "stopped"]),
        ("ended", &ended, &[], &["end_began", "ended"]),
        ("ending from claimed", &[cancelled()], &["stopped"], &["end_began"]),
    ];
    for (state, history, changes, known) in table {
        for event in all_events() {
            let mut rental = after(history);
            let before = rental.clone();
            let outcome = rental.apply(event.clone(), at(100));
            let expected = match event.name() {
                name if changes.contains(&name) => Ok(Outcome::Changed),
                name if known.contains(&name) => Ok(Outcome::Unchanged),
                event => Err(IllegalTransition { event, state: before.state().phase().as_str() }),
            };
            assert_eq!(outcome, expected, "{} while {state}", event.name());
            assert_eq!(rental == before, outcome != Ok(Outcome::Changed), "{} while {state}", event.name());
        }
    }
}

#[test]
fn a_claim_happens_once() {
    let (mut rental, first) = claimed();
    assert!(rental.apply(first.event, at(1)).is_err());
}

#[test]
fn a_launch_knows_nothing_of_the_container_before() {
    let started = RentalEvent::Started { started_at: at(10), started: moment(10) };
    let mut life = vec![
        created(),
        started,
        RentalEvent::Verified { paid_from: moment(10) },
        RentalEvent::Warned,
        RentalEvent::Notified,
    ];
    let suspended = RentalEvent::Suspended { since: moment(99), retained: None };
    life.extend([suspended_on_request(), stopped(99), suspended, resumed()]);
    let again = after(&life);
    assert_eq!(again.state().phase(), Phase::Provisioning);
    assert_eq!((again.container(), again.exit(), again.paid_from()), (None, None, None));
    assert_eq!((again.started(), again.started_at()), (None, None), "it would be paid for from there");
    assert!(!again.launch.warned && !again.launch.notified && again.launch.created.is_none());
}

#[test]
fn a_suspended_rental_has_no_gpus_attached() {
    let mut life = way_up();
    life.extend([suspended_on_request(), stopped(99), RentalEvent::Suspended { since: moment(99), retained: None }]);
    let suspended = after(&life);
    assert!(after(&way_up()).gpus_attached() && !suspended.gpus_attached());
    assert!(suspended.exit().is_some(), "how its container ended is still told");
}

/// SQL reads some of these, and agents of other versions all of them.
#[test]
fn a_launch_is_stored_beside_the_rental() {
    let rental = after(&way_up());
    let stored = serde_json::to_value(&rental).unwrap();
    for field in ["attempt", "container", "gpus_attached", "started", "started_at", "paid_from", "claimed", "exit"] {
        assert!(stored.get(field).is_some(), "{field} in {stored}");
    }
    assert!(stored.get("launch").is_none() && stored.get("claimed_at").is_none());
    assert_eq!(serde_json::from_value::<Rental>(stored).unwrap(), rental);
}

#[test]
fn the_services_of_a_container_are_not_those_of_the_next_one() {
    let mut rental = after(&way_up());
    rental.launch.services.push(Service {
        container: "8080".parse().unwrap(),
        host: "8001".parse().unwrap(),
        protocol: Protocol::Http,
    });
    rental.apply(RentalEvent::Adopted(Box::new(later_launch(&rental))), at(201)).unwrap();
    assert!(rental.services().is_empty(), "nothing has answered in it yet");
}

/// The launch that the engine shows where the store was set back: the one after that which it knows.
fn later_launch(rental: &Rental) -> Adoption {
    Adoption {
        attempt: rental.attempt().next(),
        container: "c2".parse().unwrap(),
        ports: Vec::new(),
        gpus_attached: true,
        started_at: Some(at(200)),
        claim: Box::new(rental.claim()),
    }
}

#[test]
fn what_was_used_by_the_word_of_a_later_launch_is_used() {
    let (mut rental, _) = claimed();
    let claim = Claim { used: SignedDuration::from_secs(100), ..rental.claim() };
    let found = Adoption { claim: Box::new(claim), ..later_launch(&rental) };
    rental.apply(RentalEvent::Adopted(Box::new(found)), at(201)).unwrap();
    assert_eq!(rental.used_before(), SignedDuration::from_secs(100), "the store that was set back had forgotten it");
}

#[test]
fn a_program_is_given_no_more_grace_than_is_paid_for() {
    for ending in [cancelled(), suspended_on_request()] {
        let mut rental = after(&way_up());
        rental.apply(ending, at(3500)).unwrap();
        let grace = |second| Next::Now(Action::Stop { grace: Duration::from_secs(second) });
        for (now, seconds) in [(3500, 10), (3606, 4), (3610, 0), (4000, 0)] {
            assert_eq!(
                rental.next(&moment(now), &RentalTiming::default()),
                grace(seconds),
                "{now}: paid from 10 to 3610"
            );
        }
    }
}

#[test]
fn a_warning_is_given_once() {
    let mut rental = after(&way_up());
    assert_eq!(rental.apply(RentalEvent::Warned, at(5)), Ok(Outcome::Changed));
    assert!(rental.apply(RentalEvent::Warned, at(6)).is_err());
}

#[test]
fn what_is_due_follows_from_the_state_alone() {
    let timing = RentalTiming::default();
    let next = |events: &[RentalEvent], second| after(events).next(&moment(second), &timing);
    let up = way_up();
    assert_eq!(next(&[], 1), Next::Now(Action::Prepare));
    assert!(matches!(next(&[], 600), Next::Now(Action::End(EndReason::Failed(_)))));
    assert_eq!(next(&up[..1], 1), Next::Now(Action::Start));
    assert_eq!(next(&up[..2], 20), Next::Now(Action::Verify { within: Duration::from_secs(80) }));
    assert_eq!(next(&up[..2], 9000), Next::Now(Action::Verify { within: Duration::from_secs(30) }));
    // An hour from second 10: warned at 3310, told to finish at 3600, ended at 3610.
    assert_eq!(next(&up, 10), Next::After(SignedDuration::from_secs(3300)));
    assert_eq!(next(&up, 3310), Next::Now(Action::Warn));
    let warned: Vec<_> = up.iter().cloned().chain([RentalEvent::Warned]).collect();
    assert_eq!(next(&warned, 3310), Next::After(SignedDuration::from_secs(290)));
    assert_eq!(next(&warned, 3600), Next::Now(Action::Notify));
    let notified: Vec<_> = warned.iter().cloned().chain([RentalEvent::Notified]).collect();
    assert_eq!(next(&notified, 3609), Next::After(SignedDuration::from_secs(1)));
    assert_eq!(next(&notified, 3610), Next::Now(Action::End(EndReason::Expired)));
}

#[test]
fn a_wall_clock_that_jumps_neither_ends_nor_extends_a_rental() {
    let rental = after(&way_up());
    let timing = RentalTiming::default();
    let jumped = |wall, boot| Moment { wall: at(wall), ..moment(boot) };
    assert_eq!(rental.next(&jumped(90_000, 10), &timing), Next::After(SignedDuration::from_secs(3300)));
    assert_eq!(rental.next(&jumped(-90_000, 3610), &timing), Next::Now(Action::End(EndReason::Expired)));
    // After a reboot only the wall clock can tell.
    let rebooted = Moment { wall: at(3610), boot: BootTime { boot: BootId("c".to_owned()), micros: 5 } };
    assert_eq!(rental.next(&rebooted, &timing), Next::Now(Action::End(EndReason::Expired)));
}

#[test]
fn a_wall_clock_that_jumps_changes_no_bill() {
    for jump in [-90_000, 90_000] {
        let mut rental = after(&way_up());
        rental.apply(cancelled(), at(100 + jump)).unwrap();
        let exit = Some(Exit { finished_at: at(100 + jump), code: 0, out_of_memory: false });
        let ended = Some(Moment { wall: at(100 + jump), ..moment(100) });
        rental.apply(RentalEvent::Stopped { exit, ended }, at(100 + jump)).unwrap();
        assert_eq!(rental.bill(at(0)).used_micros, 90_000_000);
    }
}

#[test]
fn a_wall_clock_that_jumps_gives_up_no_rental_on_its_way_up() {
    let timing = RentalTiming::default();
    let tomorrow = Moment { wall: at(90_000), ..moment(20) };
    assert_eq!(after(&[]).next(&tomorrow, &timing), Next::Now(Action::Prepare));
    let started = RentalEvent::Started { started_at: at(10), started: moment(10) };
    let within = Duration::from_secs(80);
    assert_eq!(after(&[created(), started]).next(&tomorrow, &timing), Next::Now(Action::Verify { within }));
}

#[test]
fn use_ends_with_the_container_or_the_paid_time() {
    let used = |reason: EndReason, exit: Option<i64>, seen: i64| {
        let mut rental = after(&way_up());
        rental.apply(RentalEvent::EndBegan { reason }, at(seen)).unwrap();
        let exit = exit.map(|second| Exit { finished_at: at(second), code: 0, out_of_memory: false });
        rental.apply(RentalEvent::Stopped { exit, ended: None }, at(seen)).unwrap();
        rental.bill(at(99_999)).used_micros / 1_000_000
    };
    assert_eq!(used(EndReason::Cancelled, Some(70), 100), 60, "the engine's record counts, not when it was read");
    assert_eq!(used(EndReason::Expired, Some(9000), 9000), 3600, "nobody pays past the end");
    assert_eq!(used(EndReason::Lost { last_seen: at(40) }, None, 100), 30);
    assert_eq!(used(EndReason::Cancelled, Some(5), 100), 0, "never negative");
}

#[test]
fn what_ran_and_let_nobody_in_costs_what_it_ran_where_the_host_says_so() {
    let used = |reason: EndReason, way_up: usize, jump: i64| {
        let mut rental = claimed_for_money();
        let started = RentalEvent::Started { started_at: at(10), started: moment(10) };
        for (second, event) in (1..).zip([created(), started].into_iter().take(way_up)) {
            rental.apply(event, at(second)).unwrap();
        }
        rental.apply(RentalEvent::EndBegan { reason }, at(75)).unwrap();
        let exit = Some(Exit { finished_at: at(75 + jump), code: 0, out_of_memory: false });
        let ended = rental.started().map(|started| {
            let boot = BootTime { micros: started.boot.micros + 65_000_000, ..started.boot.clone() };
            Moment { wall: at(75 + jump), boot }
        });
        rental.apply(RentalEvent::Stopped { exit, ended }, at(75 + jump)).unwrap();
        (rental.bill(at(99_999)).used_micros / 1_000_000, rental.has_been_ready())
    };
    let failed = |kind| EndReason::Failed(Failure { kind, detail: String::new(), log_tail: Vec::new() });
    assert_eq!(used(EndReason::Cancelled, 2, 0), (65, true));
    assert_eq!(used(failed(FailureKind::AccessTimeout), 2, 0), (65, true));
    assert_eq!(used(EndReason::Cancelled, 2, 86_400), (65, true), "whatever the wall clock does");
    assert_eq!(used(failed(FailureKind::Vanished), 2, 0), (0, false), "by the host");
    assert_eq!(used(EndReason::Cancelled, 1, 0), (0, false), "it never ran");
}

#[test]
fn what_was_never_ready_costs_nothing() {
    let mut rental = after(&way_up()[..2]);
    rental.apply(cancelled(), at(50)).unwrap();
    rental.apply(stopped(60), at(60)).unwrap();
    assert_eq!(rental.bill(at(99)).total, MicroUnits::ZERO);
}

proptest! {
    /// Any history, whatever is tried in whatever order: only legal transitions occur, events are numbered without a
    /// gap, folding them gives the rental, and usage is disjoint with at most one open segment.
    #[test]
    fn any_history_folds_to_its_rental(choices in proptest::collection::vec(0usize..12, 0..60)) {
        let (mut rental, first) = claimed();
        let mut events = vec![first];
        let all = all_events();
        for (second, choice) in (1..).zip(choices) {
            let event = all[choice].clone();
            if rental.apply(event.clone(), at(second)) == Ok(Outcome::Changed) {
                events.push(RecordedEvent { seq: rental.last_seq(), at: at(second), event });
            }
            let open = rental.segments().iter().filter(|segment| segment.ended_at.is_none()).count();
            prop_assert!(open <= usize::from(rental.is_live()));
        }
        prop_assert!(events.iter().zip(1..).all(|(event, n)| event.seq.get() == n));
        prop_assert_eq!(Rental::folded(&events), Some(rental.clone()));
        let json = serde_json::to_string(&rental).unwrap();
        prop_assert_eq!(serde_json::from_str::<Rental>(&json).unwrap(), rental.clone());
        prop_assert_eq!(rental.state().phase() == Phase::Ended, !rental.is_live());
    }
}

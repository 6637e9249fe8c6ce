//! What is changed while a rental runs: its end, its credential, what its renter is told. With the faults
//! that hit such changes.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod world;

use gpurent_core::allocation::PlacementError;
use gpurent_core::clock::Clock;
use gpurent_core::host::{
    ChangeAccessError, EngineHealth, ExtendError, ForceEndError, RentError, TermExtension, force_end,
};
use gpurent_core::id::{Attempt, Position};
use gpurent_core::memory::{InjectedFault, RuntimeStep};
use gpurent_core::model::{
    Adoption, Credential, CredentialRequest, EndReason, FailureKind, Outcome, Phase, PublicKey, PublicKeys,
    RentalEvent, RentalState, Term,
};
use gpurent_core::runtime::RuntimeError;
use gpurent_core::store::{Change, StoreError};
use jiff::SignedDuration;
use world::{World, mins, password, term};

#[test]
fn an_extension_moves_the_end_and_is_billed() {
    let mut world = World::new();
    let id = world.rent();
    let before = world.get(id).expires_at().unwrap();
    let extended = world.extend(id, TermExtension::By(term("30m"))).unwrap();
    assert_eq!(extended.expires_at().unwrap(), before + mins(30));
    assert_eq!(
        world.extend(id, TermExtension::To(term("90m"))).unwrap().revision(),
        extended.revision(),
        "it is so already"
    );
    world.advance(mins(89));
    assert_eq!(world.get(id).state().phase(), Phase::Ready);
    world.advance(mins(1));
    let rental = world.get(id);
    assert_eq!(rental.state().end_reason(), Some(&EndReason::Expired));
    assert_eq!(rental.exit().unwrap().finished_at, before + mins(30));
}

#[test]
fn what_cannot_be_extended_says_why() {
    let mut world = World::new();
    let id = world.rent();
    assert!(matches!(world.extend(id, TermExtension::To(term("59m"))), Err(ExtendError::Invalid(_))));
    assert!(matches!(world.extend(id, TermExtension::By(term("366d"))), Err(ExtendError::Invalid(_))));
    world.pool.run_until(world.rentals.cancel(id)).unwrap();
    assert!(matches!(world.extend(id, TermExtension::By(term("1h"))), Err(ExtendError::Over)));
    world.pool.run_until_stalled();
    let mut request = world.request();
    request.spec.term = Term::OpenEnded;
    let open = world.rent_so(request);
    assert!(matches!(world.extend(open, TermExtension::By(term("1h"))), Err(ExtendError::OpenEnded)));
    // Paid time that is over stays over, also where the engine cannot be stopped yet.
    world.pool.run_until(world.rentals.cancel(open)).unwrap();
    world.pool.run_until_stalled();
    let late = world.rent();
    world.runtime.set_available(false);
    world.store.set_hanging(true);
    world.clock.advance(mins(61));
    world.pool.run_until_stalled();
    world.store.set_hanging(false);
    assert!(matches!(world.extend(late, TermExtension::By(term("1h"))), Err(ExtendError::Over)));
}

#[test]
fn the_renter_is_warned_told_of_an_extension_and_warned_again() {
    let mut world = World::new();
    let id = world.rent();
    world.advance(mins(55));
    let warning = world.announced(id);
    assert!(warning.len() == 1 && warning[0].contains("in 5 minutes"), "{warning:?}");
    world.extend(id, TermExtension::By(term("30m"))).unwrap();
    let withdrawn = world.announced(id);
    assert!(withdrawn.len() == 2 && withdrawn[1].contains("was extended"), "{withdrawn:?}");
    world.advance(mins(30));
    assert_eq!(world.announced(id).len(), 3);
    let told = world.events_of(id);
    assert_eq!(told[4..], ["warned", "extended", "warning_withdrawn", "warned"]);
}

#[test]
fn a_warning_that_does_not_arrive_holds_nothing_up() {
    let mut world = World::new();
    let id = world.rent();
    world.runtime.fail_next(RuntimeStep::MessageUser, InjectedFault::Hang);
    world.advance(mins(55));
    assert!(!world.events_of(id).contains(&"warned"));
    world.advance(SignedDuration::from_secs(5));
    assert!(world.events_of(id).contains(&"warned"), "the platform hears of it all the same");
    world.advance(mins(5));
    assert_eq!(world.get(id).state().phase(), Phase::Ended);
}

#[test]
fn a_changed_credential_reaches_the_container() {
    let mut world = World::new();
    let id = world.rent();
    let first = Credential::Password(password("first-password"));
    assert!(world.lets_in(id, &first));
    let second = world.change_access(id, "second-password");
    assert!(world.lets_in(id, &second) && !world.lets_in(id, &first));
    assert!(!world.get(id).access_outdated());
    assert_eq!(world.events_of(id)[4..], ["access_changed", "access_applied"]);
}

#[test]
fn a_credential_is_changed_until_the_container_has_taken_it() {
    for fault in [
        InjectedFault::Before(RuntimeError::Refused("no room".into())),
        InjectedFault::After(RuntimeError::Unavailable("lost".into())),
        InjectedFault::Panic,
    ] {
        let mut world = World::new();
        let id = world.rent();
        world.runtime.fail_next(RuntimeStep::ReplaceAccess, fault);
        let second = world.change_access(id, "second-password");
        assert!(world.get(id).access_outdated());
        world.advance(SignedDuration::from_secs(20));
        assert!(world.lets_in(id, &second) && !world.get(id).access_outdated());
        assert_eq!(world.get(id).state().phase(), Phase::Ready, "its renter keeps it meanwhile");
    }
}

#[test]
fn a_container_that_does_not_take_a_credential_is_ended_in_time() {
    let mut world = World::new();
    let id = world.rent();
    world.runtime.fail_next(RuntimeStep::ReplaceAccess, InjectedFault::Hang);
    world.change_access(id, "second-password");
    world.advance(mins(60));
    assert_eq!(world.get(id).state().end_reason(), Some(&EndReason::Expired));
}

#[test]
fn a_credential_changed_on_the_way_up_is_what_the_container_gets() {
    for step in [RuntimeStep::Prepare, RuntimeStep::Create, RuntimeStep::Start, RuntimeStep::Verify] {
        let mut world = World::new();
        world.runtime.fail_next(step, InjectedFault::After(RuntimeError::Unavailable("lost".into())));
        let id = world.rent();
        assert_ne!(world.get(id).state().phase(), Phase::Ready, "{step:?}");
        let second = world.change_access(id, "second-password");
        world.advance(SignedDuration::from_secs(20));
        assert_eq!(world.get(id).state().phase(), Phase::Ready, "{step:?}");
        assert!(world.lets_in(id, &second), "{step:?}");
    }
}

#[test]
fn an_image_is_pinned_before_its_container_is_made() {
    let mut world = World::new();
    let mut request = world.request();
    request.spec.pin_image = true;
    let id = world.rent_so(request);
    assert_eq!(world.events_of(id)[..3], ["claimed", "pinned", "created"]);
    assert!(world.get(id).pinned().is_some());
}

#[test]
fn a_follower_hears_each_event_once_from_wherever_it_begins() {
    let mut world = World::new();
    let mut early = world.rentals.follow(Position::ZERO);
    let id = world.rent();
    let mut late = world.rentals.follow(Position::new(2));
    world.pool.run_until(world.rentals.cancel(id)).unwrap();
    world.pool.run_until_stalled();
    let mut read = |follower: &mut gpurent_core::host::Follower, n: usize| {
        let mut positions = Vec::new();
        while positions.len() < n {
            if let gpurent_core::host::Followed::Entry(entry) = world.pool.run_until(follower.next()).unwrap() {
                positions.push(entry.position.get());
            }
        }
        positions
    };
    assert_eq!(read(&mut early, 7), (1..=7).collect::<Vec<_>>());
    assert_eq!(read(&mut late, 5), (3..=7).collect::<Vec<_>>());
    assert_eq!(world.rentals.last_position(), Some(Position::new(7)));
}

#[test]
fn a_rental_of_a_lost_engine_is_ended_by_force() {
    let mut world = World::new();
    let id = world.rent();
    let (store, now) = (world.store.clone(), world.clock.now().wall);
    let engine = world.runtime.clone();
    let there = world.pool.run_until(force_end(&*store, Some(&engine), id, now, now));
    assert!(matches!(there, Err(ForceEndError::ContainerThere(_))), "{there:?}");
    assert_eq!(world.get(id).state().phase(), Phase::Ready);
    world.runtime.set_available(false);
    let silent = world.pool.run_until(force_end(&*store, Some(&engine), id, now, now));
    assert!(matches!(silent, Err(ForceEndError::Engine(_))), "{silent:?}");
    let started = world.get(id).started_at().unwrap();
    world.advance(mins(10));
    let (store, now) = (world.store.clone(), world.clock.now().wall);
    let ended = world.pool.run_until(force_end(&*store, None, id, started + mins(3), now)).unwrap().unwrap();
    assert_eq!(ended.segments()[0].ended_at, Some(started + mins(3)));
    assert_eq!(ended.state().phase(), Phase::Ended);
    let held = world.pool.run_until(world.rentals.held()).unwrap();
    assert!(held.gpus.is_empty() && held.ports.is_empty());
    let again = world.pool.run_until(force_end(&*store, None, id, now, now)).unwrap().unwrap();
    assert_eq!(again.segments(), ended.segments(), "once");
    assert_eq!(world.events_of(id).last(), Some(&RentalEvent::Ended.name()));
}

#[test]
fn a_container_that_never_takes_a_credential_does_not_run_unpaid_for_ever() {
    let mut world = World::new();
    for _ in 0..100 {
        world.runtime.fail_next(RuntimeStep::ReplaceAccess, InjectedFault::Before(RuntimeError::Refused("no".into())));
    }
    world.runtime.fail_next(RuntimeStep::Verify, InjectedFault::Before(RuntimeError::Unavailable("busy".into())));
    let id = world.rent();
    assert_eq!(world.get(id).state().phase(), Phase::Running);
    world.change_access(id, "second-password");
    for _ in 0..120 {
        world.advance(SignedDuration::from_secs(1));
    }
    let ended = world.get(id);
    assert_eq!(ended.state().phase(), Phase::Ended);
    assert!(matches!(ended.state().end_reason(), Some(EndReason::Failed(_))), "{:?}", ended.state());
}

#[test]
fn whoever_writes_often_keeps_nothing_from_being_recorded() {
    let mut world = World::new();
    world.store.interfere(|rental| {
        // Another process changes the credential before every write of the reconciler.
        let mut change = Change::intent(rental);
        let kind = gpurent_core::model::CredentialKind::Password;
        let at = jiff::Timestamp::UNIX_EPOCH;
        change.apply(RentalEvent::AccessChanged { credential: kind }, at).is_ok().then_some(change)
    });
    let id = world.rent();
    for _ in 0..60 {
        world.advance(SignedDuration::from_secs(1));
    }
    assert_eq!(world.get(id).state().phase(), Phase::Ready, "it is paid for");
    world.advance(mins(60));
    assert_eq!(world.get(id).state().end_reason(), Some(&EndReason::Expired));
}

#[test]
fn an_extension_that_comes_before_the_record_of_the_end_is_kept() {
    let mut world = World::new();
    let id = world.rent();
    let clock = world.clock.clone();
    world.store.interfere(move |rental| {
        // Another process has it extended when its time is over, and nobody has written so.
        let over = rental.time_left(&clock.now()).is_some_and(|left| !left.is_positive());
        let mut change = Change::intent(rental);
        let extended = RentalEvent::Extended { term: term("2h") };
        (over && change.apply(extended, clock.now().wall).is_ok_and(|outcome| outcome == Outcome::Changed))
            .then_some(change)
    });
    // The warning is the write before that one.
    world.advance(mins(55));
    world.advance(mins(5));
    world.advance(SignedDuration::from_secs(30));
    assert_eq!(world.get(id).state().phase(), Phase::Ready, "{:?}", world.events_of(id));
    assert!(world.events_of(id).contains(&"extended"));
    world.advance(mins(60));
    let ended = world.get(id);
    assert_eq!(ended.state().end_reason(), Some(&EndReason::Expired));
    assert_eq!(ended.used_before(), mins(120));
}

#[test]
fn what_came_up_after_all_is_ended_by_no_failure_of_its_launch() {
    let mut world = World::new();
    let clock = world.clock.clone();
    world
        .runtime
        .fail_next(RuntimeStep::Verify, InjectedFault::Before(RuntimeError::AccessTimeout(mins(1).unsigned_abs())));
    world.store.interfere(move |rental| {
        // The record of an earlier verification arrives late.
        let is_up = matches!(rental.state(), RentalState::Running);
        let mut change = Change::intent(rental);
        let verified = RentalEvent::Verified { paid_from: clock.now() };
        (is_up && change.apply(verified, clock.now().wall).is_ok()).then_some(change)
    });
    let id = world.rent();
    world.advance(mins(1));
    assert_eq!(world.get(id).state().phase(), Phase::Ready, "{:?}", world.events_of(id));
    world.advance(mins(60));
    assert_eq!(world.get(id).state().end_reason(), Some(&EndReason::Expired));
}

#[test]
fn what_happened_to_one_container_is_not_recorded_of_another() {
    let mut world = World::new();
    world.store.interfere(|rental| {
        // Another process finds a later launch while the first one is verified.
        let is_verified = matches!(rental.state(), RentalState::Running) && rental.attempt() == Attempt::new(1);
        let found = Adoption {
            attempt: rental.attempt().next(),
            container: "another".to_owned().try_into().unwrap(),
            ports: rental.ports().to_vec(),
            gpus_attached: true,
            started_at: rental.started_at(),
            claim: Box::new(rental.claim()),
        };
        let mut change = Change::intent(rental);
        let adopted = change.apply(RentalEvent::Adopted(Box::new(found)), jiff::Timestamp::UNIX_EPOCH);
        (is_verified && adopted.is_ok()).then_some(change)
    });
    let id = world.rent();
    world.advance(mins(5));
    let told = world.events_of(id);
    assert!(told.contains(&"adopted") && !told.contains(&"verified"), "{told:?}");
    assert_eq!(world.get(id).used_before(), SignedDuration::ZERO, "nobody pays for what nobody has seen");
}

#[test]
fn a_credential_that_is_not_taken_holds_up_neither_warning_nor_notice_nor_end() {
    let mut world = World::new();
    let id = world.rent();
    for _ in 0..1000 {
        world.runtime.fail_next(RuntimeStep::ReplaceAccess, InjectedFault::Before(RuntimeError::Refused("no".into())));
    }
    world.change_access(id, "second-password");
    let expires = world.get(id).expires_at().unwrap();
    for _ in 0..3700 {
        world.advance(SignedDuration::from_secs(1));
    }
    let ended = world.get(id);
    assert_eq!(ended.state().end_reason(), Some(&EndReason::Expired));
    assert_eq!(ended.exit().unwrap().finished_at, expires, "to the second");
    let told = world.events_of(id);
    assert!(told.contains(&"warned") && told.contains(&"notified"), "{told:?}");
}

#[test]
fn an_extension_in_the_last_moment_is_refused() {
    let mut world = World::new();
    let id = world.rent();
    world.advance(mins(60) - SignedDuration::from_millis(500));
    assert!(matches!(world.extend(id, TermExtension::By(term("1h"))), Err(ExtendError::Over)));
    world.advance(mins(1));
    let late = world.rentals.change_access(id, CredentialRequest::Generate);
    assert!(world.pool.run_until(late).is_err());
}

/// A key of one's own making, by its last byte.
fn key(last: u8) -> PublicKey {
    let mut bytes = vec![0, 0, 0, 11];
    bytes.extend(b"ssh-ed25519");
    bytes.extend([0, 0, 0, 32]);
    bytes.extend([7; 31]);
    bytes.push(last);
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text: String = bytes
        .chunks(3)
        .flat_map(|chunk| {
            let number = chunk.iter().fold(0usize, |number, byte| number << 8 | usize::from(*byte));
            [18, 12, 6, 0].map(|shift| char::from(LETTERS[number >> shift & 63]))
        })
        .collect();
    format!("ssh-ed25519 {text}").parse().unwrap()
}

#[test]
fn keys_are_added_and_removed_and_the_last_one_stays() {
    let mut world = World::new();
    let id = world.rent();
    let by_password = world.pool.run_until(world.rentals.add_key(id, key(1)));
    assert!(matches!(by_password, Err(ChangeAccessError::ByPassword)));
    let keys = CredentialRequest::PublicKeys(key(1).into());
    world.pool.run_until(world.rentals.change_access(id, keys)).unwrap();
    let seen = world.get(id).revision();
    world.pool.run_until(world.rentals.add_key(id, key(2))).unwrap();
    world.advance(SignedDuration::from_secs(1));
    let both = Credential::PublicKeys(PublicKeys::new([key(1), key(2)]).unwrap());
    assert!(world.lets_in(id, &both), "the container has both");
    let before = world.get(id).revision();
    world.pool.run_until(world.rentals.add_key(id, key(2))).unwrap();
    assert_eq!(world.get(id).revision(), before, "it lets in already");
    let outdated = world.rentals.only_at(seen);
    let refused = world.pool.run_until(outdated.add_key(id, key(2)));
    assert!(matches!(refused, Err(ChangeAccessError::Store(StoreError::Conflict))), "seen as it was, it is another");
    world.pool.run_until(world.rentals.remove_key(id, &key(1).fingerprint())).unwrap();
    world.advance(SignedDuration::from_secs(1));
    assert!(world.lets_in(id, &Credential::PublicKeys(key(2).into())));
    let last = world.pool.run_until(world.rentals.remove_key(id, &key(2).fingerprint()));
    assert!(matches!(last, Err(ChangeAccessError::Invalid(_))), "{last:?}");
}

#[test]
fn a_renter_has_so_many_workspaces_which_outlive_rentals() {
    use gpurent_core::allocation::{PlacementError, TooMany};
    use gpurent_core::host::RentError;
    use gpurent_core::model::{MountPath, Workspace, WorkspaceFolder};
    let mut world = World::with(|host| host.offer_workspaces());
    let mut rent = |name: &str, renter: &str| {
        let mut request = world.request();
        request.spec.renter = renter.parse().unwrap();
        let folder = WorkspaceFolder::named(&request.spec.renter, &name.parse().unwrap());
        request.spec.workspace = Some(Workspace { folder, mount: MountPath::default() });
        let claimed = world.pool.run_until(world.rentals.rent(request));
        world.pool.run_until_stalled();
        if let Ok(claimed) = &claimed {
            world.pool.run_until(world.rentals.cancel(claimed.rental().id())).unwrap();
            world.pool.run_until_stalled();
        }
        claimed.map(drop)
    };
    for n in 1..=4 {
        rent(&format!("w{n}"), "me").unwrap();
    }
    let fifth = rent("w5", "me");
    assert!(matches!(fifth, Err(RentError::NotPlaced(PlacementError::TooMany(TooMany::Workspaces(4))))), "{fifth:?}");
    rent("w3", "me").unwrap();
    rent("w5", "me-too").unwrap();
}

#[test]
fn a_rental_that_waits_says_for_what_and_so_does_its_end() {
    let mut world = World::new();
    let image = world.request().spec.image;
    let busy = || RuntimeError::RegistryUnavailable { image: image.clone(), source: "it is asked too often".into() };
    for _ in 0..1000 {
        world.runtime.fail_next(RuntimeStep::Prepare, InjectedFault::Before(busy()));
    }
    let id = world.rent();
    world.advance(mins(1));
    let waits = world.rentals.waiting(id).expect("it does not get on");
    assert!(waits.message.contains("asked too often") && waits.failures > 1, "{waits:?}");
    assert_eq!(waits.since, world.get(id).created_at());
    for _ in 0..60 {
        world.advance(mins(2));
    }
    let ended = world.get(id);
    let Some(EndReason::Failed(failure)) = ended.state().end_reason() else { panic!("{:?}", ended.state()) };
    assert_eq!(failure.kind, FailureKind::DeadlineExceeded);
    assert!(failure.detail.contains("asked too often"), "{}", failure.detail);
    assert_eq!(world.rentals.waiting(id), None, "what is over waits for nothing");
}

#[test]
fn what_an_engine_says_is_not_told_to_renters() {
    let mut world = World::new();
    world
        .runtime
        .fail_next(RuntimeStep::Create, InjectedFault::Before(RuntimeError::Unavailable("dial 10.0.0.7".into())));
    let id = world.rent();
    let waits = world.rentals.waiting(id).expect("it is tried again");
    assert_eq!(waits.message, "the container engine does not answer");
    world.advance(mins(1));
    assert_eq!(world.rentals.waiting(id), None);
}

#[test]
fn a_gpu_on_which_a_launch_failed_is_given_out_last() {
    let mut world = World::with_gpus(2);
    world
        .runtime
        .fail_next(RuntimeStep::Start, InjectedFault::Before(RuntimeError::Refused("the card fell off".into())));
    let failed = world.rent();
    assert_eq!(world.get(failed).state().phase(), Phase::Ended);
    let suspect = world.get(failed).gpus()[0].uuid.clone();
    let next = world.rent();
    assert_ne!(world.get(next).gpus()[0].uuid, suspect, "a sibling is free");
    let last = world.rent();
    assert_eq!(world.get(last).gpus()[0].uuid, suspect, "better than none");
    assert_eq!(world.get(last).state().phase(), Phase::Ready, "it is trusted again");
    for id in [next, last] {
        world.pool.run_until(world.rentals.cancel(id)).unwrap();
        world.pool.run_until_stalled();
    }
    let again = world.rent();
    assert_eq!(world.get(again).gpus()[0].uuid, world.gpu());
}

#[test]
fn nothing_is_claimed_while_the_engine_is_known_to_be_away() {
    let mut world = World::with_gpus(2);
    let mut named = world.request();
    named.spec.name = Some("mine".parse().unwrap());
    let there = world.rent_so(named.clone());
    world.runtime.set_available(false);
    world.advance(mins(1));
    assert_eq!(world.rentals.engine_health(), EngineHealth::Silent);
    let request = world.request();
    let refused = world.pool.run_until(world.rentals.rent(request.clone()));
    assert!(matches!(refused, Err(RentError::NotPlaced(PlacementError::EngineUnavailable))), "{refused:?}");
    let again = world.pool.run_until(world.rentals.rent(named)).unwrap();
    assert_eq!(again.rental().id(), there, "what there is is told");
    world.runtime.set_available(true);
    world.advance(mins(1));
    let id = world.rent_so(request);
    assert_eq!(world.get(id).state().phase(), Phase::Ready);
}

#[test]
fn an_engine_that_hangs_is_told_of_after_ten_seconds() {
    let mut world = World::new();
    world.runtime.fail_next(RuntimeStep::Observe, InjectedFault::Hang);
    for _ in 0..30 {
        world.advance(jiff::SignedDuration::from_secs(1));
        if world.rentals.engine_health() == EngineHealth::Silent {
            return;
        }
    }
    panic!("it is believed to answer");
}

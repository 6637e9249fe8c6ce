//! The limits of one renter, as every store keeps them.

use std::sync::Arc;

use crate::allocation::{PlacementError, RenterHas, RenterLimits, TooMany};
use crate::model::{EndReason, Failure, FailureKind, GpuRequest, RentalEvent};
use crate::store::{ClaimError, HostStore};
use crate::testing::store_suite::bench::{Bench, at, moment, valid, whole_life};

/// Containers without a GPU have their places, as cards are places of others: the next one is free when one has ended or is
/// suspended.
pub async fn there_are_so_many_places_without_a_gpu<S: HostStore>(store: Arc<S>) {
    let mut bench = Bench::new(store);
    bench.placement.without_gpu = 2;
    let request = |name: &str| {
        let mut request = bench.request(name);
        request.spec.gpu = None;
        request
    };
    let mut made = Vec::new();
    for name in ["one", "two"] {
        let request = request(name);
        made.push(valid(bench.claim(&request).await).rental().clone());
    }
    let third = request("three");
    let refused = bench.claim(&third).await;
    assert!(matches!(refused, Err(ClaimError::NotPlaced(PlacementError::NoPlaceWithoutGpu))), "{refused:?}");
    assert_eq!(valid(bench.store.held(&bench.host).await).without_gpu, 2);
    bench.claimed("with-a-gpu").await;
    let owner = bench.owner().await;
    bench.live_through(made.remove(0), owner, whole_life()).await;
    valid(bench.claim(&third).await);
    assert_eq!(valid(bench.store.held(&bench.host).await).without_gpu, 2);
}

/// A renter who has as much as one may have gets nothing, and everybody else what is free. What is refused leaves no trace.
pub async fn one_renter_has_no_more_than_one_may<S: HostStore>(store: Arc<S>) {
    let mut bench = Bench::with_gpus(store, 8);
    let too_many = |result| match result {
        Err(ClaimError::NotPlaced(PlacementError::TooMany(limit))) => limit,
        other => panic!("a limit is reached: {other:?}"),
    };
    bench.placement.renter_limits = RenterLimits { live: 3, unready: 2, ..RenterLimits::default() };
    let one = bench.claimed("one").await;
    bench.claimed("two").await;
    assert_eq!(too_many(bench.claim(&bench.request("three")).await), TooMany::Unready(2));
    let mut of_another = bench.request("another");
    of_another.spec.renter = valid("another".parse());
    valid(bench.claim(&of_another).await);
    bench.placement.renter_limits = RenterLimits { live: 2, unready: 9, ..RenterLimits::default() };
    assert_eq!(too_many(bench.claim(&bench.request("three")).await), TooMany::Live(2));
    bench.placement.renter_limits = RenterLimits { gpus: Some(3), ..RenterLimits::default() };
    let mut two_gpus = bench.request("three");
    two_gpus.spec.gpu = Some(valid(GpuRequest::new(valid("RTX 5090".parse()), 2)));
    assert_eq!(too_many(bench.claim(&two_gpus).await), TooMany::Gpus(3));
    bench.claimed("three").await;
    let renter = &one.spec().renter;
    let has = valid(bench.store.renter_has(&bench.host, renter, at(0)).await);
    assert_eq!(has, RenterHas { live: 3, unready: 3, gpus: 3, ..RenterHas::default() });
    assert_eq!(valid(bench.store.live(&bench.host).await).len(), 4, "what was refused left no trace");
    let nobody = valid(bench.store.renter_has(&bench.host, &valid("nobody".parse()), at(0)).await);
    assert_eq!(nobody, RenterHas::default());
}

/// A rental that was never paid for counts against its renter for three hours, one that was does not.
pub async fn what_came_to_nothing_counts_for_a_while<S: HostStore>(store: Arc<S>) {
    let mut bench = Bench::with_gpus(store, 8);
    let owner = bench.owner().await;
    bench.live_through(bench.claimed("paid").await, owner, whole_life()).await;
    bench.placement.renter_limits = RenterLimits { in_vain: 1, ..RenterLimits::default() };
    let in_vain = bench.claimed("in-vain").await;
    let given_up = vec![
        RentalEvent::EndBegan { reason: EndReason::Cancelled },
        RentalEvent::Stopped { exit: None, ended: None },
        RentalEvent::Ended,
    ];
    bench.live_through(in_vain.clone(), owner, given_up).await;
    let failure = Failure { kind: FailureKind::PortTaken, detail: String::new(), log_tail: Vec::new() };
    let by_the_host = vec![
        RentalEvent::EndBegan { reason: EndReason::Failed(failure) },
        RentalEvent::Stopped { exit: None, ended: None },
        RentalEvent::Ended,
    ];
    bench.placement.renter_limits = RenterLimits { in_vain: 9, ..RenterLimits::default() };
    bench.live_through(bench.claimed("by-the-host").await, owner, by_the_host).await;
    bench.placement.renter_limits = RenterLimits { in_vain: 1, ..RenterLimits::default() };
    let has = valid(bench.store.renter_has(&bench.host, &in_vain.spec().renter, at(-1)).await);
    assert_eq!(has, RenterHas { in_vain: 1, ..RenterHas::default() });
    let mut next = bench.request("next");
    let refused = bench.claim(&next).await;
    assert!(matches!(refused, Err(ClaimError::NotPlaced(PlacementError::TooMany(TooMany::InVain(1))))), "{refused:?}");
    next.at = moment(3 * 3600);
    valid(bench.claim(&next).await);
}

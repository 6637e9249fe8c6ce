//! What becomes of a rental that fills the host's disk.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod world;

use gpurent_core::allocation::DiskLimit;
use gpurent_core::id::RentalId;
use gpurent_core::model::{Blame, DiskUse, EndReason, Phase};
use jiff::SignedDuration;
use world::World;

const MIB: u64 = 1024 * 1024;

/// A host on which a rental may write 1000 MiB, and one that is ready there.
fn host() -> (World, RentalId) {
    let mut world = World::with(|host| host.limit_disk(DiskLimit::PerGpu(DiskUse { bytes: 1000 * MIB, files: 1000 })));
    let id = world.rent();
    (world, id)
}

impl World {
    /// The tenant has so much on the disk, and is looked at.
    fn writes(&mut self, id: RentalId, mib: u64) -> Phase {
        let launch = self.get(id).launch();
        self.runtime.write(launch, DiskUse { bytes: mib * MIB, files: 7 });
        self.advance(SignedDuration::from_secs(15));
        self.get(id).state().phase()
    }
}

#[test]
fn who_fills_the_disk_is_warned_and_then_ended() {
    let (mut world, id) = host();
    assert_eq!(world.writes(id, 850), Phase::Ready);
    assert!(!world.events_of(id).contains(&"disk_warned"));
    assert_eq!(world.writes(id, 950), Phase::Ready);
    let announced = world.announced(id);
    assert!(announced[0].contains("0.9 GiB of 0.9 GiB") && announced[0].contains("Make room"), "{announced:?}");
    assert_eq!(world.writes(id, 1010), Phase::Ready, "one look may be wrong");
    assert_eq!(world.events_of(id).iter().filter(|event| **event == "disk_warned").count(), 1, "once an hour");
    assert_eq!(world.writes(id, 1011), Phase::Ended);
    let rental = world.get(id);
    let reason = rental.state().end_reason().unwrap();
    assert!(matches!(reason, EndReason::DiskFull { used, .. } if used.bytes == 1011 * MIB), "{reason:?}");
    assert_eq!(reason.fault(), Blame::Renter);
    assert_eq!(rental.bill(jiff::Timestamp::MAX).used_micros, 60 * 1_000_000, "up to its end");
}

#[test]
fn nobody_is_ended_for_what_was_there_nor_while_making_room() {
    let (mut world, id) = host();
    world.pool.run_until(world.rentals.cancel(id)).unwrap();
    world.pool.run_until_stalled();
    // The next one finds a full workspace, as soon as it runs.
    world.runtime.find_written(DiskUse { bytes: 1500 * MIB, files: 7 });
    let id = world.rent();
    assert_eq!(world.writes(id, 1500), Phase::Ready);
    assert_eq!(world.writes(id, 1520), Phase::Ready, "it works a little");
    assert_eq!(world.writes(id, 1200), Phase::Ready, "and makes room");
    assert_eq!(world.events_of(id).iter().filter(|event| **event == "disk_warned").count(), 1);
    assert_eq!(world.writes(id, 1600), Phase::Ready, "one look may be wrong");
    assert_eq!(world.writes(id, 1600), Phase::Ended, "writes on");
}

#[test]
fn an_engine_that_does_not_tell_ends_nobody() {
    use gpurent_core::memory::{InjectedFault, RuntimeStep};
    use gpurent_core::runtime::RuntimeError;
    let (mut world, id) = host();
    assert_eq!(world.writes(id, 1100), Phase::Ready);
    world.runtime.fail_next(RuntimeStep::DiskUse, InjectedFault::Before(RuntimeError::Unavailable("busy".into())));
    assert_eq!(world.writes(id, 1100), Phase::Ready);
    assert_eq!(world.writes(id, 1100), Phase::Ended, "as at the look before");
}

//! Outages that the simulation has planned: until when nothing can be expected.

use crate::testing::simulation::environment::{Environment, HostNo};
use crate::testing::simulation::fault_point::{FaultPoint, SimFault};
use crate::testing::simulation::oracle::Oracle;

impl Oracle {
    pub(in crate::testing::simulation) fn store_is_away(&mut self, now: i64, lasts: i64) {
        self.store_away_until = now + lasts;
        self.nobody_looks(lasts);
    }

    pub(in crate::testing::simulation) fn store_hangs(&mut self, now: i64, lasts: i64) {
        self.store_hangs_until = now + lasts;
        self.nobody_looks(lasts);
    }

    /// Without the store nobody acts for a host, nor looks at what runs there.
    pub(super) fn nobody_looks(&mut self, lasts: i64) {
        for host in &mut self.hosts {
            // The lease is to be had again, too.
            host.unattended += lasts + 5_000_000;
        }
    }

    pub(in crate::testing::simulation) fn engine_is_away(&mut self, host: HostNo, now: i64, lasts: i64) {
        self.hosts[host].engine_away_until = now + lasts;
        self.hosts[host].unattended += lasts;
    }

    pub(in crate::testing::simulation) fn disk_is_full(&mut self, host: HostNo, now: i64, until: i64) {
        self.hosts[host].disk_full_until = until;
        // Nothing that is seen meanwhile is written down.
        self.hosts[host].unattended += until - now;
    }

    /// The outage in which nobody gets an answer at the moment.
    pub(in crate::testing::simulation) fn outage(
        &self,
        environment: &Environment,
        point: FaultPoint,
        host: HostNo,
    ) -> Option<SimFault> {
        let now = environment.now();
        if environment.is_calm() {
            return None;
        }
        if point.is_store() {
            if now < self.store_hangs_until {
                // A driver gives up after five seconds; what was sent may still be carried out.
                let lasts = (self.store_hangs_until - now).min(5_000_000);
                return Some(if self.store_hangs_until % 2 == 0 {
                    SimFault::Hang(lasts)
                } else {
                    SimFault::HangAfter(lasts)
                });
            }
            return (now < self.store_away_until).then_some(SimFault::Before);
        }
        let host = &self.hosts[host];
        match point {
            FaultPoint::ReadBook => None,
            FaultPoint::WriteBook => (now < host.disk_full_until).then_some(SimFault::Before),
            _ => (now < host.engine_away_until).then_some(SimFault::Before),
        }
    }
}

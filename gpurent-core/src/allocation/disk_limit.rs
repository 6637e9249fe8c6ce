//! Disk space: how much of it renters share, what one rental may write, and when one is warned or stopped because of it.
//!
//! An engine limits memory and CPUs by itself, disk space as a rule not: what a tenant writes into the container and the
//! workspace is measured again and again, and compared with the part of the disk that is theirs. A rental is never ended for
//! what was there when it was first looked at, nor while it makes room, nor by one look alone, which may have counted a file
//! twice that was moved meanwhile.

use crate::allocation::Part;
use crate::model::DiskUse;

impl DiskUse {
    /// The part of it that somebody has.
    fn part(self, part: Part) -> Self {
        Self { bytes: part.of(self.bytes), files: part.of(self.files) }
    }

    /// A percentage of both numbers.
    fn percent(self, percent: u64) -> Self {
        let of = |whole: u64| u64::try_from(u128::from(whole) * u128::from(percent) / 100).unwrap_or(whole);
        self.map(Self::default(), |whole, _| if whole == u64::MAX { whole } else { of(whole) })
    }
}

/// The disk space of a rental, by where it lies: used, or allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The container's layer, and the volumes of its image.
    pub container: DiskUse,
    /// The workspace.
    pub workspace: DiskUse,
}

impl Written {
    /// The most there can be; stands for no limit.
    pub const MAX: Self = Self { container: DiskUse::MAX, workspace: DiskUse::MAX };

    /// The sum of both places.
    #[must_use]
    pub fn sum(self) -> DiskUse {
        self.container.plus(self.workspace)
    }
}

/// The space that all rentals of a machine have together: what its disks hold, less what is kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRoom {
    /// Space on the engine's disk.
    pub containers: DiskUse,
    /// Space on the workspaces' disk, where that is another one.
    pub workspaces: Option<DiskUse>,
}

/// How much a rental may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskLimit {
    /// No limit.
    #[default]
    None,
    /// The part of this room that is its GPUs' part of the machine.
    Part(DiskRoom),
    /// A fixed amount for each GPU of the rental; a rental without one has it once.
    PerGpu(DiskUse),
}

/// The limits of one rental, each for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    container: DiskUse,
    /// `None` where both are on one disk, and are counted together.
    workspace: Option<DiskUse>,
}

impl DiskLimit {
    /// The limits of a rental that has this part of the machine; `None` where there are none.
    #[must_use]
    pub fn allowed(self, part: Part) -> Option<Allowed> {
        match self {
            Self::None => None,
            Self::Part(room) => Some(Allowed {
                container: room.containers.part(part),
                workspace: room.workspaces.map(|room| room.part(part)),
            }),
            Self::PerGpu(each) => {
                let times = |each: u64| each.saturating_mul(part.count());
                let container = DiskUse { bytes: times(each.bytes), files: times(each.files) };
                Some(Allowed { container, workspace: None })
            }
        }
    }
}

/// How much beyond what was found in it one may write in a workspace that is full, in hundredths of the limit: to make room
/// one has to be able to work.
const FULL_WORKSPACE_ALLOWANCE: u64 = 5;

/// A rental's first look counts no further than so many times its limit.
const UNCOUNTED: u64 = 4;

/// The warning's threshold, in hundredths of the limit.
const WARN: u64 = 90;

/// A verdict on a rental's use of the disk: what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// The renter is told.
    Warn,
    /// The rental ends.
    Stop,
}

/// The former looks at a rental's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// When it was looked at for the first time.
    pub first: Written,
    /// The last time.
    pub last: Written,
}

impl Before {
    /// The first look. A number that was not [counted](Allowed::most_counted) to its end stands as the most there can be,
    /// and nobody is ended by it, until a later look gets there.
    #[must_use]
    pub fn first(used: Written, most: Written) -> Self {
        Self { first: Written::MAX, last: Written::default() }.again(used, most)
    }

    /// The looks with one more, which counted to `most`.
    #[must_use]
    pub fn again(self, used: Written, most: Written) -> Self {
        let found = |first: DiskUse, used: DiskUse, most: DiskUse| {
            let counted = used.map(most, |used, most| if used < most { used } else { u64::MAX });
            first.map(counted, |first, counted| if first < u64::MAX { first } else { counted })
        };
        let first = Written {
            container: found(self.first.container, used.container, most.container),
            workspace: found(self.first.workspace, used.workspace, most.workspace),
        };
        Self { first, last: used }
    }

    /// The same look at a container whose rental wrote everything in it, before it was suspended: that counts.
    #[must_use]
    pub fn with_a_container_of_its_own(self, allowed: &Allowed) -> Self {
        let first = Written { container: self.last.container.at_most(allowed.container), ..self.first };
        Self { first, ..self }
    }

    /// The same looks for other limits than the former: one keeps what one wrote within those.
    #[must_use]
    pub fn under_other_limits(self, former: &Allowed, used: Written) -> Self {
        let found = self.first.sum();
        if former.workspace.is_none() && (found.bytes == u64::MAX || found.files == u64::MAX) {
            // Nobody knows yet what was there in one of the places, and so not in both together.
            return Self { first: Written::MAX, last: self.last };
        }
        let on_each_disk = |written: Written| match former.workspace {
            Some(_) => written,
            None => Written { container: written.sum(), workspace: DiskUse::default() },
        };
        let (first, last, used) = (on_each_disk(self.first), on_each_disk(self.last), on_each_disk(used));
        let kept = |limit: DiskUse, which: fn(Written) -> DiskUse| {
            let within = [used, last].into_iter().map(which).find(|written| !written.exceeds(limit));
            which(first).map(within.unwrap_or_default(), u64::max)
        };
        let first = Written {
            container: kept(former.container, |written| written.container),
            workspace: kept(former.workspace.unwrap_or(DiskUse::MAX), |written| written.workspace),
        };
        Self { first, last }
    }
}

impl Allowed {
    /// The bytes that the container may have.
    #[must_use]
    pub fn container_bytes(&self) -> u64 {
        self.container.bytes
    }

    /// The limits of two rentals that share a workspace, together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        match (self.workspace, other.workspace) {
            (Some(own), Some(others)) => Self { workspace: Some(own.plus(others)), ..self },
            _ => Self { container: self.container.plus(other.container), ..self },
        }
    }

    /// The most that a look counts of a rental's files: who has more is told to have this. What was not counted to its end is counted
    /// twice as far the next time.
    #[must_use]
    pub fn most_counted(&self, before: Option<Before>) -> Written {
        let known = before.map_or(DiskUse::default(), |Before { first, last }| {
            let further = |first: u64, last: u64| if first < u64::MAX { first } else { last.saturating_mul(2) };
            first.sum().map(last.sum(), further)
        });
        let most = |limit: DiskUse| known.plus(limit.percent(100 * UNCOUNTED));
        Written { container: most(self.container), workspace: most(self.workspace.unwrap_or(self.container)) }
    }

    /// Judges what a rental has written, with the use and the limit that it is judged by.
    #[must_use]
    pub fn judge(&self, used: Written, before: Option<Before>) -> (Verdict, DiskUse, DiskUse) {
        let of = |limit: DiskUse, which: fn(Written) -> DiskUse| {
            let before = before.map(|before| (which(before.first), which(before.last)));
            (judge(which(used), before, limit), which(used), limit)
        };
        match self.workspace {
            None => of(self.container, Written::sum),
            Some(workspace) => {
                let of_container = of(self.container, |written| written.container);
                let of_workspace = of(workspace, |written| written.workspace);
                if of_workspace.0 > of_container.0 { of_workspace } else { of_container }
            }
        }
    }
}

/// Judges the use of one disk, of which a rental had so much when it was looked at for the first and for the last time.
fn judge(used: DiskUse, before: Option<(DiskUse, DiskUse)>, limit: DiskUse) -> Verdict {
    let stays_over = before.is_some_and(|(first, last)| {
        let allowed = first.plus(limit.percent(FULL_WORKSPACE_ALLOWANCE)).map(limit, u64::max);
        let over = |used: u64, last: u64, allowed: u64| {
            // To be far over is not to make room, however much is given back.
            let stays = used >= last || used.min(last) / 2 > allowed;
            used > allowed && last > allowed && stays
        };
        over(used.bytes, last.bytes, allowed.bytes) || over(used.files, last.files, allowed.files)
    });
    if stays_over {
        Verdict::Stop
    } else if used.exceeds(limit.percent(WARN)) {
        Verdict::Warn
    } else {
        Verdict::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::Division;

    const GIB: u64 = 1024 * 1024 * 1024;

    fn gib(bytes: u64) -> DiskUse {
        DiskUse { bytes: bytes * GIB, files: 10 }
    }

    /// Judged by a limit of 100 GiB and 1000 files, after so much at first and the last time.
    fn judged(used: u64, first: u64, last: u64) -> Verdict {
        judge(gib(used), Some((gib(first), gib(last))), DiskUse { bytes: 100 * GIB, files: 1000 })
    }

    #[test]
    fn who_stays_over_the_limit_is_ended() {
        assert_eq!(judged(90, 0, 80), Verdict::Fine);
        assert_eq!(judged(95, 0, 90), Verdict::Warn);
        assert_eq!(judged(120, 0, 60), Verdict::Warn, "one look may count twice what is being moved");
        assert_eq!(judged(130, 0, 120), Verdict::Stop);
        assert_eq!(judged(120, 0, 120), Verdict::Stop, "it makes no room");
        assert_eq!(judged(119, 0, 120), Verdict::Warn, "it makes room");
        assert_eq!(judged(299, 0, 300), Verdict::Stop, "a little, far beyond");
        let many = |files| DiskUse { bytes: 1, files };
        let limit = many(1000);
        assert_eq!(judge(many(1002), Some((many(1), many(1001))), limit), Verdict::Stop);
        assert_eq!(judge(many(950), Some((many(1), many(10))), limit), Verdict::Warn);
    }

    #[test]
    fn nobody_is_ended_for_what_was_there() {
        assert_eq!(judge(gib(500), None, gib(100)), Verdict::Warn);
        assert_eq!(judged(300, 300, 300), Verdict::Warn);
        assert_eq!(judged(304, 300, 303), Verdict::Warn, "to make room one has to work");
        assert_eq!(judged(309, 300, 308), Verdict::Stop, "it goes on writing");
        let allowed = Allowed { container: DiskUse { bytes: 100 * GIB, files: 1000 }, workspace: None };
        let all = |bytes| Written { container: gib(bytes), workspace: DiskUse::default() };
        let looked = |first, last| Before { last: all(last), ..Before::first(all(first), allowed.most_counted(None)) };
        assert_eq!(allowed.judge(all(800), Some(looked(399, 700))).0, Verdict::Stop);
        assert_eq!(allowed.judge(all(800), Some(looked(400, 700))).0, Verdict::Warn, "nobody knows what was there");
    }

    #[test]
    fn what_was_not_counted_to_its_end_is_counted_further_until_it_is() {
        let allowed = Allowed { container: DiskUse { bytes: 100 * GIB, files: 1000 }, workspace: None };
        let counted = |before: Option<Before>, there: u64| {
            let most = allowed.most_counted(before);
            let used = Written { container: gib(there).at_most(most.container), workspace: DiskUse::default() };
            let verdict = allowed.judge(used, before).0;
            (before.map_or_else(|| Before::first(used, most), |before| before.again(used, most)), verdict)
        };
        let (mut before, _) = counted(None, 3000);
        for _ in 0..8 {
            let (next, verdict) = counted(Some(before), 3000);
            assert_eq!(verdict, Verdict::Warn, "what was there is nobody's fault");
            before = next;
        }
        assert_eq!(before.first.container.bytes, 3000 * GIB);
        let verdicts: Vec<Verdict> = (1..4)
            .map(|more| {
                let (next, verdict) = counted(Some(before), 3000 + more * 10);
                before = next;
                verdict
            })
            .collect();
        assert_eq!(verdicts, [Verdict::Warn, Verdict::Stop, Verdict::Stop], "what is written from then on is");
    }

    #[test]
    fn under_other_limits_one_keeps_what_one_wrote_within_the_former() {
        let disk = |bytes: u64| DiskUse { bytes: bytes * GIB, files: u64::MAX };
        let alone = Allowed { container: disk(100), workspace: None };
        let shared = alone.with(alone);
        let in_workspace = |bytes| Written { workspace: gib(bytes), ..Written::default() };
        // The other rental that has the workspace too ends between the last look and this one, and then there is another.
        let judged = |last, used, then| {
            let seen =
                Before { last: in_workspace(last), ..Before::first(Written::default(), shared.most_counted(None)) };
            let seen = seen.under_other_limits(&shared, in_workspace(used));
            let now = alone.judge(in_workspace(used), Some(seen)).0;
            now.max(alone.judge(in_workspace(then), Some(Before { last: in_workspace(used), ..seen })).0)
        };
        assert_eq!(judged(150, 180, 180), Verdict::Warn);
        assert_eq!(judged(150, 180, 190), Verdict::Warn, "the first look over it");
        assert_eq!(judged(190, 210, 230), Verdict::Stop);
        assert_eq!(judged(210, 220, 230), Verdict::Stop, "who was over the former limit too");
        assert_eq!(judged(500, 600, 600), Verdict::Stop, "however far");
    }

    #[test]
    fn other_limits_do_not_make_known_what_was_not_counted() {
        let alone = Allowed { container: DiskUse { bytes: 100 * GIB, files: 1_000_000 }, workspace: None };
        let shared = alone.with(alone);
        let look = |allowed: &Allowed, before: Option<Before>| {
            let most = allowed.most_counted(before);
            let there = |place: DiskUse| gib(3000).at_most(place);
            let used = Written { container: gib(10), workspace: there(most.workspace) };
            (used, most)
        };
        let (used, most) = look(&shared, None);
        let mut before = Before::first(used, most);
        let mut former = shared;
        for allowed in [alone, shared, alone, alone, alone, alone, alone, alone] {
            let (used, most) = look(&allowed, Some(before));
            let seen = if allowed == former { before } else { before.under_other_limits(&former, used) };
            assert!(allowed.judge(used, Some(seen)).0 < Verdict::Stop, "it was there before");
            (before, former) = (seen.again(used, most), allowed);
        }
    }

    #[test]
    fn a_rental_has_the_part_of_its_gpus() {
        let division = Division { gpus: 4, without_gpu: 0 };
        let part =
            |gpus| DiskLimit::Part(DiskRoom { containers: gib(1000), workspaces: None }).allowed(division.part(gpus));
        assert_eq!(part(1).unwrap().container.bytes, 250 * GIB);
        assert_eq!(part(4).unwrap().container.bytes, 1000 * GIB);
        let each = DiskUse { bytes: 20 * GIB, files: u64::MAX };
        let fixed = DiskLimit::PerGpu(each).allowed(division.part(2)).unwrap();
        assert_eq!(fixed.container, DiskUse { bytes: 40 * GIB, files: u64::MAX });
        assert_eq!(DiskLimit::None.allowed(division.part(1)), None);
    }

    #[test]
    fn each_disk_has_its_own_limit() {
        let disk = |bytes: u64| DiskUse { bytes: bytes * GIB, files: u64::MAX };
        let room = DiskRoom { containers: disk(4000), workspaces: Some(disk(40)) };
        let allowed = DiskLimit::Part(room).allowed(Division { gpus: 4, without_gpu: 0 }.part(1)).unwrap();
        let written = |container, workspace| Written { container: gib(container), workspace: gib(workspace) };
        let judged = |used, last| allowed.judge(used, Some(Before { first: Written::default(), last })).0;
        assert_eq!(judged(written(800, 5), written(700, 4)), Verdict::Fine, "a large container beside a small disk");
        assert_eq!(judged(written(800, 12), written(700, 11)), Verdict::Stop, "the small disk is the workspace's");
        assert_eq!(judged(written(1200, 5), written(1100, 5)), Verdict::Stop);
        let shared = allowed.with(allowed);
        let used = (written(5, 12), Some(Before { first: Written::default(), last: written(5, 11) }));
        assert_eq!(shared.judge(used.0, used.1).0, Verdict::Fine, "two share a workspace of 20");
    }

    #[test]
    fn hundredths_do_not_overflow() {
        assert_eq!(DiskUse { bytes: u64::MAX, files: 200 }.percent(90), DiskUse { bytes: u64::MAX, files: 180 });
    }
}

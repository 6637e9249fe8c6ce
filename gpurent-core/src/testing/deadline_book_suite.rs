//! The clauses that every [`DeadlineBook`] has to keep.

use jiff::{SignedDuration, Timestamp};

use crate::clock::{BootId, BootTime, Moment};
use crate::id::{Attempt, LaunchId, RentalId};
use crate::model::Term;
use crate::store::{Deadline, DeadlineBook};
use crate::testing::valid;

/// Makes one test of every clause: `deadline_book_suite!(BLOCK_ON, MAKE)`. `BLOCK_ON` runs a future to its end on any
/// executor; `MAKE` is called for each test and gives a closure that opens a book of its own, the same one each time, as
/// processes would that come after each other.
#[macro_export]
macro_rules! deadline_book_suite {
    ($block_on:expr, $make:expr) => {
        $crate::deadline_book_suite!(@clauses $block_on, $make;
            a_new_book_is_empty,
            the_next_process_reads_what_was_written,
            what_is_written_replaces_all_of_it,
        );
    };
    (@clauses $block_on:expr, $make:expr; $($clause:ident),* $(,)?) => {
        $(
            #[test]
            fn $clause() {
                let open = ($make)();
                ($block_on)(async move { $crate::testing::deadline_book_suite::$clause(open).await });
            }
        )*
    };
}

fn deadline(term: Term, used_micros: i64) -> Deadline {
    let moment = |second: i64| Moment {
        wall: valid(Timestamp::from_second(1_800_000_000 + second)),
        boot: BootTime { boot: BootId("a boot".to_owned()), micros: second * 1_000_000 + 1 },
    };
    Deadline {
        launch: LaunchId { rental: RentalId::generate(), attempt: Attempt::new(3) },
        paid_from: moment(1),
        term,
        used: SignedDuration::from_micros(used_micros),
        last_seen: moment(2),
    }
}

/// A book that nobody has written to has no deadlines, and is not an error.
pub async fn a_new_book_is_empty<B: DeadlineBook>(open: impl Fn() -> B) {
    assert_eq!(valid(open().read().await), []);
}

/// A written book is read to the microsecond, terms without an end included.
pub async fn the_next_process_reads_what_was_written<B: DeadlineBook>(open: impl Fn() -> B) {
    let deadlines = [deadline(valid(Term::hours(1)), 1), deadline(Term::OpenEnded, 0)];
    valid(open().write(&deadlines).await);
    assert_eq!(valid(open().read().await), deadlines);
}

/// A write leaves nothing of the one before it.
pub async fn what_is_written_replaces_all_of_it<B: DeadlineBook>(open: impl Fn() -> B) {
    let book = open();
    let many: Vec<_> = (0..100).map(|n| deadline(Term::OpenEnded, n)).collect();
    valid(book.write(&many).await);
    assert_eq!(valid(book.read().await), many);
    valid(book.write(&many[..1]).await);
    assert_eq!(valid(open().read().await), many[..1]);
    valid(book.write(&[]).await);
    assert_eq!(valid(open().read().await), []);
}

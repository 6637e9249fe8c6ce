//! The clauses that every [`Sealer`] has to keep.

use crate::id::RentalId;
use crate::model::seal::{Sealed, Sealer};
use crate::testing::valid;

/// Makes one test of every clause: `sealer_suite!(MAKE)`. `MAKE` is called for each test and gives a sealer with a key of its
/// own.
#[macro_export]
macro_rules! sealer_suite {
    ($make:expr) => {
        $crate::sealer_suite!(@clauses $make;
            what_was_sealed_is_opened_for_the_same_rental,
            what_was_altered_or_moved_is_refused,
            what_is_sealed_shows_nothing,
            another_key_opens_nothing,
            a_fingerprint_tells_messages_apart,
        );
    };
    (@clauses $make:expr; $($clause:ident),* $(,)?) => {
        $(
            #[test]
            fn $clause() {
                $crate::testing::sealer_suite::$clause($make);
            }
        )*
    };
}

const SECRET: &[u8] = b"correct horse battery staple";

/// A sealed value is opened again, also where it is long or nothing.
pub fn what_was_sealed_is_opened_for_the_same_rental<S: Sealer>(make: impl Fn() -> S) {
    let (sealer, rental) = (make(), RentalId::generate());
    for plaintext in [SECRET.to_vec(), Vec::new(), vec![7; 100_000]] {
        let sealed = valid(sealer.seal(rental, &plaintext));
        assert_eq!(valid(sealer.open(rental, &sealed)), plaintext);
    }
}

/// An attacker who can write to the database can give nobody another's secret, nor one of their own.
pub fn what_was_altered_or_moved_is_refused<S: Sealer>(make: impl Fn() -> S) {
    let (sealer, rental) = (make(), RentalId::generate());
    let sealed = valid(sealer.seal(rental, SECRET));
    assert!(sealer.open(RentalId::generate(), &sealed).is_err(), "moved to another rental");
    for at in 0..sealed.bytes.len() {
        let mut bytes = sealed.bytes.clone();
        bytes[at] ^= 1;
        assert!(sealer.open(rental, &Sealed { bytes, ..sealed.clone() }).is_err(), "byte {at}");
    }
    for length in 0..sealed.bytes.len() {
        let bytes = sealed.bytes[..length].to_vec();
        assert!(sealer.open(rental, &Sealed { bytes, ..sealed.clone() }).is_err(), "cut to {length}");
    }
}

/// The same secret looks different each time, and stands nowhere in what is stored.
pub fn what_is_sealed_shows_nothing<S: Sealer>(make: impl Fn() -> S) {
    let (sealer, rental) = (make(), RentalId::generate());
    let (one, other) = (valid(sealer.seal(rental, SECRET)), valid(sealer.seal(rental, SECRET)));
    assert_ne!(one.bytes, other.bytes);
    assert!(!one.bytes.windows(SECRET.len()).any(|part| part == SECRET));
}

/// A key opens what was sealed with it alone.
pub fn another_key_opens_nothing<S: Sealer>(make: impl Fn() -> S) {
    let (sealer, other, rental) = (make(), make(), RentalId::generate());
    let sealed = valid(sealer.seal(rental, SECRET));
    assert!(other.open(rental, &sealed).is_err());
    // Also where it is said to be the other's.
    let relabelled = Sealed { key_id: valid(other.seal(rental, SECRET)).key_id, ..sealed };
    assert!(other.open(rental, &relabelled).is_err());
}

/// A fingerprint is the same for the same message, and differs by message and by key.
pub fn a_fingerprint_tells_messages_apart<S: Sealer>(make: impl Fn() -> S) {
    let (sealer, other) = (make(), make());
    assert_eq!(sealer.fingerprint(b"a"), sealer.fingerprint(b"a"));
    assert_ne!(sealer.fingerprint(b"a"), sealer.fingerprint(b"b"));
    assert_ne!(sealer.fingerprint(b"a"), other.fingerprint(b"a"), "it reveals nothing without the key");
}

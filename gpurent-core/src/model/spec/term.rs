//! How long a rental lasts.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::ValidationError;

/// The paid time of a rental, counted from the start of the container that became ready.
///
/// ```
/// use gpurent_core::Term;
///
/// assert_eq!("90s".parse::<Term>()?, "PT1M30S".parse()?);
/// assert_eq!("2h".parse::<Term>()?, Term::hours(2)?);
/// assert_eq!("7200".parse::<Term>()?, Term::hours(2)?);
/// assert!("-1h".parse::<Term>().is_err());
/// # Ok::<(), gpurent_core::ValidationError>(())
/// ```
///
/// Serialised as whole microseconds, an open end as null; read from those, and from what [`FromStr`] reads. A field of this
/// type that is missing is an error: nobody rents without an end by forgetting one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "Option<i64>")]
pub enum Term {
    /// Ends by itself after this time.
    Fixed(SignedDuration),
    /// Lasts until somebody ends it.
    OpenEnded,
}

/// The longest fixed term: 366 days.
pub const MAX_TERM: SignedDuration = SignedDuration::from_hours(366 * 24);

impl Term {
    /// A term of a certain length.
    ///
    /// # Errors
    /// Refuses less than a second and more than [`MAX_TERM`].
    pub fn fixed(duration: SignedDuration) -> Result<Self, ValidationError> {
        if (SignedDuration::from_secs(1)..=MAX_TERM).contains(&duration) {
            // Whole microseconds, as the stores keep them.
            Ok(Self::Fixed(SignedDuration::from_micros(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))))
        } else {
            Err(ValidationError::new("duration", "must be 1 second to 366 days"))
        }
    }

    /// A term of so many hours.
    ///
    /// # Errors
    /// As [`Term::fixed`].
    pub fn hours(hours: i64) -> Result<Self, ValidationError> {
        let seconds = hours.checked_mul(3600).unwrap_or(i64::MAX);
        Self::fixed(SignedDuration::from_secs(seconds))
    }

    /// Whether `other` ends later; an open end is neither shorter nor longer than anything.
    #[must_use]
    pub fn is_shorter_than(self, other: Self) -> bool {
        matches!((self, other), (Self::Fixed(this), Self::Fixed(other)) if this < other)
    }

    /// The term's length, if it has one.
    #[must_use]
    pub fn duration(self) -> Option<SignedDuration> {
        match self {
            Self::Fixed(duration) => Some(duration),
            Self::OpenEnded => None,
        }
    }
}

impl FromStr for Term {
    type Err = ValidationError;

    /// Reads "90s", "2h", "1h 30m", "1d", a plain number of seconds, or an ISO 8601 duration. A day is 24 hours; months and years,
    /// which have no fixed length, are refused.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let refused = |_| ValidationError::new("duration", "must be a duration such as 90s, 2h or PT2H");
        if text.len() > 64 {
            return Err(ValidationError::new("duration", "must be a duration such as 90s, 2h or PT2H"));
        }
        if let Ok(seconds) = text.trim().parse::<i64>() {
            return Self::fixed(SignedDuration::from_secs(seconds));
        }
        let span: Span = text.trim().parse().map_err(refused)?;
        Self::fixed(span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(refused)?)
    }
}

impl<'de> Deserialize<'de> for Term {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TermVisitor)
    }
}

struct TermVisitor;

impl Visitor<'_> for TermVisitor {
    type Value = Term;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"2h\", microseconds, or null")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Term, E> {
        Ok(Term::OpenEnded)
    }

    fn visit_i64<E: de::Error>(self, micros: i64) -> Result<Term, E> {
        Term::fixed(SignedDuration::from_micros(micros)).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, micros: u64) -> Result<Term, E> {
        self.visit_i64(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Term, E> {
        text.parse().map_err(E::custom)
    }
}

impl From<Term> for Option<i64> {
    fn from(term: Term) -> Self {
        term.duration().map(|duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_terms_are_refused() {
        for text in ["", "0s", "-5m", "P1Y", "1000000h", "P99999999999D", "soon", "0", "-1", "1.5", "0.1s"] {
            assert!(text.parse::<Term>().is_err(), "{text:?}");
        }
        assert!(Term::hours(0).is_err() && Term::hours(-1).is_err() && Term::hours(i64::MAX).is_err());
    }

    #[test]
    fn what_is_stored_and_what_people_write_is_read_and_what_is_missing_is_not() {
        #[derive(Deserialize)]
        struct Body {
            term: Term,
        }
        let read = |json: &str| serde_json::from_str::<Body>(json).map(|body| body.term);
        let two_hours = Term::hours(2).unwrap();
        for json in [r#"{"term":7200000000}"#, r#"{"term":"2h"}"#, r#"{"term":"PT2H"}"#] {
            assert_eq!(read(json).unwrap(), two_hours, "{json}");
        }
        assert_eq!(read(r#"{"term":null}"#).unwrap(), Term::OpenEnded);
        assert_eq!(serde_json::to_string(&[two_hours, Term::OpenEnded]).unwrap(), "[7200000000,null]");
        for json in ["{}", r#"{"term":0}"#, r#"{"term":-5}"#, r#"{"term":"soon"}"#, r#"{"term":1.5}"#] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_day_has_24_hours() {
        assert_eq!("1d".parse::<Term>().unwrap(), Term::hours(24).unwrap());
        assert_eq!("P1D".parse::<Term>().unwrap(), Term::hours(24).unwrap());
    }
}

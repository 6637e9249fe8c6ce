//! How long a rental lasts.

use std::str::FromStr;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::{Deserialize, Serialize};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Option<i64>", into = "Option<i64>")]
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

impl TryFrom<Option<i64>> for Term {
    type Error = ValidationError;

    fn try_from(micros: Option<i64>) -> Result<Self, ValidationError> {
        micros.map_or(Ok(Self::OpenEnded), |micros| Self::fixed(SignedDuration::from_micros(micros)))
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
    fn a_day_has_24_hours() {
        assert_eq!("1d".parse::<Term>().unwrap(), Term::hours(24).unwrap());
        assert_eq!("P1D".parse::<Term>().unwrap(), Term::hours(24).unwrap());
    }
}

//! Metering: usage in segments, and the bill that explains itself.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::{Currency, MicroUnits, Quote};

/// The shortest time that a rental which became ready is charged for.
pub const MINIMUM_CHARGE: SignedDuration = SignedDuration::from_mins(1);

/// A stretch of time in which the rental's container ran and was paid for.
///
/// It begins at the container's own start as the engine recorded it, and ends at the engine's own finish
/// or at the end of the paid time, whichever came first: never at the time somebody looked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// When the container started.
    pub started_at: Timestamp,
    /// When it ended; `None` while it runs.
    pub ended_at: Option<Timestamp>,
    /// The segment's price, where that is not the rental's present one: a rental may cost something else once it is
    /// resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
}

impl Segment {
    /// Ends it so long after its start, never before it.
    pub(crate) fn end_after(&mut self, length: SignedDuration) {
        let end = self.started_at.checked_add(length.max(SignedDuration::ZERO));
        self.ended_at = Some(end.unwrap_or(self.started_at));
    }

    /// How long the segment is, up to `now` while it is open.
    #[must_use]
    pub fn length(&self, now: Timestamp) -> SignedDuration {
        self.ended_at.unwrap_or(now).duration_since(self.started_at).max(SignedDuration::ZERO)
    }
}

/// One line of a bill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BillLine {
    /// The use of the GPUs in one segment.
    Usage {
        /// The segment's start.
        started_at: Timestamp,
        /// The segment's end.
        ended_at: Timestamp,
        /// The line's charge.
        amount: MicroUnits,
    },
    /// The difference to the minimum charge.
    Minimum {
        /// The difference.
        amount: MicroUnits,
    },
}

impl BillLine {
    /// The line's amount.
    #[must_use]
    pub fn amount(&self) -> MicroUnits {
        match self {
            Self::Usage { amount, .. } | Self::Minimum { amount } => *amount,
        }
    }
}

/// The bill of a rental. Its lines add up to its total.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// Microseconds of use, all segments together.
    pub used_micros: i64,
    /// The lines; none where no price was agreed.
    pub lines: Vec<BillLine>,
    /// The sum of the lines.
    pub total: MicroUnits,
    /// The currency; `None` where no price was agreed.
    pub currency: Option<Currency>,
}

impl Bill {
    /// Writes the bill for `segments`, open ones counted up to `now`.
    #[must_use]
    pub fn of(segments: &[Segment], quote: Option<&Quote>, now: Timestamp) -> Self {
        let used: SignedDuration = segments.iter().fold(SignedDuration::ZERO, |sum, s| sum + s.length(now));
        let mut lines = Vec::new();
        if let Some(quote) = quote.filter(|_| !segments.is_empty()) {
            lines.extend(segments.iter().map(|segment| BillLine::Usage {
                started_at: segment.started_at,
                ended_at: segment.ended_at.unwrap_or(now),
                amount: segment.quote.as_ref().unwrap_or(quote).rate.charge(segment.length(now)),
            }));
            if used < MINIMUM_CHARGE {
                lines.push(BillLine::Minimum { amount: quote.rate.charge(MINIMUM_CHARGE - used) });
            }
        }
        Self {
            used_micros: i64::try_from(used.as_micros()).unwrap_or(i64::MAX),
            total: lines.iter().map(BillLine::amount).sum(),
            lines,
            currency: quote.map(|quote| quote.currency.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::HourlyRate;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn quote(micros: i64) -> Quote {
        Quote {
            rate: HourlyRate::new(MicroUnits::new(micros)).unwrap(),
            currency: "USD".to_owned().try_into().unwrap(),
            unverified: false,
        }
    }

    #[test]
    fn a_rental_that_never_became_ready_costs_nothing() {
        assert_eq!(Bill::of(&[], Some(&quote(3_600_000)), at(99)).total, MicroUnits::ZERO);
    }

    #[test]
    fn a_short_rental_costs_a_minute() {
        let segments = [Segment { started_at: at(0), ended_at: Some(at(10)), quote: None }];
        let bill = Bill::of(&segments, Some(&quote(3_600_000)), at(99));
        assert_eq!((bill.total, bill.lines.len()), (MicroUnits::new(60_000), 2));
    }

    proptest! {
        #[test]
        fn lines_add_up(rate in 0i64..10_000_000, lengths in proptest::collection::vec(0i64..100_000, 0..5)) {
            let mut start = 0;
            let segments: Vec<_> = lengths.iter().map(|length| {
                let segment = Segment { started_at: at(start), ended_at: Some(at(start + length)), quote: None };
                start += length + 1;
                segment
            }).collect();
            let bill = Bill::of(&segments, Some(&quote(rate)), at(0));
            prop_assert_eq!(bill.total, bill.lines.iter().map(BillLine::amount).sum());
            prop_assert_eq!(bill.used_micros, lengths.iter().sum::<i64>() * 1_000_000);
        }
    }
}

//! Money as integers of a millionth of the currency's unit, and what an hour costs.
//!
//! Nothing here is a float: a charge is computed in 128 bits and rounded once, half to even.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Add;
use std::str::FromStr;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::error::ValidationError;
use crate::model::{Gpu, GpuModel};

/// An amount in millionths of the currency's unit: 1_990_000 is 1.99.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MicroUnits(i64);

impl MicroUnits {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// So many millionths.
    #[must_use]
    pub const fn new(micros: i64) -> Self {
        Self(micros)
    }

    /// The amount in millionths.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl Add for MicroUnits {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::iter::Sum for MicroUnits {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for MicroUnits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let micros = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

/// The price of one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HourlyRate(MicroUnits);

const MICROS_PER_HOUR: i128 = 3_600_000_000;

impl HourlyRate {
    /// A rate of so much an hour.
    ///
    /// # Errors
    /// Refuses a negative rate and one above a million units an hour.
    pub fn new(per_hour: MicroUnits) -> Result<Self, ValidationError> {
        if (0..=1_000_000_000_000).contains(&per_hour.get()) {
            Ok(Self(per_hour))
        } else {
            Err(ValidationError::new("rate", "must be 0 to 1000000 an hour"))
        }
    }

    /// The price of one hour.
    #[must_use]
    pub fn per_hour(self) -> MicroUnits {
        self.0
    }

    /// The rate of two things together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The charge for `used` time, rounded half to even; nothing for a negative time.
    #[must_use]
    pub fn charge(self, used: SignedDuration) -> MicroUnits {
        let exact = i128::from(self.0.0) * used.as_micros().max(0);
        let (whole, rest) = (exact / MICROS_PER_HOUR, exact % MICROS_PER_HOUR);
        let rounded = match (rest * 2).cmp(&MICROS_PER_HOUR) {
            std::cmp::Ordering::Less => whole,
            std::cmp::Ordering::Equal => whole + (whole & 1),
            std::cmp::Ordering::Greater => whole + 1,
        };
        MicroUnits(i64::try_from(rounded).unwrap_or(i64::MAX))
    }
}

/// Three letters of ISO 4217.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency(String);

impl TryFrom<String> for Currency {
    type Error = ValidationError;

    fn try_from(code: String) -> Result<Self, ValidationError> {
        if code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase()) {
            Ok(Self(code))
        } else {
            Err(ValidationError::new("currency", "must be three capital letters (ISO 4217)"))
        }
    }
}

impl FromStr for Currency {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> String {
        currency.0
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The rates of GPUs, by model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateCard {
    currency: Currency,
    rates: BTreeMap<GpuModel, HourlyRate>,
    #[serde(default)]
    without_gpu: Option<HourlyRate>,
    #[serde(default)]
    unverified: bool,
}

impl RateCard {
    /// An empty card in one currency.
    #[must_use]
    pub fn new(currency: Currency) -> Self {
        Self { currency, rates: BTreeMap::new(), without_gpu: None, unverified: false }
    }

    /// The same card with a price for GPUs that answer to `model`.
    #[must_use]
    pub fn with(mut self, model: GpuModel, rate: HourlyRate) -> Self {
        self.rates.insert(model, rate);
        self
    }

    /// The same card with a price for containers without a GPU.
    #[must_use]
    pub fn with_price_without_gpu(mut self, rate: HourlyRate) -> Self {
        self.without_gpu = Some(rate);
        self
    }

    /// The same card for a host that also charges for containers that ran and never let their renters in.
    #[must_use]
    pub fn charging_unverified(mut self) -> Self {
        self.unverified = true;
        self
    }

    /// The price of a container without a GPU; `None` where the card has none.
    #[must_use]
    pub fn quote_without_gpu(&self) -> Option<Quote> {
        self.without_gpu.map(|rate| Quote { rate, currency: self.currency.clone(), unverified: self.unverified })
    }

    /// The price of one GPU of `model`; `None` where the card has none.
    #[must_use]
    pub fn quote(&self, model: &GpuModel) -> Option<Quote> {
        self.quote_where(|named| model.answers_to(named))
    }

    /// The price of a GPU, whose memory counts where names leave it open.
    #[must_use]
    pub fn quote_of(&self, gpu: &Gpu) -> Option<Quote> {
        self.quote_where(|named| gpu.is_a(named))
    }

    fn quote_where(&self, answers: impl Fn(&GpuModel) -> bool) -> Option<Quote> {
        // The longest name wins: a price for "A100 80GB" before one for "A100".
        self.rates
            .iter()
            .filter(|(named, _)| answers(named))
            .max_by_key(|(named, _)| named.normalised().len())
            .map(|(_, rate)| Quote { rate: *rate, currency: self.currency.clone(), unverified: self.unverified })
    }
}

/// The price a rental was started at; it does not change while the rental runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// The price of an hour of all the rental's GPUs together.
    pub rate: HourlyRate,
    /// In which currency.
    pub currency: Currency,
    /// Whether a container is also paid for that ran and never let its renter in, unless by the host's own doing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unverified: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(micros: i64) -> HourlyRate {
        HourlyRate::new(MicroUnits::new(micros)).unwrap()
    }

    #[test]
    fn an_hour_costs_the_rate_and_a_second_its_part() {
        assert_eq!(rate(1_490_000).charge(SignedDuration::from_hours(1)), MicroUnits::new(1_490_000));
        assert_eq!(rate(3_600_000).charge(SignedDuration::from_secs(1)), MicroUnits::new(1_000));
        assert_eq!(rate(1).charge(SignedDuration::from_secs(-5)), MicroUnits::ZERO);
    }

    #[test]
    fn halves_go_to_the_even_neighbour() {
        assert_eq!(rate(1).charge(SignedDuration::from_mins(30)), MicroUnits::new(0));
        assert_eq!(rate(3).charge(SignedDuration::from_mins(30)), MicroUnits::new(2));
        assert_eq!(rate(5).charge(SignedDuration::from_mins(30)), MicroUnits::new(2));
    }

    #[test]
    fn amounts_read_like_money() {
        assert_eq!(MicroUnits::new(1_490_000).to_string(), "1.490000");
        assert_eq!(MicroUnits::new(-5).to_string(), "-0.000005");
    }

    #[test]
    fn the_most_specific_price_counts() {
        let card = RateCard::new("USD".to_owned().try_into().unwrap())
            .with("A100".parse().unwrap(), rate(1))
            .with("A100-SXM4-80GB".parse().unwrap(), rate(2));
        assert_eq!(card.quote(&"NVIDIA A100-SXM4-80GB".parse().unwrap()).unwrap().rate, rate(2));
        assert_eq!(card.quote(&"NVIDIA A100-PCIE-40GB".parse().unwrap()).unwrap().rate, rate(1));
        assert_eq!(card.quote(&"NVIDIA H200".parse().unwrap()), None);
    }
}

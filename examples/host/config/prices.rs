//! Prices.

use std::str::FromStr;

use gpurent_core::error::ValidationError;
use gpurent_core::model::{GpuModel, HourlyRate, MicroUnits};

/// The price of a model.
#[derive(Clone, Debug)]
pub struct Rate {
    /// The model.
    pub model: GpuModel,
    /// The model's price.
    pub rate: HourlyRate,
}

impl FromStr for Rate {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let refused = || ValidationError::new("rate", "must be MODEL=PRICE, such as 'RTX 5090=1.49'");
        let (model, rate) = text.rsplit_once('=').ok_or_else(refused)?;
        Ok(Self { model: model.trim().parse()?, rate: price(rate)? })
    }
}

/// A price an hour, read without a float.
pub(super) fn price(text: &str) -> Result<HourlyRate, ValidationError> {
    let refused = || ValidationError::new("rate", "must be a price of at most six decimals, such as 1.49");
    let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    if part.len() > 6 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refused());
    }
    let whole: i64 = whole.parse().map_err(|_| refused())?;
    let part: i64 = format!("{part:0<6}").parse().map_err(|_| refused())?;
    let micros = whole.checked_mul(1_000_000).and_then(|micros| micros.checked_add(part)).ok_or_else(refused)?;
    HourlyRate::new(MicroUnits::new(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_without_a_float() {
        let rate = |text: &str| text.parse::<Rate>().map(|rate| rate.rate.per_hour().get());
        assert_eq!(rate("RTX 5090=1.49").unwrap(), 1_490_000);
        assert_eq!(rate("H200 = 3").unwrap(), 3_000_000);
        assert_eq!(rate("A100=0.000001").unwrap(), 1);
        for text in ["RTX 5090", "RTX 5090=", "RTX 5090=1.1234567", "RTX 5090=-1", "=1", "X=1e9"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}

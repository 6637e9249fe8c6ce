//! Amounts of memory and disk, as people write them.

use std::str::FromStr;

use crate::error::ValidationError;

/// An amount in bytes. Units are powers of 1024 however they are written (`4g`, `4GB`, `4Gi`), as
/// [Docker reads them](https://docs.docker.com/engine/containers/resource_constraints/).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// An amount of so many bytes.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Reads an amount; a number without a unit is of `unit` bytes.
    ///
    /// # Errors
    /// [`ValidationError`]
    pub fn parse_in(text: &str, unit: u64) -> Result<Self, ValidationError> {
        let wrong = || ValidationError::new("size", "must be an amount such as 512m, 1.5g or 4Gi");
        let text = text.trim();
        if text.len() > 32 {
            return Err(wrong());
        }
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match text[number.len()..].to_ascii_lowercase().as_str() {
            "" => unit,
            "b" => 1,
            "k" | "kb" | "ki" | "kib" => 1 << 10,
            "m" | "mb" | "mi" | "mib" => 1 << 20,
            "g" | "gb" | "gi" | "gib" => 1 << 30,
            "t" | "tb" | "ti" | "tib" => 1 << 40,
            _ => return Err(wrong()),
        };
        let number = number.trim_end();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_plain(whole) || !is_plain(fraction) || whole.is_empty() || number.ends_with('.') || fraction.len() > 9 {
            return Err(wrong());
        }
        let whole: u128 = whole.parse().map_err(|_| wrong())?;
        let billionths: u128 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
        let bytes =
            whole.checked_mul(u128::from(unit)).ok_or_else(wrong)? + billionths * u128::from(unit) / 1_000_000_000;
        u64::try_from(bytes).map(Self).map_err(|_| wrong())
    }
}

impl FromStr for Size {
    type Err = ValidationError;

    /// Reads `512m`, `1.5g`, `4Gi`, or a number of bytes.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        Self::parse_in(text, 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let bytes = |text: &str| text.parse::<Size>().map(Size::bytes);
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("512m", 512 << 20),
            (" 512 MB ", 512 << 20),
            ("1.5g", 3 << 29),
            ("4Gi", 4 << 30),
            ("4GiB", 4 << 30),
            ("1t", 1 << 40),
            ("0.5k", 512),
            ("7b", 7),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "g", "1.5.2g", "-1g", "+1g", "4x", "1e3", "1.g", ".5g", "99999999999t", "٤g", "1,5g", "0x10"]
        {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(Size::parse_in("512", 1 << 20).map(Size::bytes), Ok(512 << 20));
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".{0,40}") {
            // Whether it is a size does not matter here.
            drop(text.parse::<Size>());
        }
    }
}

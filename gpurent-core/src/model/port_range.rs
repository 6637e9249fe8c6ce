//! Ranges of the host's ports.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ValidationError;
use crate::model::HostPort;

/// A range of the host's ports, `first-last`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange(RangeInclusive<u16>);

impl TryFrom<String> for PortRange {
    type Error = ValidationError;

    fn try_from(text: String) -> Result<Self, ValidationError> {
        text.parse()
    }
}

impl PortRange {
    /// The first port.
    #[must_use]
    pub fn first(&self) -> u16 {
        *self.0.start()
    }

    /// The last port.
    #[must_use]
    pub fn last(&self) -> u16 {
        *self.0.end()
    }

    /// The port at this distance from the first; `None` beyond the last.
    #[must_use]
    pub fn port(&self, offset: u16) -> Option<HostPort> {
        let number = self.first().checked_add(offset).filter(|number| *number <= self.last())?;
        NonZeroU16::new(number).map(HostPort::from)
    }

    /// The ranges of `size` ports that fit in, one after the other.
    pub fn parts(&self, size: u16) -> impl Iterator<Item = Self> + use<> {
        let (first, last, size) = (u32::from(self.first()), u32::from(self.last()), u32::from(size.max(1)));
        (0..(last - first + 1) / size).filter_map(move |n| {
            let begin = first + n * size;
            Some(Self(u16::try_from(begin).ok()?..=u16::try_from(begin + size - 1).ok()?))
        })
    }

    /// Whether `port` lies in the range.
    #[must_use]
    pub fn contains(&self, port: HostPort) -> bool {
        self.0.contains(&port.get())
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.start() <= other.0.end() && other.0.start() <= self.0.end()
    }

    /// Every port once, beginning somewhere that depends on `salt`: neighbours in time get unrelated
    /// ports, as clients of such hosts expect, and the choice can be repeated in a test.
    pub(crate) fn shuffled(&self, salt: u64) -> impl Iterator<Item = HostPort> {
        let (first, last) = (u64::from(*self.0.start()), u64::from(*self.0.end()));
        let len = last - first + 1;
        (0..len).filter_map(move |i| {
            let number = u16::try_from(first + (salt % len + i) % len).ok()?;
            NonZeroU16::new(number).map(HostPort::from)
        })
    }
}

impl FromStr for PortRange {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let parsed = text.split_once('-').and_then(|(first, last)| {
            Some((first.trim().parse::<NonZeroU16>().ok()?, last.trim().parse::<NonZeroU16>().ok()?))
        });
        match parsed {
            Some((first, last)) if first <= last => Ok(Self(first.get()..=last.get())),
            _ => Err(ValidationError::new("port range", "must be FIRST-LAST within 1-65535")),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

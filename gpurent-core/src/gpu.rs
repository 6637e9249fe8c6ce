//! GPUs: what a host has, what a renter asks for, and when the two are the same model.

use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;

/// NVML's identity of one GPU, `GPU-<uuid>`; stable across restarts and re-ordering.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GpuUuid(String);

impl GpuUuid {
    /// The UUID as NVML writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for GpuUuid {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        let rest = text.strip_prefix("GPU-").or_else(|| text.strip_prefix("MIG-"));
        match rest {
            Some(id) if !id.is_empty() && id.len() <= 64 && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-') => {
                Ok(Self(text))
            }
            _ => Err(Invalid::new("gpu", "must be a GPU UUID such as GPU-5a1b2c3d-...")),
        }
    }
}

impl FromStr for GpuUuid {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::try_from(text.to_owned())
    }
}

impl From<GpuUuid> for String {
    fn from(uuid: GpuUuid) -> String {
        uuid.0
    }
}

impl fmt::Display for GpuUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A GPU model's name, as a vendor, a price list or a renter writes it.
///
/// ```
/// use gpurent_core::gpu::GpuModel;
///
/// let card: GpuModel = "NVIDIA GeForce RTX 5090".parse()?;
/// assert!(card.answers_to(&"rtx-5090".parse()?));
/// assert!(!card.answers_to(&"RTX 5080".parse()?));
/// assert!("Tesla V100-SXM2-16GB".parse::<GpuModel>()?.answers_to(&"V100".parse()?));
/// assert!(!"RTX 3080 Ti".parse::<GpuModel>()?.answers_to(&"RTX 3080".parse()?));
/// # Ok::<(), gpurent_core::invalid::Invalid>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GpuModel(String);

/// Words that name the vendor or the product line, not the card.
const VENDOR_WORDS: [&str; 5] = ["nvidia", "geforce", "tesla", "quadro", "gpu"];

/// Words at the end of a card's name that a renter may leave out. "Ti", "Super", "Laptop" and "Max-Q"
/// are not among them: they name another card.
fn may_be_left_out(word: &str) -> bool {
    let is_memory = word.strip_suffix("gb").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let is_socket = word.strip_prefix("sxm").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    is_memory
        || is_socket
        || matches!(word, "pcie" | "nvl" | "hbm2" | "hbm2e" | "hbm3" | "hbm3e" | "80gb")
        || matches!(word, "blackwell" | "ada" | "generation" | "workstation" | "server" | "edition")
}

impl GpuModel {
    /// The name as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in its normal form: lower-case words without the vendor's, joined by blanks.
    #[must_use]
    pub fn normalised(&self) -> String {
        self.words().join(" ")
    }

    fn words(&self) -> Vec<String> {
        self.0
            .to_ascii_lowercase()
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty() && !VENDOR_WORDS.contains(word))
            .map(str::to_owned)
            .collect()
    }

    /// Whether a card of this model is what somebody means who asks for `asked`.
    #[must_use]
    pub fn answers_to(&self, asked: &GpuModel) -> bool {
        let (card, asked) = (self.words(), asked.words());
        card.starts_with(&asked) && card[asked.len()..].iter().all(|word| may_be_left_out(word))
    }
}

impl TryFrom<String> for GpuModel {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        let model = Self(text);
        if model.0.len() > 128 || model.0.chars().any(char::is_control) || model.words().is_empty() {
            return Err(Invalid::new("gpu", "must be a GPU model's name of at most 128 characters"));
        }
        Ok(model)
    }
}

impl FromStr for GpuModel {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::try_from(text.to_owned())
    }
}

impl From<GpuModel> for String {
    fn from(model: GpuModel) -> String {
        model.0
    }
}

impl fmt::Display for GpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One GPU of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its identity.
    pub uuid: GpuUuid,
    /// Its place among the host's GPUs; may change with a reboot, so never an identity.
    pub index: u32,
    /// Its model.
    pub model: GpuModel,
    /// Its memory in mebibytes.
    pub memory_mib: u64,
    /// The number of its device node, `/dev/nvidia<n>`; `None` where there is none (simulated, WSL2).
    pub device_node: Option<u32>,
    /// Whether it exists only as a name: see `SimulatedGpus` in [`crate::memory`].
    pub simulated: bool,
}

/// Which GPUs would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuSelector {
    /// Any GPU of this model.
    Model(GpuModel),
    /// This very GPU.
    Uuid(GpuUuid),
    /// Any GPU at all.
    Any,
}

impl GpuSelector {
    /// Whether `gpu` would do.
    #[must_use]
    pub fn matches(&self, gpu: &Gpu) -> bool {
        match self {
            Self::Model(model) => gpu.model.answers_to(model),
            Self::Uuid(uuid) => gpu.uuid == *uuid,
            Self::Any => true,
        }
    }
}

impl FromStr for GpuSelector {
    type Err = Invalid;

    /// A text that starts like a GPU UUID is one; anything else is a model.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.starts_with("GPU-") || text.starts_with("MIG-") {
            text.parse().map(Self::Uuid)
        } else {
            text.parse().map(Self::Model)
        }
    }
}

impl fmt::Display for GpuSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(model) => model.fmt(f),
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::Any => f.write_str("NVIDIA"),
        }
    }
}

/// What a renter asks for: so many GPUs of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuRequest {
    /// Which GPUs would do.
    pub selector: GpuSelector,
    /// How many; a UUID allows one.
    pub count: NonZeroU8,
}

impl GpuRequest {
    /// Asks for `count` GPUs.
    ///
    /// # Errors
    /// Refuses a count of 0, above 16, or above 1 for a single GPU named by UUID.
    pub fn new(selector: GpuSelector, count: u8) -> Result<Self, Invalid> {
        let most = if matches!(selector, GpuSelector::Uuid(_)) { 1 } else { 16 };
        match NonZeroU8::new(count) {
            Some(count) if count.get() <= most => Ok(Self { selector, count }),
            _ => Err(Invalid::new("gpu_count", format!("must be 1 to {most}"))),
        }
    }

    /// Asks for one GPU.
    #[must_use]
    pub fn one(selector: GpuSelector) -> Self {
        Self { selector, count: NonZeroU8::MIN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(card: &str, asked: &str) -> bool {
        card.parse::<GpuModel>().unwrap().answers_to(&asked.parse().unwrap())
    }

    #[test]
    fn the_same_card_under_its_many_names() {
        assert!(answers("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-16GB"));
        assert!(answers("Tesla V100-SXM2-16GB", "v100"));
        assert!(answers("NVIDIA GeForce RTX 5090", "rtx-5090"));
        assert!(answers("NVIDIA GeForce RTX 5090", "RTX 5090"));
        assert!(answers("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"));
        assert!(answers("NVIDIA A100-SXM4-80GB", "A100"));
        assert!(answers("NVIDIA H200", "nvidia h200"));
    }

    #[test]
    fn another_card_with_a_longer_name_is_another_card() {
        assert!(!answers("NVIDIA GeForce RTX 3080 Ti", "RTX 3080"));
        assert!(!answers("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090"));
        assert!(!answers("NVIDIA GeForce RTX 4070 SUPER", "RTX 4070"));
        assert!(!answers("NVIDIA A100-SXM4-40GB", "A100-SXM4-80GB"));
        assert!(!answers("NVIDIA GeForce RTX 5090", "RTX"));
    }

    #[test]
    fn a_name_of_vendor_words_alone_is_refused() {
        assert!("NVIDIA GeForce".parse::<GpuModel>().is_err());
        assert!("".parse::<GpuModel>().is_err());
        assert!("x\ny".parse::<GpuModel>().is_err());
    }
}

//! GPUs: what a host has, what a renter asks for, and when the two are the same model.

mod name;

use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ValidationError;
use crate::model::gpu::name::Parts;

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
    type Error = ValidationError;

    fn try_from(text: String) -> Result<Self, ValidationError> {
        let rest = text.strip_prefix("GPU-").or_else(|| text.strip_prefix("MIG-"));
        match rest {
            Some(id) if !id.is_empty() && id.len() <= 64 && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-') => {
                Ok(Self(text))
            }
            _ => Err(ValidationError::new("gpu", "must be a GPU UUID such as GPU-5a1b2c3d-...")),
        }
    }
}

impl FromStr for GpuUuid {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
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
/// use gpurent_core::GpuModel;
///
/// let card: GpuModel = "NVIDIA GeForce RTX 5090".parse()?;
/// assert!(card.answers_to(&"rtx-5090".parse()?));
/// assert!(!card.answers_to(&"RTX 5080".parse()?));
/// assert!("Tesla V100-SXM2-16GB".parse::<GpuModel>()?.answers_to(&"V100".parse()?));
/// assert!(!"RTX 3080 Ti".parse::<GpuModel>()?.answers_to(&"RTX 3080".parse()?));
/// # Ok::<(), gpurent_core::ValidationError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GpuModel(String);

impl GpuModel {
    /// The name as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in its normal form: lower-case words without the vendor's, joined by blanks.
    #[must_use]
    pub fn normalised(&self) -> String {
        name::normalised(&self.0)
    }

    /// The memory that the name tells of, in GB.
    pub(crate) fn memory_gb(&self) -> Option<u64> {
        Parts::of(&self.0).memory()
    }

    /// Whether a card of this model is what somebody means who asks for `asked`. The memory counts as far as the name tells
    /// it; see [`Gpu::is_a`].
    #[must_use]
    pub fn answers_to(&self, asked: &GpuModel) -> bool {
        Parts::of(&self.0).answer_to(&Parts::of(&asked.0), None)
    }
}

impl TryFrom<String> for GpuModel {
    type Error = ValidationError;

    fn try_from(text: String) -> Result<Self, ValidationError> {
        let model = Self(text);
        if model.0.len() > 128 || model.0.chars().any(char::is_control) || Parts::of(&model.0).is_empty() {
            return Err(ValidationError::new("gpu", "must be a GPU model's name of at most 128 characters"));
        }
        Ok(model)
    }
}

impl FromStr for GpuModel {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
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
    /// The GPU's identity.
    pub uuid: GpuUuid,
    /// The GPU's place among the host's; may change with a reboot, so never an identity.
    pub index: u32,
    /// The GPU's model.
    pub model: GpuModel,
    /// The GPU's memory in mebibytes.
    pub memory_mib: u64,
    /// The number of its device node, `/dev/nvidia<n>`; `None` where there is none (simulated, WSL2).
    pub device_node: Option<u32>,
    /// Whether it exists only as a name: see `SimulatedGpus` in [`crate::memory`].
    pub simulated: bool,
}

impl Gpu {
    /// Whether it is what somebody means who asks for `asked`: by its name, and by its memory where the name leaves that open.
    #[must_use]
    pub fn is_a(&self, asked: &GpuModel) -> bool {
        Parts::of(self.model.as_str()).answer_to(&Parts::of(asked.as_str()), Some(self.memory_mib))
    }
}

/// Which GPUs would do. Read as it is serialised, and as people write it ([`FromStr`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "WrittenSelector")]
pub enum GpuSelector {
    /// Any GPU of this model.
    Model(GpuModel),
    /// The GPU with this identity.
    Uuid(GpuUuid),
    /// Any GPU with so much memory at least, in GB.
    AtLeast(u32),
    /// Any GPU at all.
    Any,
}

/// A selector as it comes.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenSelector {
    Text(String),
    Tagged(TaggedSelector),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum TaggedSelector {
    Model(GpuModel),
    Uuid(GpuUuid),
    AtLeast(u32),
}

impl TryFrom<WrittenSelector> for GpuSelector {
    type Error = ValidationError;

    fn try_from(written: WrittenSelector) -> Result<Self, ValidationError> {
        match written {
            WrittenSelector::Text(text) => text.parse(),
            WrittenSelector::Tagged(TaggedSelector::Model(model)) => Ok(Self::Model(model)),
            WrittenSelector::Tagged(TaggedSelector::Uuid(uuid)) => Ok(Self::Uuid(uuid)),
            WrittenSelector::Tagged(TaggedSelector::AtLeast(gigabytes)) => Ok(Self::AtLeast(gigabytes)),
        }
    }
}

/// The memory in a request such as "at least 24 GB", ">=24GB", "24GB+" or "24 GB".
fn least_memory(text: &str) -> Option<u32> {
    let text = text.trim().to_ascii_lowercase();
    let amount = text.strip_prefix("at least").or_else(|| text.strip_prefix(">=")).or_else(|| text.strip_suffix('+'));
    let amount = amount.unwrap_or(&text).trim();
    let number =
        amount.strip_suffix("gib").or_else(|| amount.strip_suffix("gb")).or_else(|| amount.strip_suffix('g'))?;
    number.trim().parse().ok().filter(|gigabytes| *gigabytes > 0)
}

impl GpuSelector {
    /// Whether `gpu` would do.
    #[must_use]
    pub fn matches(&self, gpu: &Gpu) -> bool {
        match self {
            Self::Model(model) => gpu.is_a(model),
            Self::Uuid(uuid) => gpu.uuid == *uuid,
            // Of a card's memory some is the driver's.
            Self::AtLeast(gigabytes) => gpu.memory_mib * 100 >= u64::from(*gigabytes) * 1024 * 92,
            Self::Any => true,
        }
    }
}

impl FromStr for GpuSelector {
    type Err = ValidationError;

    /// A text that starts like a GPU UUID is one; "any" and "at least 24 GB" (">=24GB", "24GB+") are what they say, and so is
    /// what [`Display`](fmt::Display) makes of them; anything else is a model.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let text = text.trim_matches([' ', '\t']);
        if text.eq_ignore_ascii_case("any") || text.eq_ignore_ascii_case("nvidia") {
            return Ok(Self::Any);
        }
        if let Some(gigabytes) = least_memory(text) {
            return Ok(Self::AtLeast(gigabytes));
        }
        if text.starts_with("GPU-") || text.starts_with("MIG-") {
            text.parse().map(Self::Uuid)
        } else {
            text.parse().map(Self::Model)
        }
    }
}

/// Reads in a sentence: "every 24 GB GPU of this host is rented".
impl fmt::Display for GpuSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(model) => model.fmt(f),
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::AtLeast(gigabytes) => write!(f, "{gigabytes} GB"),
            Self::Any => f.write_str("NVIDIA"),
        }
    }
}

/// The GPUs that a renter asks for: so many of a kind. Reading one from JSON refuses what [`GpuRequest::new`] refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenRequest")]
pub struct GpuRequest {
    /// Which GPUs would do.
    pub selector: GpuSelector,
    /// How many; a UUID allows one.
    pub count: NonZeroU8,
}

/// A request as it comes.
#[derive(Deserialize)]
struct WrittenRequest {
    selector: GpuSelector,
    count: u8,
}

impl TryFrom<WrittenRequest> for GpuRequest {
    type Error = ValidationError;

    fn try_from(written: WrittenRequest) -> Result<Self, ValidationError> {
        Self::new(written.selector, written.count)
    }
}

impl GpuRequest {
    /// Asks for `count` GPUs.
    ///
    /// # Errors
    /// Refuses a count of 0, above 16, or above 1 for a single GPU named by UUID.
    pub fn new(selector: GpuSelector, count: u8) -> Result<Self, ValidationError> {
        let most = if matches!(selector, GpuSelector::Uuid(_)) { 1 } else { 16 };
        match NonZeroU8::new(count) {
            Some(count) if count.get() <= most => Ok(Self { selector, count }),
            _ => Err(ValidationError::new("gpu_count", format!("must be 1 to {most}"))),
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

    fn gpu(model: &str, memory_mib: u64) -> Gpu {
        let uuid = "GPU-00000001".parse().unwrap();
        Gpu { uuid, index: 0, model: model.parse().unwrap(), memory_mib, device_node: None, simulated: false }
    }

    /// Cards as nvidia-smi names them, with their memory in MiB, and by which names people mean them.
    const MEANT: [(&str, u64, &[&str]); 22] = [
        (
            "NVIDIA A100-SXM4-80GB",
            81_920,
            &["A100", "A100-80G", "A100 80GB", "A100-80GB", "A100-SXM4-80GB", "A100 SXM", "a100sxm"],
        ),
        ("NVIDIA A100 80GB PCIe", 81_920, &["A100", "A100-PCIE-80GB", "A100 80 GB", "A100 PCIe"]),
        ("NVIDIA A100-SXM4-40GB", 40_960, &["A100", "A100-40GB", "A100 SXM4 40GB"]),
        ("NVIDIA H100 80GB HBM3", 81_559, &["H100", "H100 SXM", "H100-SXM5-80GB", "H100 80GB", "h100sxm5"]),
        ("NVIDIA H100 PCIe", 81_559, &["H100", "H100 PCIe", "H100-80GB", "H100 PCIe 80GB"]),
        ("NVIDIA H100 NVL", 95_830, &["H100", "H100 NVL", "H100 94GB"]),
        ("NVIDIA H200", 143_771, &["H200", "H200 SXM", "H200 141GB", "nvidia h200"]),
        ("NVIDIA GH200 480GB", 97_871, &["GH200", "GH200 96GB"]),
        ("Tesla V100-SXM2-16GB", 16_160, &["V100", "v100", "V100-16GB", "Tesla V100-SXM2-16GB"]),
        ("Tesla T4", 15_360, &["T4", "T4 16GB", "tesla t4"]),
        ("NVIDIA L40S", 46_068, &["L40S", "L40S 48GB"]),
        ("NVIDIA A10G", 23_028, &["A10G", "A10G 24GB"]),
        (
            "NVIDIA GeForce RTX 4090",
            24_564,
            &["RTX 4090", "RTX4090", "4090", "RTX 4090 24GB", "rtx-4090", "GeForce RTX 4090"],
        ),
        ("NVIDIA GeForce RTX 4090 D", 24_564, &["RTX 4090 D", "4090D"]),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16_376, &["RTX 4090 Laptop", "4090 Laptop GPU"]),
        ("NVIDIA GeForce RTX 3090 Ti", 24_564, &["3090Ti", "RTX 3090 Ti", "RTX3090Ti"]),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 16_376, &["4070 Ti Super", "RTX4070TiSuper"]),
        ("NVIDIA RTX A6000", 49_140, &["A6000", "RTX A6000", "RTXA6000"]),
        ("NVIDIA RTX 6000 Ada Generation", 49_140, &["RTX_6000Ada", "RTX 6000 Ada", "RTX6000-Ada", "6000 Ada"]),
        ("Quadro RTX 6000", 24_576, &["Quadro RTX 6000", "RTX 6000"]),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97_887, &["RTX PRO 6000", "RTX PRO 6000 Blackwell"]),
        ("NVIDIA TITAN RTX", 24_576, &["TITAN RTX", "Titan RTX"]),
    ];

    #[test]
    fn a_selector_reads_what_it_prints_and_what_it_was_stored_as() {
        for text in ["RTX 5090", "GPU-0000-0001", "at least 24 GB", "any"] {
            let selector: GpuSelector = text.parse().unwrap();
            assert_eq!(selector.to_string().parse::<GpuSelector>().unwrap(), selector, "{selector}");
            let stored = serde_json::to_string(&selector).unwrap();
            assert_eq!(serde_json::from_str::<GpuSelector>(&stored).unwrap(), selector, "{stored}");
            assert_eq!(serde_json::from_value::<GpuSelector>(text.into()).unwrap(), selector, "{text}");
        }
    }

    #[test]
    fn a_request_keeps_its_rules_whoever_reads_it() {
        let read = |json: &str| serde_json::from_str::<GpuRequest>(json);
        assert_eq!(read(r#"{"selector":"RTX 5090","count":2}"#).unwrap().count.get(), 2);
        assert_eq!(read(r#"{"selector":{"model":"RTX 5090"},"count":16}"#).unwrap().count.get(), 16);
        for json in [
            r#"{"selector":"RTX 5090","count":0}"#,
            r#"{"selector":"RTX 5090","count":200}"#,
            r#"{"selector":{"uuid":"GPU-0000-0001"},"count":3}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn the_same_card_under_its_many_names() {
        for (card, memory, names) in MEANT {
            for name in names {
                let selector: GpuSelector = name.parse().unwrap();
                assert!(selector.matches(&gpu(card, memory)), "{name} is {card}");
            }
        }
    }

    #[test]
    fn another_card_is_another_card() {
        for (card, memory, asked) in [
            ("NVIDIA GeForce RTX 4090 D", 24_564, "4090"),
            ("NVIDIA GeForce RTX 4090 Laptop GPU", 16_376, "RTX 4090"),
            ("NVIDIA GeForce RTX 3090 Ti", 24_564, "3090"),
            ("NVIDIA GeForce RTX 4070 SUPER", 12_282, "RTX 4070"),
            ("NVIDIA A100-SXM4-40GB", 40_960, "A100-80GB"),
            ("NVIDIA A100 80GB PCIe", 81_920, "A100 SXM"),
            ("NVIDIA H100 80GB HBM3", 81_559, "H100 PCIe"),
            ("NVIDIA H100 PCIe", 81_559, "H100 SXM"),
            ("NVIDIA H200 NVL", 143_771, "H200 SXM"),
            ("NVIDIA RTX 6000 Ada Generation", 49_140, "Quadro RTX 6000"),
            ("NVIDIA RTX 6000 Ada Generation", 49_140, "RTX 6000"),
            ("Quadro RTX 6000", 24_576, "RTX 6000 Ada"),
            ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97_887, "RTX 6000"),
            ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 97_887, "RTX PRO 6000"),
            ("NVIDIA A10G", 23_028, "A10"),
            ("NVIDIA L40S", 46_068, "L40"),
            ("NVIDIA GeForce RTX 5090", 32_607, "RTX"),
            ("NVIDIA RTX A6000", 49_140, "RTX 6000"),
            ("NVIDIA GeForce RTX 3080", 10_240, "RTX 3080 12GB"),
        ] {
            let selector: GpuSelector = asked.parse().unwrap();
            assert!(!selector.matches(&gpu(card, memory)), "{asked} is not {card}");
        }
    }

    #[test]
    fn any_and_so_much_memory_are_requests_too() {
        let t4 = gpu("Tesla T4", 15_360);
        let matches = |text: &str| text.parse::<GpuSelector>().unwrap().matches(&t4);
        assert!(matches("any") && matches("Any") && matches("at least 16 GB") && matches(">=16GB") && matches("16GB+"));
        assert!(!matches("at least 24 GB") && !matches("24 GB+"));
        assert_eq!("at least 24 GB".parse(), Ok(GpuSelector::AtLeast(24)));
    }

    #[test]
    fn more_memory_than_can_be_counted_matches_nothing() {
        for asked in ["A100 4294967295GB", "A100 18446744073709551615GB", "A100 99999999999999999999 GB"] {
            let selector: GpuSelector = asked.parse().unwrap();
            assert!(!selector.matches(&gpu("NVIDIA A100-SXM4-80GB", 81_920)), "{asked}");
            assert!(!selector.matches(&gpu("NVIDIA A100-SXM4-80GB", u64::MAX / 1000)), "{asked}");
        }
    }

    #[test]
    fn a_name_of_vendor_words_alone_is_refused() {
        assert!("NVIDIA GeForce".parse::<GpuModel>().is_err());
        assert!("".parse::<GpuModel>().is_err());
        assert!("x\ny".parse::<GpuModel>().is_err());
    }
}

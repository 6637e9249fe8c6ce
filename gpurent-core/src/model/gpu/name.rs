//! The parts of a GPU's name: NVIDIA's driver, clouds and people write one card in many ways.
//!
//! `NVIDIA A100-SXM4-80GB`, `A100-80G` and `A100 80GB` are one card; `NVIDIA A100 80GB PCIe` is another, and is also called
//! `A100-PCIE-80GB`. A name is taken apart into the card itself, what makes it another card (`Ti`, `Laptop`), how it is
//! built in (`SXM`, `PCIe`, `NVL`) and its memory; what somebody leaves out does not matter to them.
//!
//! The names are those that nvidia-smi shows (<https://github.com/NVIDIA/open-gpu-kernel-modules>, list of products), and
//! those of the catalogues of gpuhunt (<https://github.com/dstackai/gpuhunt>) and SkyPilot
//! (<https://github.com/skypilot-org/skypilot-catalog>).

use std::collections::BTreeSet;

/// How a card is built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// On a socket.
    Sxm,
    /// In a slot.
    Pcie,
    /// In a slot, bridged to another.
    Nvl,
}

/// A name, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// The card itself, such as `a100`, `4090`, `6000 ada`.
    card: Vec<String>,
    /// The words that make it another card: `ti`, `super`, `d`, `laptop`, `maxq`.
    variants: BTreeSet<String>,
    form: Option<Form>,
    /// Gigabytes, as the name has them.
    memory: Option<u64>,
    /// The words that may be left out, and count where they are said: `blackwell`, `server`, `hbm3`.
    said: BTreeSet<String>,
}

/// Words that name the vendor or the product line, not the card. ("Quadro" is not among them: it tells one RTX 6000 from
/// another.)
const OF_THE_VENDOR: [&str; 5] = ["nvidia", "geforce", "tesla", "gpu", "graphics"];
const VARIANTS: [&str; 7] = ["ti", "super", "d", "laptop", "mobile", "sff", "maxq"];
const MAY_BE_LEFT_OUT: [&str; 13] = [
    "blackwell",
    "ampere",
    "hopper",
    "generation",
    "workstation",
    "server",
    "edition",
    "hbm2",
    "hbm2e",
    "hbm3",
    "hbm3e",
    "nvlink",
    "superchip",
];
/// Cards that are on a socket where their name says nothing else.
const ON_A_SOCKET: [&str; 5] = ["h200", "h20", "b100", "b200", "b300"];

/// The words of a name.
fn words(lower: &str) -> impl Iterator<Item = &str> {
    lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

/// The words of a name without the vendor's, joined by blanks.
pub(super) fn normalised(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    words(&lower).filter(|word| !OF_THE_VENDOR.contains(word)).collect::<Vec<_>>().join(" ")
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// Parts of a word that people write together: `rtx4090`, `3090ti`, `h100sxm5`, `6000ada`.
fn split(word: &str) -> Vec<String> {
    for line in ["rtx", "gtx"] {
        if let Some(rest) = word.strip_prefix(line).filter(|rest| !rest.is_empty()) {
            return [vec![line.to_owned()], split(rest)].concat();
        }
    }
    for form in ["sxm", "sxm2", "sxm3", "sxm4", "sxm5", "sxm6", "pcie", "nvl"] {
        if let Some(card) = word.strip_suffix(form).filter(|card| card.bytes().any(|byte| byte.is_ascii_digit())) {
            return [split(card), vec![form.to_owned()]].concat();
        }
    }
    let number = digits(word);
    let (front, back) = word.split_at(number);
    match back {
        "ti" | "super" | "d" | "ada" | "laptop" if number >= 3 => vec![front.to_owned(), back.to_owned()],
        "tisuper" if number >= 3 => vec![front.to_owned(), "ti".to_owned(), "super".to_owned()],
        _ => vec![word.to_owned()],
    }
}

fn memory_in(word: &str) -> Option<u64> {
    let number = digits(word);
    // What does not fit is no amount of memory, and no card has it in its name either.
    matches!(&word[number..], "g" | "gb" | "gib").then(|| word[..number].parse::<u32>().ok())?.map(u64::from)
}

fn form_in(word: &str) -> Option<Form> {
    match word {
        "pcie" => Some(Form::Pcie),
        "nvl" => Some(Form::Nvl),
        _ => word.strip_prefix("sxm").filter(|rest| digits(rest) == rest.len()).map(|_| Form::Sxm),
    }
}

impl Parts {
    pub(super) fn of(name: &str) -> Self {
        let lower = name.to_ascii_lowercase().replace("max-q", "maxq");
        let mut words: Vec<String> = words(&lower).flat_map(split).collect();
        // "80 GB" is one word, unless it is another one's number.
        for n in (1..words.len()).rev() {
            if matches!(words[n].as_str(), "gb" | "gib" | "g") && digits(&words[n - 1]) == words[n - 1].len() {
                let unit = words.remove(n);
                words[n - 1].push_str(&unit);
            }
        }
        let mut parts = Self::default();
        for word in words {
            if let Some(memory) = memory_in(&word) {
                parts.memory = Some(memory);
            } else if let Some(form) = form_in(&word) {
                parts.form = Some(form);
            } else if VARIANTS.contains(&word.as_str()) && !parts.card.is_empty() {
                parts.variants.insert(if word == "mobile" { "laptop".to_owned() } else { word });
            } else if MAY_BE_LEFT_OUT.contains(&word.as_str()) {
                parts.said.insert(word);
            } else if !OF_THE_VENDOR.contains(&word.as_str()) {
                parts.card.push(word);
            }
        }
        let has_a_number =
            parts.card.iter().any(|word| word.bytes().any(|byte| byte.is_ascii_digit()) && word != "rtx");
        if has_a_number {
            parts.card.retain(|word| word != "rtx" && word != "gtx");
        }
        // Of the line of workstation cards only those are ambiguous whose name is a number.
        let is_a_number = |word: &String| digits(word) == word.len();
        if parts.card.first().is_some_and(|word| word == "quadro") && !parts.card.get(1).is_some_and(is_a_number) {
            parts.card.remove(0);
        }
        parts
    }

    /// Whether nothing of a card is named.
    pub(super) fn is_empty(&self) -> bool {
        self.card.is_empty()
    }

    /// Gigabytes, where the name has them.
    pub(super) fn memory(&self) -> Option<u64> {
        self.memory
    }

    fn form(&self) -> Option<Form> {
        let is = |card: &str| self.card == [card];
        match self.form {
            // "NVIDIA H100 80GB HBM3" is the one on a socket, and its driver does not say so.
            None if is("h100") && self.said.contains("hbm3") => Some(Form::Sxm),
            None if ON_A_SOCKET.iter().any(|card| is(card)) => Some(Form::Sxm),
            form => form,
        }
    }

    fn is_card(&self, asked: &Self) -> bool {
        // "RTX 6000" is the one that the driver calls "Quadro RTX 6000".
        let named = self.card == asked.card
            || self.card.split_first().is_some_and(|(first, rest)| first == "quadro" && rest == asked.card);
        named
            && self.variants == asked.variants
            && asked.said.is_subset(&self.said)
            && (asked.form.is_none() || asked.form == self.form())
    }

    /// Whether a card of this name, and this memory in MiB where that is known, is what somebody means by `asked`.
    pub(super) fn answer_to(&self, asked: &Self, memory_mib: Option<u64>) -> bool {
        let Some(wanted) = asked.memory else { return self.is_card(asked) };
        // Of a card's memory some is the driver's: 16 GB are 15,360 MiB on a T4.
        let is_near = |mib: u64| mib.abs_diff(wanted * 1024) * 100 <= wanted * 1024 * 8;
        let has_it = match (memory_mib, self.memory) {
            (Some(mib), Some(said)) => is_near(mib) || (said == wanted && mib == 0),
            (Some(mib), None) => mib == 0 || is_near(mib),
            (None, Some(said)) => said == wanted,
            // Nobody knows: for a price it has to do.
            (None, None) => true,
        };
        self.is_card(asked) && has_it
    }
}

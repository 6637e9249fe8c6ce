//! The GPUs that are rented out, and places without one.

use std::str::FromStr;

use gpurent_core::error::ValidationError;
use gpurent_core::model::{GpuModel, GpuUuid};

/// The source of the GPUs that are rented out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuSource {
    /// All that the NVIDIA driver shows.
    Nvml,
    /// Some of them.
    NvmlOnly(Vec<GpuUuid>),
    /// So many that exist as names only.
    Simulated(u8, GpuModel),
}

impl FromStr for GpuSource {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let mut parts = text.splitn(3, ':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("nvml"), None, _) => Ok(Self::Nvml),
            (Some("nvml"), Some(uuids), None) => {
                Ok(Self::NvmlOnly(uuids.split(',').map(str::parse).collect::<Result<_, _>>()?))
            }
            (Some("simulated"), Some(count), Some(model)) => {
                let count = count.parse().ok().filter(|count| (1..=64).contains(count));
                let count =
                    count.ok_or_else(|| ValidationError::new("gpus", "simulated:N:MODEL takes 1 to 64 GPUs"))?;
                Ok(Self::Simulated(count, model.parse()?))
            }
            _ => Err(ValidationError::new("gpus", "must be nvml, nvml:UUID,... or simulated:N:MODEL")),
        }
    }
}

/// How many containers without a GPU there may be at once: a number, `true` for as many as is usual, `false` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WithoutGpu(pub u32);

impl FromStr for WithoutGpu {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        match text {
            "true" => Ok(Self(4)),
            "false" => Ok(Self(0)),
            number => number
                .parse()
                .map(Self)
                .map_err(|_| ValidationError::new("rent-without-gpu", "must be a number of containers")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_come_from_where_the_operator_says() {
        assert_eq!("nvml".parse(), Ok(GpuSource::Nvml));
        assert_eq!(
            "nvml:GPU-1,GPU-2"
                .parse::<GpuSource>()
                .map(|source| matches!(source, GpuSource::NvmlOnly(only) if only.len() == 2)),
            Ok(true)
        );
        assert_eq!("simulated:2:RTX 5090".parse(), Ok(GpuSource::Simulated(2, "RTX 5090".parse().unwrap())));
        for text in ["", "cuda", "simulated", "simulated:0:X", "simulated:x:X", "simulated:2:", "nvml:x"] {
            assert!(text.parse::<GpuSource>().is_err(), "{text}");
        }
    }
}

//! Templates: the images that renters choose by a short name.

use std::collections::BTreeMap;

use gpurent_core::model::{ContainerPort, ImageRef};
use serde::{Deserialize, Serialize};

/// An image that renters choose by a short name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The short name.
    pub id: String,
    /// For people.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The image.
    pub docker_image: ImageRef,
    /// Whether each instance asks the image's registry what the tag means at that moment; otherwise what the host has under
    /// the name serves, however old it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pin_image: bool,
    /// Ports of the container that are published, by what answers there: `jupyter` is told as `access.jupyter`.
    #[serde(default)]
    pub default_ports: BTreeMap<String, ContainerPort>,
    /// For people.
    #[serde(default)]
    pub category: String,
}

impl Template {
    /// The usual ones, as far as their images are published by their makers.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        let template = |id: &str, name: &str, description: &str, image: &str, ports: &[(&str, u16)], category: &str| {
            let port = |(name, port): &(&str, u16)| Some(((*name).to_owned(), ContainerPort::try_from(*port).ok()?));
            Some(Self {
                id: id.to_owned(),
                name: name.to_owned(),
                description: description.to_owned(),
                docker_image: image.parse().ok()?,
                pin_image: false,
                default_ports: ports.iter().filter_map(port).collect(),
                category: category.to_owned(),
            })
        };
        let jupyter = &[("jupyter", 8888)];
        let training = "ML Training";
        [
            template(
                "pytorch",
                "PyTorch",
                "PyTorch, Jupyter",
                "pytorch/pytorch:2.1.0-cuda12.1-cudnn8-devel",
                jupyter,
                training,
            ),
            template(
                "tensorflow",
                "TensorFlow",
                "TensorFlow, Jupyter",
                "tensorflow/tensorflow:latest-gpu",
                jupyter,
                training,
            ),
            template("vllm", "vLLM", "vLLM server", "vllm/vllm-openai:latest", &[("api", 8000)], "LLM Inference"),
            template(
                "base-cuda",
                "Base CUDA",
                "CUDA toolkit",
                "nvidia/cuda:12.4.1-devel-ubuntu22.04",
                &[],
                "Custom Development",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

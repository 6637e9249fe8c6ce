//! [`Images`] on Docker Engine: what lies on it, and taking it away.

use std::collections::HashMap;

use async_trait::async_trait;
use bollard::models::ImageInspect;
use bollard::query_parameters::{ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder};
use gpurent_core::model::ImageRef;
use gpurent_core::runtime::{
    Image, ImageDetails, ImageStep, Images, Progress, PullProgress, RemoveImageError, RuntimeError,
};
use jiff::Timestamp;

use crate::engine::error::{is_missing, refusal, unavailable};
use crate::engine::helper_image::MARKS;
use crate::runtime::DockerRuntime;

/// Of so many images at most is told.
const MOST: usize = 1000;

/// A progress that is followed by nobody.
struct Unheard;

impl PullProgress for Unheard {
    fn update(&self, _progress: Progress) {}
}

fn is_mark(tags: &[String]) -> bool {
    !tags.is_empty() && tags.iter().all(|tag| tag.starts_with(&format!("{MARKS}/")))
}

/// Whether a name may become a part of a path: nothing else of the engine may be reached by it.
fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'@');
    !name.is_empty()
        && name.len() <= 512
        && name.bytes().all(plain)
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

impl DockerRuntime {
    /// How many containers are made of each image.
    async fn containers_of_images(&self) -> Result<HashMap<String, u32>, RuntimeError> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let mut count = HashMap::new();
        for container in self.docker().list_containers(Some(options)).await.map_err(unavailable)? {
            *count.entry(container.image_id.unwrap_or_default()).or_insert(0) += 1;
        }
        Ok(count)
    }

    async fn find_image(&self, name: &str) -> Result<Option<ImageInspect>, RuntimeError> {
        if !is_plain(name) {
            return Ok(None);
        }
        match self.docker().inspect_image(name).await {
            Ok(found) if is_mark(found.repo_tags.as_deref().unwrap_or_default()) => Ok(None),
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            // A name that cannot be one.
            Err(error) if matches!(refusal(&error), Some((400, _))) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }
}

#[async_trait]
impl Images for DockerRuntime {
    async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        let options = ListImagesOptionsBuilder::default().build();
        let listed = self.docker().list_images(Some(options)).await.map_err(unavailable)?;
        let containers = self.containers_of_images().await?;
        let mut images: Vec<_> = listed
            .into_iter()
            .filter(|image| !is_mark(&image.repo_tags))
            .map(|image| Image {
                containers: containers.get(&image.id).copied().unwrap_or(0),
                id: image.id,
                tags: image.repo_tags.into_iter().filter(|tag| tag != "<none>:<none>").collect(),
                size: u64::try_from(image.size).unwrap_or(0),
                created_at: Timestamp::from_second(image.created).ok(),
                parent: image.parent_id,
                ..Image::default()
            })
            .collect();
        images.sort_by_key(|image| std::cmp::Reverse(image.created_at));
        images.truncate(MOST);
        Ok(images)
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        let Some(found) = self.find_image(name).await? else { return Ok(None) };
        let id = found.id.unwrap_or_default();
        let containers = self.containers_of_images().await?;
        let history = match self.docker().image_history(&id).await {
            Ok(history) => history,
            // Removed in between.
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        };
        let step = |step: bollard::models::ImageHistoryResponseItem| ImageStep {
            created_at: Timestamp::from_second(step.created).ok(),
            created_by: step.created_by,
            size: u64::try_from(step.size).unwrap_or(0),
            comment: step.comment,
        };
        let config = found.config.unwrap_or_default();
        let details = ImageDetails {
            layers: found.root_fs.and_then(|root| root.layers).unwrap_or_default(),
            history: history.into_iter().map(step).collect(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
            environment: config.env.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            exposed_ports: config.exposed_ports.unwrap_or_default(),
        };
        Ok(Some(Image {
            details: Some(Box::new(details)),
            os: found.os.unwrap_or_default(),
            comment: found.comment.unwrap_or_default(),
            author: found.author.unwrap_or_default(),
            containers: containers.get(&id).copied().unwrap_or(0),
            id,
            tags: found.repo_tags.unwrap_or_default(),
            size: found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            created_at: found.created.and_then(|at| at.parse().ok()),
            architecture: found.architecture.unwrap_or_default(),
            parent: String::new(),
        }))
    }

    async fn remove_image(&self, name: &str, force: bool) -> Result<(), RemoveImageError> {
        let Some(image) = self.image(name).await? else { return Err(RemoveImageError::NotThere) };
        if image.containers > 0 {
            return Err(RemoveImageError::InUse);
        }
        let options = RemoveImageOptionsBuilder::default().force(force).build();
        match self.docker().remove_image(name, Some(options), None).await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Err(RemoveImageError::NotThere),
            // A container was made of it in between, or it has several names.
            Err(error) if matches!(refusal(&error), Some((409, _))) => Err(RemoveImageError::InUse),
            Err(error) => Err(unavailable(error).into()),
        }
    }

    async fn fetch(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        self.images().ensure(image, None, &Unheard).await.map(|_| ())
    }
}

//! Pulling images, with a deadline of progress.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use gpurent_core::runtime::{Progress, PullProgress, RuntimeError};
use gpurent_core::spec::ImageRef;
use tokio::sync::Semaphore;

use crate::error::{is_missing, refusal, unavailable};

/// How long a pull may make no progress before it is given up: a slow line is fine, a dead one is not.
#[derive(Clone, Copy, Debug)]
pub struct PullPatience(pub Duration);

impl Default for PullPatience {
    fn default() -> Self {
        Self(Duration::from_secs(120))
    }
}

/// Progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The image as the engine has it; `None` where it does not.
pub(crate) async fn inspect(docker: &Docker, image: &ImageRef) -> Result<Option<ImageInspect>, RuntimeError> {
    match docker.inspect_image(image.as_str()).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

/// Makes sure that the engine has the image.
pub(crate) async fn ensure(
    docker: &Docker,
    pulls: &Semaphore,
    image: &ImageRef,
    patience: PullPatience,
    progress: &dyn PullProgress,
) -> Result<(), RuntimeError> {
    if inspect(docker, image).await?.is_some() {
        return Ok(());
    }
    // Only what really has to be pulled stands in line, and the line is fair.
    let _turn = pulls.acquire().await.map_err(|closed| RuntimeError::Unavailable(Box::new(closed)))?;
    let options = CreateImageOptionsBuilder::default().from_image(image.name()).tag(image.selector()).build();
    // The engine answers nothing at all until the registry has: that wait is ours to limit too.
    let unhurried = docker.clone().with_timeout(patience.0 * 2);
    let mut stream = Box::pin(unhurried.create_image(Some(options), None, None));
    let mut pull = Pull::default();
    let mut last_progress = Instant::now();
    let mut last_told: Option<Instant> = None;
    loop {
        let left = patience.0.saturating_sub(last_progress.elapsed());
        let Ok(next) = tokio::time::timeout(left, stream.next()).await else {
            return Err(RuntimeError::PullStalled { image: image.clone(), idle: patience.0 });
        };
        let news = match next {
            None => {
                progress.update(pull.sum("Pull complete".to_owned()));
                return Ok(());
            }
            Some(Ok(news)) => news,
            Some(Err(error)) => return Err(failed(image, error)),
        };
        // Messages alone ("Retrying in 5 seconds") are no progress.
        if pull.hear(&news) {
            last_progress = Instant::now();
        }
        if last_told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            last_told = Some(Instant::now());
            progress.update(pull.sum(news.status.unwrap_or_default()));
        }
    }
}

/// Makes an image of one static program, so that a host can be tried out where nothing can be pulled.
pub(crate) async fn import_busybox(docker: &Docker, busybox: Vec<u8>, image: &ImageRef) -> Result<(), RuntimeError> {
    let archive = busybox_archive(&busybox).map_err(|error| RuntimeError::Refused(Box::new(error)))?;
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(image.name())
        .tag(image.selector())
        .changes(vec!["CMD [\"/bin/sh\"]".to_owned()])
        .build();
    let mut stream = Box::pin(docker.create_image(Some(options), Some(bollard::body_full(archive.into())), None));
    while let Some(news) = stream.next().await {
        news.map_err(|error| failed(image, error))?;
    }
    Ok(())
}

fn busybox_archive(busybox: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    tar.append_data(&mut header, "bin/busybox", busybox)?;
    for applet in ["sh", "ls", "cat", "echo", "env", "id", "ps", "sleep", "top", "vi"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    tar.into_inner()
}

/// Whatever the registry or the engine says against a pull concerns the image; silence concerns the
/// engine.
fn failed(image: &ImageRef, error: bollard::errors::Error) -> RuntimeError {
    use bollard::errors::Error;
    if refusal(&error).is_some() || matches!(error, Error::DockerStreamError { .. }) {
        RuntimeError::ImageUnavailable { image: image.clone(), source: Box::new(error) }
    } else {
        unavailable(error)
    }
}

/// What is known of a pull's layers.
#[derive(Default)]
struct Pull {
    layers: HashMap<String, Layer>,
}

#[derive(Default, PartialEq, Eq, Clone)]
struct Layer {
    current: u64,
    total: u64,
    stage: u8,
}

impl Pull {
    /// Takes in a message; true if anything got further.
    fn hear(&mut self, news: &CreateImageInfo) -> bool {
        let Some(id) = &news.id else { return false };
        let stage = match news.status.as_deref() {
            Some("Downloading") => 1,
            Some("Verifying Checksum") => 2,
            Some("Download complete") => 3,
            Some("Extracting") => 4,
            Some("Pull complete" | "Already exists") => 5,
            _ => 0,
        };
        let is_new = !self.layers.contains_key(id);
        let layer = self.layers.entry(id.clone()).or_default();
        let before = layer.clone();
        let bytes = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
        if let (1, Some(detail)) = (stage, &news.progress_detail) {
            layer.current = bytes(detail.current).unwrap_or(layer.current);
            layer.total = bytes(detail.total).unwrap_or(layer.total);
        }
        if stage >= 3 {
            layer.current = layer.total;
        }
        layer.stage = layer.stage.max(stage);
        // Extraction of a large layer counts as long as its own bytes go on.
        let extracts = stage == 4 && news.progress_detail.as_ref().is_some_and(|detail| detail.current.is_some());
        is_new || extracts || layer.current > before.current || layer.stage > before.stage
    }

    fn sum(&self, status: String) -> Progress {
        let sum = |of: fn(&Layer) -> u64| self.layers.values().map(of).sum();
        Progress { current_bytes: sum(|layer| layer.current), total_bytes: sum(|layer| layer.total), status }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    fn news(id: &str, status: &str, current: i64) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(ProgressDetail { current: Some(current), total: Some(100) }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn bytes_are_progress_and_words_are_not() {
        let mut pull = Pull::default();
        assert!(pull.hear(&news("a", "Downloading", 10)));
        assert!(!pull.hear(&news("a", "Downloading", 10)));
        assert!(!pull.hear(&news("a", "Retrying in 5 seconds", 10)));
        assert!(pull.hear(&news("a", "Downloading", 60)));
        assert!(pull.hear(&news("b", "Downloading", 1)));
        assert_eq!((pull.sum(String::new()).current_bytes, pull.sum(String::new()).total_bytes), (61, 200));
        assert!(pull.hear(&news("a", "Download complete", 0)));
        assert_eq!(pull.sum(String::new()).current_bytes, 101);
    }
}

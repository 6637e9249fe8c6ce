//! Pulling images, with a deadline of progress.

pub(crate) mod registries;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use gpurent_core::model::{ImageDigest, ImageRef, RegistryLogin, ResolvedImage};
use gpurent_core::runtime::{Prepared, Progress, PullProgress, RuntimeError};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::engine::error::{is_missing, refusal, unavailable};
use crate::engine::helper_image;
use crate::engine::helper_image::MARKS;
use crate::image::registries::{NotAsked, Registries};

/// How long a pull may make no progress before it is given up: a slow line is fine, a dead one is not.
#[derive(Clone, Copy, Debug)]
pub struct PullPatience(pub Duration);

impl Default for PullPatience {
    fn default() -> Self {
        Self(Duration::from_secs(120))
    }
}

/// Progress is told at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The reference with registry, path, and tag or digest all said. Anything shorter could be taken for the
/// beginning of an image's id, and so lead to an image that was never asked for by its name.
pub(crate) fn full_name(image: &ImageRef) -> String {
    let separator = if image.selector().contains(':') { '@' } else { ':' };
    format!("{}{separator}{}", repository(image), image.selector())
}

/// Registry and path, completed as Docker completes them.
fn repository(image: &ImageRef) -> String {
    let name = image.name();
    match name.split_once('/') {
        Some(("docker.io" | "index.docker.io", path)) if path.contains('/') => format!("docker.io/{path}"),
        Some(("docker.io" | "index.docker.io", path)) => format!("docker.io/library/{path}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// An empty image on the engine whose name says: images of that repository are not for everybody, ask the
/// registry. It is where the images are, and so outlives this program.
fn mark_of_privacy(image: &ImageRef) -> String {
    let hash: String = Sha256::digest(repository(image)).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{MARKS}/{hash}")
}

async fn is_marked(docker: &Docker, image: &ImageRef) -> Result<bool, RuntimeError> {
    match docker.inspect_image(&format!("docker.io/{}:latest", mark_of_privacy(image))).await {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(unavailable(error)),
    }
}

async fn mark(docker: &Docker, image: &ImageRef) -> Result<(), RuntimeError> {
    let name = mark_of_privacy(image);
    helper_image::import_empty(docker, &name).await
}

/// The registry that a name leads to, as logins are addressed.
fn registry_of(image: &ImageRef) -> &str {
    match image.name().split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "https://index.docker.io/v1/",
    }
}

fn digest_of(image: &ImageInspect, name: &ImageRef) -> Option<ImageDigest> {
    let digests = image.repo_digests.as_deref().unwrap_or_default();
    // Docker leaves out of its lists what it completes in names.
    let listed = repository(name);
    let listed = listed.strip_prefix("docker.io/library/").or(listed.strip_prefix("docker.io/")).unwrap_or(&listed);
    let mut split = digests.iter().filter_map(|digest| digest.split_once('@'));
    let (_, found) = split.find(|(repository, _)| *repository == listed)?;
    // A form that is not ours to know is as good as none.
    ImageDigest::try_from(found.to_owned()).ok()
}

/// The image as the engine has it; `None` where it does not.
pub(crate) async fn inspect(docker: &Docker, image: &ImageRef) -> Result<Option<ImageInspect>, RuntimeError> {
    match docker.inspect_image(&full_name(image)).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

/// The source of images: an engine, and what it may ask.
pub(crate) struct Source<'a> {
    pub(crate) docker: &'a Docker,
    pub(crate) pulls: &'a Semaphore,
    pub(crate) patience: PullPatience,
    /// The engine's kind of processor, as uname(1) calls it.
    pub(crate) architecture: &'a str,
    pub(crate) registries: &'a Registries,
    /// Whether the engine asks registries by way of a proxy.
    pub(crate) by_proxy: bool,
}

impl Source<'_> {
    /// Makes sure that the engine has what the image's tag means in its registry now, and that who asks may have it.
    pub(crate) async fn ensure_current(
        &self,
        image: &ImageRef,
        login: Option<&RegistryLogin>,
        progress: &dyn PullProgress,
    ) -> Result<Prepared, RuntimeError> {
        expect_no_mark(image)?;
        if image.has_digest() {
            return self.ensure(image, login, progress).await;
        }
        self.expect_allowed(image).await?;
        let digest = ask_registry(self.docker, image, login).await?;
        self.ensure(&image.pinned(&digest), login, progress).await?;
        Ok(Prepared { digest: Some(digest) })
    }

    /// Makes sure that the engine has the image, and that who asks may have it.
    pub(crate) async fn ensure(
        &self,
        image: &ImageRef,
        login: Option<&RegistryLogin>,
        progress: &dyn PullProgress,
    ) -> Result<Prepared, RuntimeError> {
        let docker = self.docker;
        expect_no_mark(image)?;
        let prepared = |found: &ImageInspect| Prepared { digest: digest_of(found, image) };
        let fits =
            |found: &ImageInspect| fits(image, found.architecture.as_deref().unwrap_or_default(), self.architecture);
        let (found, marked) = tokio::join!(inspect(docker, image), is_marked(docker, image));
        let (found, marked) = (found?, marked?);
        if let (Some(found), None, false) = (&found, login, marked) {
            return fits(found).map(|()| prepared(found));
        }
        self.expect_allowed(image).await?;
        if marked || login.is_some() {
            ask_registry(docker, image, login).await?;
        }
        // Marked before it is here, so that there is no moment in which it is anybody's.
        if login.is_some() && !marked && ask_registry(docker, image, None).await.is_err() {
            mark(docker, image).await?;
        }
        self.pull(image, login, progress).await?;
        let found = inspect(docker, image).await?;
        found.as_ref().map_or(Ok(()), fits)?;
        Ok(found.as_ref().map(prepared).unwrap_or_default())
    }

    /// From here on the engine goes where the image's name leads it.
    async fn expect_allowed(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        let image = image.clone();
        self.registries.expect_allowed(&image, self.by_proxy).await.map_err(|not_asked| match not_asked {
            // Of no renter's doing.
            NotAsked::NotNow => RuntimeError::PullStalled { image, idle: registries::RESOLVE_TIMEOUT },
            not_asked => RuntimeError::ImageUnavailable { image, source: Box::new(not_asked) },
        })
    }

    async fn pull(
        &self,
        image: &ImageRef,
        login: Option<&RegistryLogin>,
        progress: &dyn PullProgress,
    ) -> Result<(), RuntimeError> {
        // Only what really has to be pulled stands in line, and the line is fair.
        let _turn = self.pulls.acquire().await.map_err(|closed| RuntimeError::Unavailable(Box::new(closed)))?;
        let options = CreateImageOptionsBuilder::default().from_image(&repository(image)).tag(image.selector()).build();
        // The engine answers nothing at all until the registry has: that wait is ours to limit too.
        let unhurried = self.docker.clone().with_timeout(self.patience.0 * 2);
        let mut stream = Box::pin(unhurried.create_image(Some(options), None, login_to(image, login)));
        let mut pull = Pull::default();
        let mut last_progress = Instant::now();
        let mut last_told: Option<Instant> = None;
        loop {
            let left = self.patience.0.saturating_sub(last_progress.elapsed());
            let Ok(next) = tokio::time::timeout(left, stream.next()).await else {
                if pull.waits_for_others() {
                    // The engine pulls so many layers at once, and these are others'. Bounded by the rental's own time.
                    last_progress = Instant::now();
                    continue;
                }
                return Err(RuntimeError::PullStalled { image: image.clone(), idle: self.patience.0 });
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
            if last_told.is_none_or(|told| told.elapsed() >= PROGRESS_INTERVAL) {
                last_told = Some(Instant::now());
                progress.update(pull.sum(news.status.unwrap_or_default()));
            }
        }
    }
}

/// Refuses an image for another kind of processor: its programs would not even start.
fn fits(image: &ImageRef, found: &str, host: &str) -> Result<(), RuntimeError> {
    // Go's names, which images have, for those of uname(1), which the engine has.
    let host = match host {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armv6l" => "arm",
        other => other,
    };
    let runs = matches!((found, host), ("", _) | (_, "") | ("386", "amd64")) || found == host;
    if runs {
        return Ok(());
    }
    Err(RuntimeError::WrongArchitecture { image: image.clone(), found: found.to_owned(), host: host.to_owned() })
}

/// Refuses the names of the host's own marks.
fn expect_no_mark(image: &ImageRef) -> Result<(), RuntimeError> {
    if repository(image).starts_with(&format!("docker.io/{MARKS}/")) {
        let source = "images of this name are the host's own marks".into();
        return Err(RuntimeError::ImageUnavailable { image: image.clone(), source });
    }
    Ok(())
}

/// Asks the registry for the image's digest, and with it whether it gives the image to whoever logs in so. A pull alone is
/// no question: by digest, the engine answers it from what it has.
async fn ask_registry(
    docker: &Docker,
    image: &ImageRef,
    registry: Option<&RegistryLogin>,
) -> Result<ImageDigest, RuntimeError> {
    let asked = docker.inspect_registry_image(&full_name(image), login_to(image, registry)).await;
    let descriptor = asked.map_err(|error| failed(image, error))?.descriptor;
    ImageDigest::try_from(descriptor.digest.unwrap_or_default())
        .map_err(|invalid| RuntimeError::RegistryUnavailable { image: image.clone(), source: Box::new(invalid) })
}

/// The identity of an image that the engine has under a name.
pub(crate) fn resolved(found: &ImageInspect, name: &ImageRef) -> ResolvedImage {
    // The engine writes the year 1 for "never".
    let moment =
        |text: Option<&String>| text.and_then(|text| text.parse().ok()).filter(|at| *at > Timestamp::UNIX_EPOCH);
    ResolvedImage {
        digest: digest_of(found, name),
        built_at: moment(found.created.as_ref()),
        fetched_at: moment(found.metadata.as_ref().and_then(|metadata| metadata.last_tag_time.as_ref())),
    }
}

fn login_to(image: &ImageRef, registry: Option<&RegistryLogin>) -> Option<DockerCredentials> {
    registry.map(|login| DockerCredentials {
        username: Some(login.username().to_owned()),
        password: Some(login.expose().to_owned()),
        serveraddress: Some(registry_of(image).to_owned()),
        ..DockerCredentials::default()
    })
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

/// The sentences that a renter is told of a pull that failed: one of these, never what was said. The host that an image names
/// is the renter's choice, and its words may be those of a server that is none of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("its registry has no such image, or gives it only to those who log in")]
    NotThere,
    #[error("its registry does not give it to whoever asks so: log in")]
    Denied,
    #[error("its registry is asked too often, and gives nothing for a while")]
    TooOften,
    #[error("the host's disk is full")]
    NoRoom,
    #[error("the engine did not get it from its registry")]
    Other,
}

impl Refusal {
    /// By what the engine says, which passes on what registries say in their own words.
    fn of(said: &str) -> Self {
        let said = said.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if says(&["toomanyrequests", "too many requests"]) {
            Self::TooOften
        } else if says(&["no space left on device", "disk quota exceeded"]) {
            Self::NoRoom
        } else if says(&["unauthorized", "no basic auth", "authentication required", "incorrect username"]) {
            Self::Denied
        } else if says(&["manifest unknown", "not found", "does not exist", "name unknown"]) {
            Self::NotThere
        } else if says(&["denied", "forbidden"]) {
            Self::Denied
        } else {
            Self::Other
        }
    }
}

/// Words of the registry or the engine against a pull concern the image; silence concerns the engine. The words
/// themselves are in the log alone.
fn failed(image: &ImageRef, error: bollard::errors::Error) -> RuntimeError {
    use bollard::errors::Error;
    let said = match (&error, refusal(&error)) {
        (_, Some((_, said))) => said,
        (Error::DockerStreamError { error }, _) => error,
        _ => return unavailable(error),
    };
    let why = Refusal::of(said);
    let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1024).collect();
    tracing::warn!(%image, said, "an image was not pulled");
    let (image, source) = (image.clone(), Box::new(why));
    match why {
        Refusal::NotThere | Refusal::Denied => RuntimeError::ImageUnavailable { image, source },
        // A registry that is busy or away, a name that does not lead there, a line that was cut: all alike, so that a renter
        // learns nothing of what an address answers.
        Refusal::TooOften | Refusal::NoRoom | Refusal::Other => RuntimeError::RegistryUnavailable { image, source },
    }
}

/// The layers of a pull, as far as they are known.
#[derive(Default)]
struct Pull {
    layers: HashMap<String, Layer>,
}

#[derive(Default, PartialEq, Eq, Clone)]
struct Layer {
    current: u64,
    total: u64,
    stage: u8,
    /// The layer stands in the engine's own line.
    waits: bool,
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
        layer.waits = news.status.as_deref() == Some("Waiting");
        // Extraction of a large layer counts as long as its own bytes go on.
        let extracts = stage == 4 && news.progress_detail.as_ref().is_some_and(|detail| detail.current.is_some());
        is_new || extracts || layer.current > before.current || layer.stage > before.stage
    }

    /// Whether all that is still to come stands in the engine's own line: nothing of this pull is under way.
    fn waits_for_others(&self) -> bool {
        let is_done = |layer: &&Layer| layer.stage == 3 || layer.stage == 5;
        let mut open = self.layers.values().filter(|layer| !is_done(layer)).peekable();
        open.peek().is_some() && open.all(|layer| layer.waits)
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
    fn one_repository_has_one_mark_under_all_its_names() {
        let mark = |name: &str| mark_of_privacy(&name.parse().unwrap());
        assert_eq!(mark("me/secret:1"), mark("docker.io/me/secret:2"));
        assert_eq!(mark("busybox"), mark("index.docker.io/library/busybox"));
        assert_ne!(mark("me/secret"), mark("registry.example:5000/me/secret"));
        let digest = "sha256:".to_owned() + &"a".repeat(64);
        assert_eq!(mark(&format!("me/secret@{digest}")), mark("me/secret"));
        assert_eq!(
            full_name(&format!("me/secret:1@{digest}").parse().unwrap()),
            format!("docker.io/me/secret@{digest}")
        );
        assert_eq!(full_name(&"abc".parse().unwrap()), "docker.io/library/abc:latest");
        assert_eq!(full_name(&"sha256:ab".parse().unwrap()), "docker.io/library/sha256:ab", "no image's id");
    }

    #[test]
    fn a_digest_is_that_of_the_repository_that_was_asked_for() {
        let digest = |n: char| format!("sha256:{}", n.to_string().repeat(64));
        let image = ImageInspect {
            repo_digests: Some(vec![format!("other/name@{}", digest('a')), format!("ubuntu@{}", digest('b'))]),
            ..ImageInspect::default()
        };
        let of = |name: &str| digest_of(&image, &name.parse().unwrap()).map(|found| found.to_string());
        assert_eq!(of("docker.io/library/ubuntu:22.04"), Some(digest('b')));
        assert_eq!(of("ubuntu"), Some(digest('b')));
        assert_eq!(of("other/name:1"), Some(digest('a')));
        assert_eq!(of("never/pulled"), None);
    }

    #[test]
    fn what_is_of_the_moment_is_no_renters_fault() {
        let again = |said: &str| {
            let error = bollard::errors::Error::DockerStreamError { error: said.to_owned() };
            failed(&"a/b".parse().unwrap(), error).failure().is_none()
        };
        for said in [
            "toomanyrequests: You have reached your pull rate limit",
            "received unexpected HTTP status: 503 Service Unavailable",
            "dial tcp: lookup registry.example: no such host",
            "dial tcp 10.0.0.1:443: connect: connection refused",
            "read: connection reset by peer",
            "unexpected EOF",
            "net/http: TLS handshake timeout",
            "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
        ] {
            assert!(again(said), "{said}");
        }
        for said in ["manifest for a/b:1 not found: manifest unknown", "unauthorized: authentication required"] {
            assert!(!again(said), "{said}");
        }
    }

    #[test]
    fn what_waits_in_the_engines_line_is_not_stalled() {
        let mut pull = Pull::default();
        assert!(!pull.waits_for_others(), "nothing is known yet");
        pull.hear(&news("a", "Waiting", 0));
        pull.hear(&news("b", "Waiting", 0));
        assert!(pull.waits_for_others());
        pull.hear(&news("a", "Downloading", 10));
        assert!(!pull.waits_for_others(), "its own layer may stall");
        pull.hear(&news("a", "Download complete", 0));
        assert!(pull.waits_for_others());
        pull.hear(&news("b", "Pull complete", 0));
        pull.hear(&news("a", "Pull complete", 0));
        assert!(!pull.waits_for_others());
    }

    #[test]
    fn a_renter_is_told_nothing_that_a_server_said() {
        let told = |said: &str| {
            let error = bollard::errors::Error::DockerStreamError { error: said.to_owned() };
            let (RuntimeError::ImageUnavailable { source, .. } | RuntimeError::RegistryUnavailable { source, .. }) =
                failed(&"a/b".parse().unwrap(), error)
            else {
                panic!("it concerns the image");
            };
            assert!(source.source().is_none());
            source.to_string()
        };
        let page = "error parsing HTTP 404 response body: invalid character '<': \"<html>password=hunter2</html>\"";
        assert_eq!(told(page), Refusal::Other.to_string());
        assert_eq!(told("dial tcp 10.0.0.1:22: connect: connection refused"), Refusal::Other.to_string());
        assert_eq!(told("manifest for a/b:1 not found: manifest unknown"), Refusal::NotThere.to_string());
        let denied = "pull access denied for x, repository does not exist or may require 'docker login': denied";
        assert_eq!(told(denied), Refusal::NotThere.to_string());
        assert_eq!(told("unauthorized: authentication required"), Refusal::Denied.to_string());
        assert_eq!(told("toomanyrequests: You have reached your pull rate limit"), Refusal::TooOften.to_string());
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

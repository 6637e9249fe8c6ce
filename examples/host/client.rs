//! A client of a host's own API, for the command line.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use reqwest::header::ACCEPT;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use crate::exit::{Failed, with_causes};

/// How long an answer may take; streams have no end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an image that the host pulls first is waited for.
const PULL_TIMEOUT: Duration = Duration::from_secs(2 * 3600);

/// Which host is spoken to.
#[derive(Args, Clone)]
pub struct Connection {
    /// The host's API.
    #[arg(long, env = "GPURENT_URL", default_value = "http://127.0.0.1:8000", global = true)]
    pub url: String,
    /// File with the API key (or GPURENT_API_KEY): the one to send, or, for `serve`, the one to ask for.
    #[arg(long, env = "GPURENT_API_KEY_FILE", global = true)]
    pub api_key_file: Option<PathBuf>,
    /// Certificates (PEM) that an agent with TLS is trusted by, besides the system's.
    #[arg(long, env = "GPURENT_CA_FILE", global = true)]
    pub ca_file: Option<PathBuf>,
    /// Answer in JSON, for scripts.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Speaks to one host.
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

impl Client {
    /// Reads the key. It is never taken from the command line, which everybody on the machine can read.
    pub fn new(connection: &Connection) -> Result<Self, Failed> {
        let key = match (std::env::var("GPURENT_API_KEY").ok(), &connection.api_key_file) {
            (Some(key), _) => Some(key),
            (None, Some(path)) => {
                let read = std::fs::read_to_string(path);
                Some(read.map_err(|error| Failed::Here(format!("the API key file {}: {error}", path.display())))?)
            }
            (None, None) => None,
        };
        let mut http = reqwest::Client::builder().connect_timeout(Duration::from_secs(10));
        if let Some(path) = &connection.ca_file {
            let failed = |error: &dyn std::fmt::Display| Failed::Here(format!("{}: {error}", path.display()));
            let read = std::fs::read(path).map_err(|error| failed(&error))?;
            for certificate in reqwest::Certificate::from_pem_bundle(&read).map_err(|error| failed(&error))? {
                http = http.add_root_certificate(certificate);
            }
        }
        let http = http.build();
        Ok(Self {
            http: http.map_err(|error| Failed::here(&error))?,
            base: connection.url.trim_end_matches('/').to_owned(),
            key: key.map(|key| key.trim().to_owned()),
        })
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Reads something.
    pub async fn get(&self, path: &str) -> Result<Value, Failed> {
        json(self.request(Method::GET, path).timeout(ANSWER_TIMEOUT).send().await).await
    }

    /// Reads something that comes as it happens.
    pub async fn stream(&self, path: &str) -> Result<Response, Failed> {
        check(self.request(Method::GET, path).send().await).await
    }

    /// Reads something that comes as lines of JSON.
    pub async fn lines(&self, path: &str) -> Result<String, Failed> {
        let request = self.request(Method::GET, path).header(ACCEPT, "application/x-ndjson").timeout(ANSWER_TIMEOUT);
        check(request.send().await).await?.text().await.map_err(|error| Failed::Unavailable(error.to_string()))
    }

    /// Changes something.
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failed> {
        json(self.request(method, path).timeout(ANSWER_TIMEOUT).json(body).send().await).await
    }

    /// Makes a rental, at most once under one key: safe to repeat where an answer was lost.
    pub async fn create(&self, key: &str, body: &Value) -> Result<Value, Failed> {
        let (mut tries, begun) = (0, Instant::now());
        loop {
            let request = self.request(Method::POST, "/v1/rentals").timeout(ANSWER_TIMEOUT);
            match json(request.header("Idempotency-Key", key).json(body).send().await).await {
                Err(Failed::Unavailable(why)) if tries < 3 => {
                    tracing::warn!(why, "no answer; asking again");
                    tries += 1;
                    tokio::time::sleep(Duration::from_secs(tries)).await;
                }
                // Nothing is claimed meanwhile.
                Err(Failed::Pulling(why)) if begun.elapsed() < PULL_TIMEOUT => {
                    tracing::info!(why, "waiting for the image");
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
                result => return result,
            }
        }
    }

    /// Follows what happens from now on.
    pub async fn events(&self) -> Result<Events, Failed> {
        let request = self.request(Method::GET, "/v1/events").header("Accept", "text/event-stream");
        let response = check(request.send().await).await?;
        Ok(Events { response, text: String::new() })
    }

    /// The id of a rental that is named by its id, the beginning of its id, or its name.
    pub async fn find(&self, name: &str) -> Result<String, Failed> {
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !plain {
            return Err(Failed::Invalid(format!("{name:?} is neither an id nor a name")));
        }
        if name.len() == 36 && name.matches('-').count() == 4 {
            return Ok(name.to_owned());
        }
        let ids = |page: &Value| -> Vec<String> {
            let rentals = page["rentals"].as_array().map(Vec::as_slice).unwrap_or_default();
            rentals.iter().filter_map(|rental| rental["id"].as_str().map(str::to_owned)).collect()
        };
        // A name may look like the beginning of another rental's id, and whoever sees those of several renters may see it
        // several times: then nobody guesses which was meant.
        let live = format!("state={}", crate::command::rentals::LIVE);
        let mut meant = ids(&self.get(&format!("/v1/rentals?limit=20&name={name}&{live}")).await?);
        let mut begins = ids(&self.get("/v1/rentals?limit=200").await?);
        begins.retain(|id| id.starts_with(name));
        meant.extend(begins);
        meant.sort();
        meant.dedup();
        if meant.is_empty() {
            meant = ids(&self.get(&format!("/v1/rentals?limit=1&name={name}")).await?);
        }
        match meant.as_slice() {
            [] => Err(Failed::NotFound(format!("there is no rental {name}"))),
            [id] => Ok(id.clone()),
            several => Err(Failed::Invalid(format!("{name} may mean any of {}", several.join(", ")))),
        }
    }
}

/// A stream of events.
pub struct Events {
    response: Response,
    text: String,
}

impl Events {
    /// The next event; `None` where the host has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Value>, Failed> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let message: String = self.text.drain(..end + 2).collect();
                let data = message.lines().find_map(|line| line.strip_prefix("data: "));
                if let Some(event) = data.and_then(|data| serde_json::from_str(data).ok()) {
                    return Ok(Some(event));
                }
                continue;
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.text.push_str(&String::from_utf8_lossy(&chunk)),
                Ok(None) => return Ok(None),
                Err(error) => return Err(Failed::Unavailable(with_causes(&error))),
            }
        }
    }
}

async fn json(sent: Result<Response, reqwest::Error>) -> Result<Value, Failed> {
    let response = check(sent).await?;
    response.json().await.map_err(|error| Failed::Unavailable(with_causes(&error)))
}

/// Sorts what the host refuses by what can be done about it.
async fn check(sent: Result<Response, reqwest::Error>) -> Result<Response, Failed> {
    let response = sent.map_err(|error| Failed::Unavailable(with_causes(&error)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let problem: Value = response.json().await.unwrap_or_default();
    let word = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
    let text = match (word("title"), word("detail")) {
        (title, detail) if title.is_empty() => format!("{status} {detail}"),
        (title, detail) => format!("{title}: {detail}"),
    };
    Err(match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Failed::NotFound(text),
        StatusCode::CONFLICT if problem["type"] == "/problems/image-pulling" => Failed::Pulling(text),
        StatusCode::CONFLICT => Failed::Refused(text),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failed::Denied(text),
        StatusCode::TOO_MANY_REQUESTS => Failed::Unavailable(text),
        status if status.is_client_error() => Failed::Invalid(text),
        _ => Failed::Unavailable(text),
    })
}

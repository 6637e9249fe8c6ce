//! `rent`: asks for a rental, and tells how it comes up.

use std::path::{Path, PathBuf};

use clap::Args;
use gpurent_core::error::ValidationError;
use gpurent_core::id::RentalId;
use gpurent_core::model::{PublishedPort, Size};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{rentals, show};
use crate::client::{Client, Connection, Events};
use crate::exit::Failed;

/// The request to rent.
#[derive(Args)]
pub struct Rent {
    /// GPU model or UUID, such as 'RTX 5090'.
    #[arg(long, required_unless_present = "no_gpu", conflicts_with = "no_gpu")]
    gpu: Option<String>,
    /// None at all, where the host rents that.
    #[arg(long)]
    no_gpu: bool,
    /// How many of them.
    #[arg(long, default_value_t = 1)]
    count: u8,
    /// Image, such as ubuntu:22.04.
    #[arg(long)]
    image: String,
    /// For how long, such as 90s, 2h or 1h 30m.
    #[arg(long)]
    duration: String,
    /// A name for it.
    #[arg(long)]
    name: Option<String>,
    /// Whom to log in as, instead of root.
    #[arg(long)]
    user: Option<String>,
    /// File with the public SSH key to log in with.
    #[arg(long, conflicts_with = "password_file")]
    ssh_key: Option<PathBuf>,
    /// File with the password to log in with; one is made up without either.
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// Variable for the container, NAME=VALUE; repeatable.
    #[arg(long = "env", short = 'e', value_parser = pair)]
    environment: Vec<(String, String)>,
    /// Container port to reach from outside, or CONTAINER:HOST, either with /udp for datagrams; repeatable.
    #[arg(long, short = 'p')]
    publish: Vec<PublishedPort>,
    /// Thousandths of a CPU.
    #[arg(long)]
    milli_cpus: Option<u32>,
    /// Memory, such as 512m, 1.5g or 4Gi.
    #[arg(long, value_parser = size, conflicts_with = "memory_mib")]
    memory: Option<u64>,
    /// Memory in MiB.
    #[arg(long, hide = true, value_parser = mib)]
    memory_mib: Option<u64>,
    /// Size of /dev/shm, such as 1g.
    #[arg(long, value_parser = size)]
    shm: Option<u64>,
    /// A folder that outlives the container, at /workspace; one of several by its name.
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true)]
    workspace: Option<Option<String>>,
    /// Label, NAME=VALUE; repeatable.
    #[arg(long, value_parser = pair)]
    label: Vec<(String, String)>,
    /// Ask the image's registry what the tag means now, and keep to that.
    #[arg(long)]
    pin: bool,
    /// User of the image's private registry.
    #[arg(long, requires = "registry_password_file")]
    registry_user: Option<String>,
    /// File with the password or token for it.
    #[arg(long, requires = "registry_user")]
    registry_password_file: Option<PathBuf>,
    /// Key of this request: sent again with it, it makes no second rental.
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Do not wait until it is ready.
    #[arg(long, short)]
    detach: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn size(text: &str) -> Result<u64, ValidationError> {
    text.parse().map(Size::bytes)
}

fn mib(text: &str) -> Result<u64, ValidationError> {
    Size::parse_in(text, 1 << 20).map(Size::bytes)
}

fn read(file: &Path) -> Result<String, Failed> {
    let read = std::fs::read_to_string(file).map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
    read.map_err(|error| Failed::Here(format!("{}: {error}", file.display())))
}

impl Rent {
    fn body(&self) -> Result<Value, Failed> {
        let map = |pairs: &[(String, String)]| -> Map<String, Value> {
            pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
        };
        let mut body = json!({
            "gpu": self.gpu,
            "gpu_count": self.count,
            "image": self.image,
            "duration": self.duration,
            "environment": map(&self.environment),
            "ports": self.publish,
            "labels": map(&self.label),
            "limits": {
                "milli_cpus": self.milli_cpus,
                "memory_bytes": self.memory.or(self.memory_mib),
                "shm_bytes": self.shm,
            },
            "pin_image": self.pin,
        });
        if let Some(name) = &self.workspace {
            body["workspace"] = name.as_ref().map_or_else(|| json!({}), |name| json!({"name": name}));
        }
        for (field, value) in [("name", &self.name), ("user", &self.user)] {
            if let Some(value) = value {
                body[field] = json!(value);
            }
        }
        if let Some(file) = &self.ssh_key {
            body["auth"] = json!({"ssh_key": read(file)?});
        }
        if let Some(file) = &self.password_file {
            body["auth"] = json!({"password": read(file)?});
        }
        if let (Some(user), Some(file)) = (&self.registry_user, &self.registry_password_file) {
            body["registry"] = json!({"username": user, "password": read(file)?});
        }
        Ok(body)
    }
}

/// Rents, and waits until the rental is ready, unless told otherwise.
pub async fn rent(connection: &Connection, arguments: Rent) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let body = arguments.body()?;
    // Listened to before the request, so that nothing is missed.
    let events = if arguments.detach { None } else { Some(client.events().await?) };
    let key = arguments.idempotency_key.unwrap_or_else(|| RentalId::generate().to_string());
    let rental = client.create(&key, &body).await?;
    let id = show::word(&rental["id"]);
    let Some(events) = events else {
        if connection.json {
            show::json(&rental);
        } else {
            show::line(&id);
        }
        return Ok(());
    };
    let ready = ready(connection, &client, &id, events).await?;
    if connection.json {
        show::json(&ready);
    }
    Ok(())
}

/// Waits until a rental is ready, and shows it with how to log in; gives both.
pub async fn ready(connection: &Connection, client: &Client, id: &str, events: Events) -> Result<Value, Failed> {
    let rental = until_ready(client, id, events, connection.json).await?;
    if rental["state"] != "ready" {
        rentals::print(connection, &rental);
        let why = if rental["end"].is_null() { &rental["suspension"] } else { &rental["end"] };
        return Err(Failed::Rental(show::word(&why["message"])));
    }
    let access = client.get(&format!("/v1/rentals/{id}/access")).await?;
    if !connection.json {
        rentals::print(connection, &rental);
        show::line(&format!("ssh       {}", show::word(&access["ssh_command"])));
        if access["password"].is_string() {
            show::line(&format!("password  {}", show::word(&access["password"])));
        }
    }
    Ok(json!({"rental": rental, "access": access}))
}

/// Follows the rental until it is ready or over.
async fn until_ready(client: &Client, id: &str, mut events: Events, quiet: bool) -> Result<Value, Failed> {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar.set_message("claimed");
    loop {
        // Looked at before each wait: it may have been ready before we listened.
        let rental = client.get(&format!("/v1/rentals/{id}")).await?;
        let state = show::word(&rental["state"]);
        if !matches!(state.as_str(), "provisioning" | "running" | "suspending" | "stopping") {
            bar.finish_and_clear();
            return Ok(rental);
        }
        let event = loop {
            match events.next().await? {
                Some(event) if event["rental_id"] == id => break event,
                Some(_) => {}
                None => return Err(Failed::Unavailable("the host has ended the stream of events".to_owned())),
            }
        };
        let data = &event["data"];
        match (event["type"].as_str(), data["total_bytes"].as_u64()) {
            (Some("progress"), Some(total)) if total > 0 => {
                bar.set_length(total);
                bar.set_position(data["current_bytes"].as_u64().unwrap_or(0));
                bar.set_style(pulling());
                bar.set_message(show::escape_control(&show::word(&data["status"])));
            }
            (Some("progress") | None, _) => {}
            (Some(kind), _) => {
                bar.set_style(ProgressStyle::default_spinner());
                bar.set_message(kind.replace('_', " "));
            }
        }
    }
}

fn pulling() -> ProgressStyle {
    let style = ProgressStyle::with_template("{spinner} pulling {bytes}/{total_bytes} {bar:30} {msg}");
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}

//! `ps`, `show`, `logs`, `extend`, `suspend`, `resume`, `stop`: the rentals that are there.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::show;
use crate::client::{Client, Connection};
use crate::exit::{Failed, with_causes};

/// The states of those that have not ended.
pub const LIVE: &str = "provisioning,running,ready,suspending,suspended,stopping";

/// Which rentals to list.
#[derive(Args)]
pub struct Ps {
    /// Also those that have ended.
    #[arg(long, short)]
    all: bool,
    /// In these states only, separated by commas, such as ready,stopping.
    #[arg(long, conflicts_with = "all")]
    state: Option<String>,
    /// With this label only: NAME=VALUE.
    #[arg(long)]
    label: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
}

/// Lists rentals, newest first.
pub async fn ps(connection: &Connection, arguments: Ps) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let state = match (arguments.all, arguments.state) {
        (true, _) => None,
        (false, Some(state)) => Some(state),
        (false, None) => Some(LIVE.to_owned()),
    };
    let mut query = String::new();
    for (name, value) in [("state", state), ("label", arguments.label)] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", encoded(&value)));
        }
    }
    let (mut rentals, mut after) = (Vec::new(), String::new());
    loop {
        let left = usize::from(arguments.limit) - rentals.len();
        let page = client.get(&format!("/v1/rentals?limit={}{after}{query}", left.min(200))).await?;
        rentals.extend(page["rentals"].as_array().into_iter().flatten().cloned());
        match page["next"].as_str() {
            Some(next) if rentals.len() < usize::from(arguments.limit) => after = format!("&after={next}"),
            _ => break,
        }
    }
    if connection.json {
        show::json(&json!({"rentals": rentals}));
        return Ok(());
    }
    let rows = rentals.iter().map(|rental| {
        vec![
            show::word(&rental["id"]).chars().take(8).collect(),
            show::word(&rental["name"]),
            gpus(rental),
            show::word(&rental["image"]),
            show::word(&rental["state"]),
            left(rental),
            cost(rental),
        ]
    });
    show::table(&["ID", "NAME", "GPU", "IMAGE", "STATE", "LEFT", "COST"], rows.collect());
    Ok(())
}

/// The paid time that is left: it stands still while the rental is suspended.
fn left(rental: &Value) -> String {
    match rental["suspension"]["time_left_seconds"].as_i64() {
        Some(seconds) => show::duration(seconds),
        None if rental["ended_at"].is_null() => show::time_left(&rental["expires_at"]),
        None => String::new(),
    }
}

/// The files of a suspended rental, and until when they are kept, for people.
fn kept(suspension: &Value) -> String {
    let files = match (suspension["files_kept"].as_bool(), suspension["files_bytes"].as_u64()) {
        (Some(true), Some(bytes)) => format!("{} MiB of files", bytes.div_ceil(1024 * 1024)),
        (Some(true), None) => "its files".to_owned(),
        (Some(false), _) => "no files: its container was removed by somebody".to_owned(),
        (None, _) => return String::new(),
    };
    match suspension["kept_until"].as_str() {
        Some(until) => format!("{files}, until {until}"),
        None => files,
    }
}

/// The source of the files in a rental's container, where that is worth telling.
fn files(rental: &Value) -> &'static str {
    match rental["files"].as_str() {
        Some("same") => "as they were before it was suspended",
        Some("copied") => "copied from the container before",
        Some("lost") => "begun anew: somebody removed the container before",
        _ => "",
    }
}

/// A part of a query, as percent-encoded bytes.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~,".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn gpus(rental: &Value) -> String {
    let models: Vec<_> = rental["gpus"].as_array().into_iter().flatten().map(|gpu| show::word(&gpu["model"])).collect();
    match models.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first, ..] => format!("{} x {first}", models.len()),
    }
}

fn cost(rental: &Value) -> String {
    let bill = &rental["bill"];
    match bill["total"].as_i64() {
        Some(micros) => {
            format!("{}.{:02} {}", micros / 1_000_000, micros % 1_000_000 / 10_000, show::word(&bill["currency"]))
        }
        None => String::new(),
    }
}

/// Shows one rental.
pub async fn show(connection: &Connection, name: &str) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let rental = client.get(&format!("/v1/rentals/{}", client.find(name).await?)).await?;
    print(connection, &rental);
    Ok(())
}

/// Shows a rental that an answer brought.
pub fn print(connection: &Connection, rental: &Value) {
    if connection.json {
        show::json(rental);
        return;
    }
    let ports = rental["ports"].as_array().into_iter().flatten();
    let leads = |port: &Value| {
        let udp = if port["transport"] == "udp" { "/udp" } else { "" };
        format!("{} -> {}{udp}", show::word(&port["host"]), show::word(&port["container"]))
    };
    let ports: Vec<_> = ports.map(leads).collect();
    let mut rows = vec![
        ("id", show::word(&rental["id"])),
        ("name", show::word(&rental["name"])),
        ("renter", show::word(&rental["renter"])),
        ("state", show::word(&rental["state"])),
        ("why", show::word(&rental["end"]["message"])),
        ("suspended", show::word(&rental["suspension"]["message"])),
        ("left", left(rental)),
        ("kept", kept(&rental["suspension"])),
        ("files", files(rental).to_owned()),
        ("GPU", gpus(rental)),
        ("image", show::word(&rental["image"])),
        ("digest", show::word(&rental["image_digest"])),
        ("built", show::word(&rental["image_built_at"])),
        ("fetched", show::word(&rental["image_fetched_at"])),
        ("user", show::word(&rental["user"])),
        ("ports", ports.join(", ")),
        ("services", services(rental)),
        ("container", show::word(&rental["container_id"])),
        ("created", show::word(&rental["created_at"])),
        ("started", show::word(&rental["started_at"])),
        ("expires", show::word(&rental["expires_at"])),
        ("ended", show::word(&rental["ended_at"])),
        ("cost", cost(rental)),
    ];
    let last_words = rental["end"]["failure"]["log_tail"].as_array().into_iter().flatten();
    rows.extend(last_words.map(|line| ("log", show::word(line))));
    rows.retain(|(_, value)| !value.is_empty());
    show::table(&[], rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect());
}

/// A rental's services by their addresses.
fn services(rental: &Value) -> String {
    let services = rental["services"].as_array().into_iter().flatten();
    let shown = services.map(|service| match service["url"].as_str() {
        Some(url) => url.to_owned(),
        None => format!("{} on port {}", show::word(&service["protocol"]), show::word(&service["host"])),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// The output of a rental that is shown.
#[derive(Clone, Copy)]
pub enum Output {
    /// The program's output.
    Program {
        /// Whether to stay for what comes.
        follow: bool,
    },
    /// The logins.
    Access,
}

/// Shows the last lines of a rental's program, and with `follow` whatever comes, until its container ends.
pub async fn logs(connection: &Connection, name: &str, tail: u16, output: Output) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    if matches!(output, Output::Program { follow: true }) {
        let path = format!("/v1/rentals/{}/logs?follow=true&tail={tail}", client.find(name).await?);
        let mut output = client.stream(&path).await?;
        let mut text = String::new();
        while let Some(chunk) = output.chunk().await.map_err(|error| Failed::Unavailable(with_causes(&error)))? {
            text.push_str(&String::from_utf8_lossy(&chunk));
            while let Some(end) = text.find('\n') {
                show::line(&super::escape_control(text[..end].trim_end_matches('\r')));
                text.drain(..=end);
            }
        }
        if !text.is_empty() {
            show::line(&super::escape_control(&text));
        }
        return Ok(());
    }
    let access = matches!(output, Output::Access);
    let logs =
        client.get(&format!("/v1/rentals/{}/logs?tail={tail}&access={access}", client.find(name).await?)).await?;
    if connection.json {
        show::json(&logs);
        return Ok(());
    }
    for line in logs["lines"].as_array().into_iter().flatten() {
        show::line(&show::word(line));
    }
    Ok(())
}

/// By how much a rental is extended.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Longer {
    /// By so much beyond its present end, such as 2h.
    #[arg(long)]
    by: Option<String>,
    /// To so much in all; may be repeated.
    #[arg(long)]
    to: Option<String>,
}

/// Makes a rental's paid time longer.
pub async fn extend(connection: &Connection, name: &str, longer: Longer) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let body = match (longer.by, longer.to) {
        (Some(by), _) => json!({"by": by}),
        (None, to) => json!({"to": to}),
    };
    let id = client.find(name).await?;
    let rental = client.send(Method::POST, &format!("/v1/rentals/{id}/extend"), &body).await?;
    if connection.json {
        show::json(&rental);
    } else {
        match rental["suspension"]["time_left_seconds"].as_i64() {
            Some(left) => {
                show::line(&format!("{id} has {} left from when it is resumed", show::duration(left)));
            }
            None => show::line(&format!("{id} now ends at {}", show::word(&rental["expires_at"]))),
        }
    }
    Ok(())
}

/// Stops rentals' containers, and keeps their files and what is left of their time.
pub async fn suspend(connection: &Connection, names: &[String]) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let mut changed = Vec::new();
    for name in names {
        let id = client.find(name).await?;
        let rental = client.send(Method::POST, &format!("/v1/rentals/{id}/suspend"), &json!({})).await?;
        if !connection.json {
            show::line(&format!("{id} {}", show::word(&rental["state"])));
        }
        changed.push(rental);
    }
    if connection.json {
        show::json(&json!({"rentals": changed}));
    }
    Ok(())
}

/// Brings suspended rentals back, one after the other, and shows how to get in now.
pub async fn resume(connection: &Connection, names: &[String], detach: bool) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let mut changed = Vec::new();
    for name in names {
        let id = client.find(name).await?;
        // Listened to before the request, so that nothing is missed.
        let events = if detach { None } else { Some(client.events().await?) };
        let rental = client.send(Method::POST, &format!("/v1/rentals/{id}/resume"), &json!({})).await?;
        let Some(events) = events else {
            if !connection.json {
                show::line(&format!("{id} {}", show::word(&rental["state"])));
            }
            changed.push(json!({"rental": rental}));
            continue;
        };
        changed.push(super::rent::ready(connection, &client, &id, events).await?);
    }
    if connection.json {
        show::json(&json!({"rentals": changed}));
    }
    Ok(())
}

/// Ends rentals.
pub async fn stop(connection: &Connection, names: &[String]) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let mut stopped = Vec::new();
    for name in names {
        let id = client.find(name).await?;
        let rental = client.send(Method::DELETE, &format!("/v1/rentals/{id}"), &json!({})).await?;
        if !connection.json {
            show::line(&format!("{id} {}", show::word(&rental["state"])));
        }
        stopped.push(rental);
    }
    if connection.json {
        show::json(&json!({"rentals": stopped}));
    }
    Ok(())
}

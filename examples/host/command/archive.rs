//! `archive`: takes rentals that ended long ago out of the host.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::show;
use crate::archive::{age, open};
use crate::client::{Client, Connection};
use crate::exit::Failed;

/// Rentals of one request.
const PAGE: usize = 200;

#[derive(Args)]
pub struct Archive {
    /// The least time since their end, such as 90d; at least a day.
    #[arg(long, value_parser = age)]
    older_than: SignedDuration,
    /// File that they are added to, as JSON, one a line with its events; by default they are printed.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Delete them from the host as soon as the file is on disk.
    #[arg(long, requires = "output")]
    delete: bool,
}

/// Exports page by page, and deletes each once it is on disk.
pub async fn archive(connection: &Connection, arguments: Archive) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let before = Timestamp::now() - arguments.older_than;
    let here = |error: std::io::Error| Failed::here(&error);
    let mut file = match &arguments.output {
        Some(path) => Some(open(path).await.map_err(here)?),
        None => None,
    };
    let (mut written, mut deleted, mut after) = (0, 0, String::new());
    loop {
        let page = client.lines(&format!("/v1/archive?ended_before={before}&limit={PAGE}{after}")).await?;
        let ids: Vec<String> = page.lines().map(id_of).collect::<Result<_, _>>()?;
        match &mut file {
            None => std::io::stdout().write_all(page.as_bytes()).map_err(here)?,
            Some(file) => {
                file.write_all(page.as_bytes()).await.map_err(here)?;
                // Waits for what was written, too.
                file.flush().await.map_err(here)?;
                file.sync_all().await.map_err(here)?;
            }
        }
        written += ids.len();
        if arguments.delete && !ids.is_empty() {
            let body = json!({"rentals": ids});
            let answer = client.send(Method::POST, "/v1/archive/deletions", &body).await?;
            deleted += answer["deleted"].as_u64().unwrap_or_default();
        }
        match ids.last() {
            Some(last) if ids.len() == PAGE => after = format!("&after={last}"),
            _ => break,
        }
    }
    if connection.json && file.is_some() {
        show::json(&json!({"written": written, "deleted": deleted}));
    } else if let Some(path) = &arguments.output {
        show::line(&format!("{written} rentals written to {}, {deleted} deleted", path.display()));
    }
    Ok(())
}

fn id_of(line: &str) -> Result<String, Failed> {
    let line: Value = serde_json::from_str(line).map_err(|error| Failed::here(&error))?;
    let id = line["rental"]["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| Failed::Here("the host's answer is no archive".to_owned()))
}

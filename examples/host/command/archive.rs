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
    /// How long ago they must have ended, such as 90d; at least a day.
    #[arg(long, value_parser = age)]
    older_than: SignedDuration,
    /// File that they are added to, as JSON, one a line with its events; by default they are printed.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Delete them from the host as soon as the file is on disk.
    #[arg(long, requires = "output")]
    delete: bool,
}

/// Exports, and deletes what was exported: before a time that has passed nothing more ends.
pub async fn archive(connection: &Connection, arguments: Archive) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let before = Timestamp::now() - arguments.older_than;
    let mut written = 0;
    match &arguments.output {
        None => {
            let mut output = std::io::stdout();
            written +=
                export(&client, before, async |page| output.write_all(page).and_then(|()| output.flush())).await?;
        }
        Some(path) => {
            let mut file = open(path).await.map_err(|error| Failed::here(&error))?;
            written += export(&client, before, async |page| file.write_all(page).await).await?;
            // Waits for what was written, too.
            file.flush().await.map_err(|error| Failed::here(&error))?;
            file.sync_all().await.map_err(|error| Failed::here(&error))?;
        }
    }
    let mut deleted = 0;
    let mut more = arguments.delete;
    while more {
        let path = format!("/v1/archive?ended_before={before}");
        let answer = client.send(Method::DELETE, &path, &json!({})).await?;
        deleted += answer["deleted"].as_u64().unwrap_or_default();
        more = answer["more"] == true;
    }
    if connection.json && arguments.output.is_some() {
        show::json(&json!({"written": written, "deleted": deleted}));
    } else if let Some(path) = &arguments.output {
        show::line(&format!("{written} rentals written to {}, {deleted} deleted", path.display()));
    }
    Ok(())
}

async fn export(
    client: &Client,
    before: Timestamp,
    mut write: impl AsyncFnMut(&[u8]) -> std::io::Result<()>,
) -> Result<usize, Failed> {
    let (mut written, mut after) = (0, String::new());
    loop {
        let path = format!("/v1/archive?ended_before={before}&limit={PAGE}{after}");
        let page = client.lines(&path).await?;
        write(page.as_bytes()).await.map_err(|error| Failed::here(&error))?;
        written += page.lines().count();
        let last: Option<Value> = page.lines().last().and_then(|line| serde_json::from_str(line).ok());
        match last.as_ref().and_then(|last| last["rental"]["id"].as_str()) {
            Some(id) if page.lines().count() == PAGE => after = format!("&after={id}"),
            _ => break,
        }
    }
    Ok(written)
}

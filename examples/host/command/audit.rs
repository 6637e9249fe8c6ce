//! `audit`: who did what, newest first.

use serde_json::{Value, json};

use super::show;
use crate::client::{Client, Connection};
use crate::exit::Failed;

/// Shows the last entries.
pub async fn audit(connection: &Connection, limit: u16) -> Result<(), Failed> {
    let client = Client::new(connection)?;
    let (mut entries, mut before): (Vec<Value>, _) = (Vec::new(), String::new());
    while entries.len() < usize::from(limit) {
        let left = (usize::from(limit) - entries.len()).min(500);
        let page = client.get(&format!("/v1/audit?limit={left}{before}")).await?;
        entries.extend(page["entries"].as_array().into_iter().flatten().cloned());
        match page["next"].as_u64() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    if connection.json {
        show::json(&json!({"entries": entries}));
        return Ok(());
    }
    let row = |entry: &Value| {
        ["at", "renter", "role", "key", "address", "status", "action"].map(|field| show::word(&entry[field])).to_vec()
    };
    show::table(&["AT", "WHO", "ROLE", "KEY", "FROM", "STATUS", "WHAT"], entries.iter().map(row).collect());
    Ok(())
}

//! `gpus`: what the host has, and what of it is free.

use super::show;
use crate::client::{Client, Connection};
use crate::exit::Failed;

/// Shows the host's GPUs.
pub async fn gpus(connection: &Connection) -> Result<(), Failed> {
    let gpus = Client::new(connection)?.get("/v1/gpus").await?;
    if connection.json {
        show::json(&gpus);
        return Ok(());
    }
    let rows = gpus["gpus"].as_array().into_iter().flatten().map(|gpu| {
        let memory = gpu["memory_mib"].as_u64().map(|mib| format!("{} GiB", mib.div_ceil(1024))).unwrap_or_default();
        let mut row = ["index", "model", "uuid", "state", "rental_id"].map(|field| show::word(&gpu[field])).to_vec();
        row.insert(2, memory);
        row
    });
    show::table(&["INDEX", "MODEL", "MEMORY", "UUID", "STATE", "RENTAL"], rows.collect());
    Ok(())
}

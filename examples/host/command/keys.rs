//! `keys`: API keys, straight in the host's database. For the operator, who has that.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use gpurent_core::api_key::{NewKey, Role};
use gpurent_core::id::{ApiKeyId, RenterId};
use gpurent_core::store::StoreError;
use serde_json::json;

use super::show;
use crate::database::{self, Database};
use crate::exit::{Failed, with_causes};

/// Where the host keeps what it knows.
#[derive(Args)]
pub struct Where {
    /// Database of the host: sqlite:PATH or postgres://...; the file in the data directory by default.
    #[arg(long, env = "GPURENT_DATABASE", hide_env_values = true, default_value = "")]
    database: String,
    /// Data directory of the host.
    #[arg(long, env = "GPURENT_DATA_DIR", default_value = "/var/lib/gpurent")]
    data_dir: PathBuf,
}

impl Where {
    pub async fn open(&self) -> Result<Database, Failed> {
        database::open(&self.database, &self.data_dir).await.map_err(stored)
    }
}

/// Sorts what the database refuses.
pub fn stored(error: StoreError) -> Failed {
    match error {
        StoreError::Unavailable(_) | StoreError::Conflict => Failed::Unavailable(with_causes(&error)),
        other => Failed::here(&other),
    }
}

/// What is done to keys.
#[derive(Subcommand)]
pub enum Keys {
    /// Makes a key and shows it, this once.
    Create {
        /// For a renter, who sees and ends their own rentals only.
        #[arg(long, required_unless_present = "platform", conflicts_with = "platform")]
        renter: Option<RenterId>,
        /// For a platform, which sees and ends every rental.
        #[arg(long)]
        platform: Option<RenterId>,
    },
    /// Lists keys, without the keys themselves.
    List,
    /// Revokes a key, at once.
    Revoke {
        /// Its id, as listed.
        id: ApiKeyId,
    },
}

/// Does it.
pub async fn keys(place: &Where, as_json: bool, command: Keys) -> Result<(), Failed> {
    let keys = place.open().await?.keys;
    match command {
        Keys::Create { renter, platform } => {
            let role = if platform.is_some() { Role::Platform } else { Role::Renter };
            let Some(owner) = platform.or(renter) else {
                return Err(Failed::Invalid("name a --renter or a --platform".to_owned()));
            };
            let new = NewKey::generate(owner, role, jiff::Timestamp::now());
            keys.add_key(&new.record).await.map_err(stored)?;
            if as_json {
                show::json(&json!({"id": new.record.id, "key": new.expose()}));
            } else {
                eprintln!("{}: keep it, it is not shown again", new.record.id);
                show::line(new.expose());
            }
        }
        Keys::List => {
            let listed = keys.keys().await.map_err(stored)?;
            if as_json {
                let view = |key: &gpurent_core::api_key::KeyRecord| json!({"id": key.id, "owner": key.renter, "role": key.role, "created_at": key.created_at});
                show::json(&json!({"keys": listed.iter().map(view).collect::<Vec<_>>()}));
            } else {
                let rows = listed.iter().map(|key| {
                    vec![
                        key.id.to_string(),
                        key.renter.to_string(),
                        key.role.as_str().to_owned(),
                        key.created_at.to_string(),
                    ]
                });
                show::table(&["ID", "OWNER", "ROLE", "CREATED"], rows.collect());
            }
        }
        Keys::Revoke { id } => {
            if !keys.revoke_key(&id).await.map_err(stored)? {
                return Err(Failed::NotFound(format!("there is no key {id}")));
            }
            if !as_json {
                show::line(&format!("{id} revoked"));
            }
        }
    }
    Ok(())
}

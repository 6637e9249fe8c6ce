//! `keys`: API keys, straight in the host's database. For the operator, who has that.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use gpurent_core::id::{ApiKeyId, RenterId};
use gpurent_core::store::api_keys::IpNet;
use gpurent_core::store::{KeyRecord, NewKey, Role, StoreError};
use serde_json::json;

use super::show;
use crate::database;
use crate::database::Database;
use crate::exit::{Failed, with_causes};

/// Where the host keeps what it knows.
#[derive(Args)]
pub struct KeyLocation {
    /// Database of the host: sqlite:PATH or postgres://...; the file in the data directory by default.
    #[arg(long, env = "GPURENT_DATABASE", hide_env_values = true, default_value = "")]
    database: String,
    /// Data directory of the host.
    #[arg(long, env = "GPURENT_DATA_DIR", default_value = "/var/lib/gpurent")]
    data_dir: PathBuf,
}

impl KeyLocation {
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

/// The commands for keys.
#[derive(Subcommand)]
pub enum Keys {
    /// Makes a key and shows it, this once.
    #[command(group(clap::ArgGroup::new("whose").args(["renter", "platform", "operator"]).required(true)))]
    Create {
        /// For a renter, who sees and ends their own rentals only.
        #[arg(long)]
        renter: Option<RenterId>,
        /// For a platform, which sees and changes every rental.
        #[arg(long)]
        platform: Option<RenterId>,
        /// For an operator: as a platform, and with the machine's images, renters' ports, and who did what.
        #[arg(long)]
        operator: Option<RenterId>,
        /// From where alone it is good: an address or a network such as 10.0.0.0/8. May be repeated.
        #[arg(long, value_name = "NETWORK", value_parser = network)]
        allowed_ip: Vec<IpNet>,
    },
    /// Lists keys, without the keys themselves.
    List,
    /// Revokes a key, at once.
    Revoke {
        /// The key's id, as listed.
        id: ApiKeyId,
    },
}

/// Does it.
pub async fn keys(place: &KeyLocation, as_json: bool, command: Keys) -> Result<(), Failed> {
    let keys = place.open().await?.keys;
    match command {
        Keys::Create { renter, platform, operator, allowed_ip } => {
            let (owner, role) = match (platform, operator, renter) {
                (Some(owner), ..) => (owner, Role::Platform),
                (_, Some(owner), _) => (owner, Role::Operator),
                (.., Some(owner)) => (owner, Role::Renter),
                _ => return Err(Failed::Invalid("name a --renter, a --platform or an --operator".to_owned())),
            };
            let new = NewKey::generate(owner, role, jiff::Timestamp::now()).allowed_from(allowed_ip);
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
                let view = |key: &KeyRecord| json!({"id": key.id, "owner": key.renter, "role": key.role, "created_at": key.created_at, "allowed_ips": networks(key)});
                show::json(&json!({"keys": listed.iter().map(view).collect::<Vec<_>>()}));
            } else {
                let rows = listed.iter().map(|key| {
                    vec![
                        key.id.to_string(),
                        key.renter.to_string(),
                        key.role.as_str().to_owned(),
                        key.created_at.to_string(),
                        networks(key).join(" "),
                    ]
                });
                show::table(&["ID", "OWNER", "ROLE", "CREATED", "ALLOWED FROM"], rows.collect());
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

fn networks(key: &KeyRecord) -> Vec<String> {
    key.allowed_ips.iter().map(ToString::to_string).collect()
}

/// A network, or an address that stands for itself.
pub fn network(text: &str) -> Result<IpNet, String> {
    let alone = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| alone()).map_err(|_| "must be an address or a network such as 10.0.0.0/8".to_owned())
}

//! How a renter gets in.
use crate::host::{AccessError, Rentals};
use crate::model::{Credential, CredentialKind, HostPort, LoginUser, PortBinding, PublicKey, Rental, Service};
use crate::runtime::RuntimeError;

/// How to get into a rental.
#[derive(Clone, Debug)]
pub struct Access {
    /// The host's public name or address.
    pub host: String,
    /// The host's port that leads to SSH.
    pub port: HostPort,
    /// The login user.
    pub user: LoginUser,
    /// Password or key.
    pub kind: CredentialKind,
    /// The credential; `None` once the rental has ended.
    pub credential: Option<Credential>,
    /// The keys by which the renter knows the server; none once the rental has ended.
    pub host_keys: Vec<PublicKey>,
    /// The name under which the rental is known to SSH, wherever it is reached: ports are used again, names are not.
    pub host_key_alias: String,
}

impl Access {
    /// The command that logs in. The alias keeps it from running into the key that another rental had on the same port.
    #[must_use]
    pub fn ssh_command(&self) -> String {
        let Self { host, port, user, host_key_alias, .. } = self;
        format!("ssh -o HostKeyAlias={host_key_alias} -p {port} {}@{host}", user.as_str())
    }

    /// Lines of a file `known_hosts` by which SSH knows the rental before it first connects.
    #[must_use]
    pub fn known_hosts(&self) -> String {
        self.host_keys.iter().map(|key| format!("{} {key}\n", self.host_key_alias)).collect()
    }
}

impl Rentals {
    /// How to get into a rental: for its renter's eyes only.
    ///
    /// # Errors
    /// [`AccessError`]
    pub async fn access(&self, rental: &Rental) -> Result<Option<Access>, AccessError> {
        let Some(port) = rental.ssh_port() else { return Ok(None) };
        let secrets = self.context.secrets(rental.id()).await?;
        Ok(Some(Access {
            host_keys: secrets.as_ref().map(|secrets| secrets.host_keys.public()).unwrap_or_default(),
            host_key_alias: format!("gpurent-{}", rental.id()),
            host: self.context.public_host.clone(),
            port,
            user: rental.spec().login.clone(),
            kind: rental.credential(),
            credential: secrets.map(|secrets| secrets.credential),
        }))
    }

    /// The services that answer on a rental's published ports at this moment. [`Rental::services`] are those that have
    /// answered so far, and cost nothing.
    ///
    /// # Errors
    /// [`RuntimeError`]
    pub async fn services(&self, rental: &Rental) -> Result<Vec<Service>, RuntimeError> {
        let ports: Vec<_> = rental.ports().iter().copied().filter(PortBinding::may_lead_to_a_service).collect();
        self.context.runtime.services(rental.launch(), &ports).await
    }
}

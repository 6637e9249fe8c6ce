//! The names by which the protocol's clients mean a container.
//!
//! Its manager and its desktop client compute a container's name by themselves and put it into every path; a user's bare
//! name, a container's id and the beginning of either id occur too.

use gpurent_core::error::ValidationError;
use gpurent_core::host::Rentals;
use gpurent_core::id::{InstanceName, RenterId};
use gpurent_core::model::{EndKind, Phase, Rental};
use gpurent_core::store::{Filter, MAX_PAGE, StoreError};
use sha2::{Digest, Sha256};

use crate::caller::Caller;
use crate::protocols::instance_id;

/// Marks rentals of this protocol, by what they were asked for: a GPU or none.
pub(super) const GPU: &str = "dashboard.gpu";

const PREFIX: &str = "code-server-";

/// Fewer characters of an id stand for nobody's.
const SHORTEST: usize = 8;

fn digest(user: &str, digits: usize) -> String {
    let mut hex: String = Sha256::digest(user).iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(digits);
    hex
}

/// The name of a user's container, as clients compute it; of a user whose name does not fit into one, a digest alone.
pub(super) fn name_of(user: &RenterId) -> Result<InstanceName, ValidationError> {
    let usual = format!("{PREFIX}{user}-{}", digest(user.as_str(), 16));
    let name = usual.parse().or_else(|_unfit| format!("{PREFIX}{}", digest(user.as_str(), 32)).parse());
    name.map_err(|error: ValidationError| error.named("username"))
}

/// The name that the former version gave a user's container.
fn former_name_of(user: &RenterId) -> Option<InstanceName> {
    let mut name = "dashboard-".to_owned();
    for byte in user.as_str().bytes() {
        if byte.is_ascii_alphanumeric() { name.push(char::from(byte)) } else { name.push_str(&format!("_{byte:02x}")) }
    }
    // One that does not fit was never given.
    name.parse().ok()
}

/// The user whose container has a name, by that name alone.
pub(super) fn user_of(name: &str) -> Option<RenterId> {
    let (user, hash) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    let user: RenterId = user.parse().ok()?;
    (hash == digest(user.as_str(), 16)).then_some(user)
}

/// Whether a rental is one of this protocol: marked so, and named after its own renter. A mark alone anybody can set.
pub(super) fn is_ours(rental: &Rental) -> bool {
    let renter = &rental.spec().renter;
    let is_named_so = |name: InstanceName| name == *rental.name();
    rental.spec().labels.get(GPU).is_some()
        && (name_of(renter).is_ok_and(is_named_so) || former_name_of(renter).is_some_and(is_named_so))
}

/// The live container of a user; where there is none, the last one that ended.
pub(super) async fn of_user(rentals: &Rentals, user: &RenterId) -> Result<Option<Rental>, StoreError> {
    for name in name_of(user).ok().into_iter().chain(former_name_of(user)) {
        if let Some(found) = named(rentals, Some(user.clone()), name).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

async fn named(rentals: &Rentals, renter: Option<RenterId>, name: InstanceName) -> Result<Option<Rental>, StoreError> {
    // Others may have given theirs the same name, as often as they like.
    let renter = renter.or_else(|| user_of(name.as_str()));
    let live: Vec<Phase> = Phase::ALL.into_iter().filter(|phase| *phase != Phase::Ended).collect();
    let ends = vec![EndKind::Expired, EndKind::Failed, EndKind::Terminated];
    for (phases, ends) in [(live, Vec::new()), (Vec::new(), ends)] {
        let filter = Filter { renter: renter.clone(), name: Some(name.clone()), phases, ends, ..Filter::default() };
        if let Some(found) = rentals.list(&filter, None, 20).await?.into_iter().find(is_ours) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The container that somebody means, if there is or was one and they may see it.
pub(super) async fn find(rentals: &Rentals, caller: &Caller, id: &str) -> Result<Option<Rental>, StoreError> {
    let may_see = |rental: &Rental| is_ours(rental) && caller.may_see(rental);
    if let Some(found) = instance_id::find(rentals, id).await?.filter(may_see) {
        return Ok(Some(found));
    }
    if let Ok(name) = id.parse()
        && let Some(found) = named(rentals, caller.scope(), name).await?
    {
        return Ok(Some(found));
    }
    if let Ok(user) = id.parse::<RenterId>()
        && caller.may_act_for(&user)
        && let Some(found) = of_user(rentals, &user).await?
    {
        return Ok(Some(found));
    }
    if id.len() < SHORTEST || !id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        return Ok(None);
    }
    let begins = |rental: &&Rental| may_see(rental) && rental.id().to_string().starts_with(id);
    Ok(all(rentals, caller).await?.iter().find(begins).cloned())
}

/// The containers that somebody may see.
pub(super) async fn all(rentals: &Rentals, caller: &Caller) -> Result<Vec<Rental>, StoreError> {
    let mut live = rentals.active().await?;
    let filter = Filter { renter: caller.scope(), phases: vec![Phase::Suspended], ..Filter::default() };
    live.extend(rentals.list(&filter, None, MAX_PAGE).await?);
    live.retain(|rental| is_ours(rental) && caller.may_see(rental));
    Ok(live)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_clients_compute() {
        let name = |user: &str| name_of(&user.parse().unwrap()).unwrap().to_string();
        // printf user1 | sha256sum
        assert_eq!(name("user1"), "code-server-user1-0a041b9462caa4a3");
        assert_eq!(user_of(&name("user1")), Some("user1".parse().unwrap()));
        assert_eq!(user_of(&name("a-b.c")), Some("a-b.c".parse().unwrap()));
        assert_eq!(user_of("code-server-user1-0a041b9462caa4a4"), None);
        assert_ne!(name("a/b"), name("a_2fb"));
        assert!(name(&"x".repeat(120)).len() < 64, "a name that is too long has a digest's");
    }
}

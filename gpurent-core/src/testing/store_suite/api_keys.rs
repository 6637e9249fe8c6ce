//! The clause of API keys.

use std::sync::Arc;

use crate::store::{KeyDigest, KeyStore, NewKey, Role};
use crate::testing::store_suite::bench::{at, valid};

/// A key is known by its digest alone, until it is revoked.
pub async fn keys_are_found_by_their_digest_until_revoked<S: KeyStore>(store: Arc<S>) {
    let networks = vec![valid("10.0.0.0/8".parse()), valid("2001:db8::1/128".parse())];
    let key = NewKey::generate(valid("renter".parse()), Role::Renter, at(1)).allowed_from(networks);
    let other = NewKey::generate(valid("platform".parse()), Role::Platform, at(2));
    assert_ne!(key.expose(), other.expose());
    valid(store.add_key(&key.record).await);
    valid(store.add_key(&other.record).await);
    let find = async |digest| valid(store.find_key(&digest).await);
    assert_eq!(find(KeyDigest::of(key.expose())).await, Some(key.record.clone()));
    assert_eq!(find(KeyDigest::of("gpurent_0000")).await, None);
    let listed = valid(store.keys().await);
    assert!(listed.contains(&key.record) && listed.contains(&other.record));
    assert!(valid(store.revoke_key(&key.record.id).await));
    assert!(!valid(store.revoke_key(&key.record.id).await));
    assert_eq!(find(KeyDigest::of(key.expose())).await, None);
    assert_eq!(find(KeyDigest::of(other.expose())).await, Some(other.record.clone()));
    // A key that stayed would be asked for by every host on the same database.
    assert!(valid(store.revoke_key(&other.record.id).await));
}

//! The clause of the audit log.

use std::sync::Arc;

use uuid::Uuid;

use crate::id::RenterId;
use crate::store::{AuditEntry, AuditLog, Role};
use crate::testing::store_suite::bench::{at, valid};

/// Newest first, page by page, and never more than may be kept.
pub async fn who_did_what_is_read_newest_first_and_bounded<S: AuditLog>(store: Arc<S>) {
    let who: RenterId = valid(format!("audited-{}", Uuid::new_v4()).parse());
    let entry = |n: u16| AuditEntry {
        at: at(n.into()),
        renter: who.clone(),
        role: Role::Operator,
        key: n.is_multiple_of(2).then(|| valid("key-1".parse())),
        address: (n % 2 == 1).then(|| valid("2001:db8::7".parse())),
        action: format!("DELETE /v1/rentals/{n}"),
        status: 200 + n,
    };
    valid(store.append(&[entry(1), entry(2)], 1000).await);
    valid(store.append(&[entry(3)], 1000).await);
    let all = valid(store.entries(None, 100).await);
    let ours: Vec<_> = all.iter().filter(|found| found.entry.renter == who).collect();
    assert_eq!(ours.iter().map(|found| found.entry.clone()).collect::<Vec<_>>(), [entry(3), entry(2), entry(1)]);
    let older = valid(store.entries(Some(ours[0].number), 1).await);
    assert!(older[0].number < ours[0].number);
    valid(store.append(&[entry(4)], 2).await);
    let left = valid(store.entries(None, 100).await);
    assert!(left.len() <= 2 && left[0].entry == entry(4), "{left:?}");
}

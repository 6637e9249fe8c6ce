//! The tables of a store in memory beside rentals: API keys, renters' port ranges, who did what.

use async_trait::async_trait;

use crate::id::{ApiKeyId, HostId, RenterId};
use crate::memory::MemoryStore;
use crate::model::PortRange;
use crate::store::{
    AuditEntry, AuditLog, GivenBack, KeyDigest, KeyRecord, KeyStore, MAX_PAGE, NumberedEntry, OwnRange, RangeStore,
    StoreError,
};

#[async_trait]
impl KeyStore for MemoryStore {
    async fn add_key(&self, key: &KeyRecord) -> Result<(), StoreError> {
        self.open().await?.api_keys.push(key.clone());
        Ok(())
    }

    async fn find_key(&self, digest: &KeyDigest) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self.open().await?.api_keys.iter().find(|key| key.digest == *digest).cloned())
    }

    async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        Ok(self.open().await?.api_keys.iter().take(MAX_PAGE).cloned().collect())
    }

    async fn revoke_key(&self, id: &ApiKeyId) -> Result<bool, StoreError> {
        let mut tables = self.open().await?;
        let before = tables.api_keys.len();
        tables.api_keys.retain(|key| key.id != *id);
        Ok(tables.api_keys.len() < before)
    }
}

#[async_trait]
impl RangeStore for MemoryStore {
    async fn own_range(
        &self,
        host: &HostId,
        renter: &RenterId,
        pool: &PortRange,
        size: u16,
    ) -> Result<Option<PortRange>, StoreError> {
        let mut tables = self.open().await?;
        let key = (host.clone(), renter.clone());
        if let Some(range) = tables.ranges.get(&key) {
            return Ok(Some(range.clone()));
        }
        let is_free =
            |part: &PortRange| !tables.ranges.iter().any(|((of, _), range)| of == host && range.overlaps(part));
        let Some(free) = pool.parts(size).find(is_free) else { return Ok(None) };
        tables.ranges.insert(key, free.clone());
        Ok(Some(free))
    }

    async fn range_of(&self, host: &HostId, renter: &RenterId) -> Result<Option<PortRange>, StoreError> {
        Ok(self.open().await?.ranges.get(&(host.clone(), renter.clone())).cloned())
    }

    async fn ranges(&self, host: &HostId) -> Result<Vec<OwnRange>, StoreError> {
        let tables = self.open().await?;
        let ours = tables.ranges.iter().filter(|((of, _), _)| of == host);
        let mut ranges: Vec<_> =
            ours.map(|((_, renter), range)| OwnRange { renter: renter.clone(), range: range.clone() }).collect();
        ranges.sort_by_key(|own| own.range.first());
        ranges.truncate(MAX_PAGE);
        Ok(ranges)
    }

    async fn give_back(&self, host: &HostId, renter: &RenterId) -> Result<GivenBack, StoreError> {
        let mut tables = self.open().await?;
        let key = (host.clone(), renter.clone());
        let Some(range) = tables.ranges.get(&key) else { return Ok(GivenBack::NothingThere) };
        if tables.held(host).ports.iter().any(|port| range.contains(*port)) || tables.is_kept_for_one(host, renter) {
            return Ok(GivenBack::InUse);
        }
        tables.ranges.remove(&key);
        Ok(GivenBack::Yes)
    }
}

#[async_trait]
impl AuditLog for MemoryStore {
    async fn append(&self, entries: &[AuditEntry], most: u64) -> Result<(), StoreError> {
        let mut tables = self.open().await?;
        for entry in entries {
            tables.audited += 1;
            let number = tables.audited;
            tables.audit.push_front(NumberedEntry { number, entry: entry.clone() });
        }
        tables.audit.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(())
    }

    async fn entries(&self, before: Option<u64>, limit: usize) -> Result<Vec<NumberedEntry>, StoreError> {
        let tables = self.open().await?;
        let older = tables.audit.iter().filter(|entry| before.is_none_or(|before| entry.number < before));
        Ok(older.take(limit.min(MAX_PAGE)).cloned().collect())
    }
}

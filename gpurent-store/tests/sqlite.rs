//! SQLite passes the suite that the other stores pass, each test on a file of its own.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use gpurent_core::store::{HostStore, Store as _, StoreError};
use gpurent_store::SqliteStore;
use sqlx::SqlitePool;

async fn store() -> SqliteStore {
    // Kept for the test's life by the open file; what is left is in the system's own temporary folder.
    let directory = tempfile::tempdir().unwrap().keep();
    SqliteStore::open(&directory.join("rentals.db")).await.unwrap()
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test);
}

gpurent_core::store_suite!(block_on, store);
gpurent_core::key_suite!(block_on, store);
gpurent_core::range_suite!(block_on, store);
gpurent_core::audit_suite!(block_on, store);

#[tokio::test]
async fn an_applications_own_file_may_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", directory.path().join("app.db").display());
    let pool = SqlitePool::connect(&url).await.unwrap();
    sqlx::query("CREATE TABLE rental (id INTEGER PRIMARY KEY, what TEXT)").execute(&pool).await.unwrap();
    SqliteStore::from_pool(pool.clone()).await.unwrap();
    // Opened again, there is nothing left to migrate.
    SqliteStore::from_pool(pool.clone()).await.unwrap();
    let foreign: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'gpurent%' AND name NOT LIKE 'sqlite%'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(foreign, ["rental"]);
}

#[tokio::test]
async fn whoever_only_looks_makes_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rentals.db");
    assert!(matches!(SqliteStore::open_as_is(&file).await, Err(StoreError::Misconfigured(_))));
    assert!(!file.exists());
    drop(SqliteStore::open(&file).await.unwrap());
    let store = SqliteStore::open_as_is(&file).await.unwrap().unwrap();
    assert!(store.live(&"host".parse().unwrap()).await.unwrap().is_empty());
    let taken = store.acquire_host(&"host".parse().unwrap(), &"engine".parse().unwrap(), None).await;
    assert!(taken.is_err(), "it is read and not written");
    let pool = SqlitePool::connect(file.to_str().unwrap()).await.unwrap();
    for (change, is_newer) in [
        ("DELETE FROM gpurent_migrations WHERE version = 1", false),
        ("INSERT INTO gpurent_migrations VALUES (999, 'future', '', true, x'00', 0)", true),
    ] {
        sqlx::query(change).execute(&pool).await.unwrap();
        let looked = SqliteStore::open_as_is(&file).await;
        assert!(if is_newer { looked.is_err() } else { looked.unwrap().is_none() }, "{change}");
    }
}

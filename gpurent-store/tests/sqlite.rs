//! SQLite passes the suite that the other stores pass, each test on a file of its own.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

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

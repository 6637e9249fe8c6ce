//! PostgreSQL passes the suite that the store in memory passes, on one database for all tests.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use futures_util::future::join_all;
use gpurent_store::PostgresStore;
use sqlx::PgPool;

fn url() -> String {
    std::env::var("DATABASE_URL").expect("DATABASE_URL: run scripts/test, or eval $(scripts/services env)")
}

async fn store() -> PostgresStore {
    PostgresStore::connect(&url()).await.expect("the database answers")
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test);
}

gpurent_core::store_suite!(block_on, store);

#[tokio::test]
async fn the_schema_is_brought_up_to_date_by_many_at_once() {
    let url = url();
    let stores = join_all((0..4).map(|_| PostgresStore::connect(&url))).await;
    assert!(stores.iter().all(Result::is_ok));
}

#[tokio::test]
async fn nothing_is_put_outside_our_own_schema() {
    let pool = PgPool::connect(&url()).await.unwrap();
    PostgresStore::from_pool(pool.clone()).await.unwrap();
    let foreign: Vec<String> = sqlx::query_scalar(
        "SELECT schemaname || '.' || tablename FROM pg_tables
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'gpurent')",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(foreign.is_empty(), "{foreign:?}");
}

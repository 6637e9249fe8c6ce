//! PostgreSQL behind PgBouncer in transaction mode passes the suites that it passes without.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use futures_util::future::join_all;
use gpurent_core::store::HostStore as _;
use gpurent_store::{CompatibilityViews, PostgresStore};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

fn url() -> String {
    std::env::var("GPURENT_TEST_PGBOUNCER")
        .expect("GPURENT_TEST_PGBOUNCER: run scripts/test, or eval $(scripts/services env)")
}

async fn store() -> PostgresStore {
    PostgresStore::connect(&url()).await.expect("the database answers")
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test);
}

gpurent_core::store_suite!(block_on, store);
gpurent_core::key_suite!(block_on, store);
gpurent_core::range_suite!(block_on, store);
gpurent_core::audit_suite!(block_on, store);

/// A database of its own, as `CREATE DATABASE` makes it. Its search path does not lead into our schema, although the tests' role
/// is called as that.
async fn fresh(name: &str) -> String {
    let direct = std::env::var("DATABASE_URL").expect("DATABASE_URL");
    let server = PgPool::connect(&direct).await.unwrap();
    for statement in [
        format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
        format!("CREATE DATABASE {name}"),
        format!("ALTER DATABASE {name} SET search_path = public"),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&server).await.unwrap();
    }
    format!("{}/{name}", url().rsplit_once('/').unwrap().0)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_make_the_schema_behind_a_pooler() {
    let url = fresh("gpurent_pooled").await;
    let stores = join_all((0..8).map(|_| PostgresStore::connect(&url))).await;
    for store in stores {
        store.unwrap().add_views(&CompatibilityViews::in_schema("platform").unwrap()).await.unwrap();
    }
    assert!(PostgresStore::connect(&format!("{url}?pgbouncer=true")).await.is_ok());
}

#[tokio::test]
async fn an_applications_own_pool_may_lead_to_a_pooler() {
    let options: PgConnectOptions = fresh("gpurent_own_pool").await.parse().unwrap();
    // What PgBouncer wants of every application that uses sqlx.
    let pool = PgPoolOptions::new().max_connections(4).connect_lazy_with(options.extra_float_digits(None));
    let store = PostgresStore::from_pool(pool).await.unwrap();
    let host = "own-pool".parse().unwrap();
    for epoch in 1..10 {
        let ownership = store.acquire_host(&host, &"engine".parse().unwrap(), None).await.unwrap();
        assert_eq!(ownership.epoch.get(), epoch);
    }
}

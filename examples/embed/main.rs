//! GPU rentals inside somebody's own axum application: their routes, their database and migrations, and
//! `/gpus/v1/...` beside them. Run with `DATABASE_URL=postgres://...`; containers and GPUs are simulated, so
//! that it runs anywhere.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use gpurent_core::allocation::PortPools;
use gpurent_core::clock::{SleepFuture, SystemClock};
use gpurent_core::host::HostBuilder;
use gpurent_core::memory::{MemoryRuntime, SimulatedGpus};
use gpurent_core::model::SealKey;
use gpurent_http::{ApiKeys, HttpApi};
use gpurent_store::{CompatibilityViews, PostgresStore};
use sqlx::PgPool;
use sqlx::migrate::Migrator;

/// The application's own migrations, in the `_sqlx_migrations` table that is sqlx's default.
static MIGRATIONS: Migrator = sqlx::migrate!("embed/migrations");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    MIGRATIONS.run(&pool).await?;

    // The rentals live in a schema of their own, with migrations of their own, in the same database.
    let store = Arc::new(PostgresStore::from_pool(pool.clone()).await?);
    store.add_views(&CompatibilityViews::in_schema("platform")?).await?;

    let host = "embedded".parse()?;
    let gpus = SimulatedGpus::new(&host, 2, "RTX 5090".parse()?).gpus().to_vec();
    let pools = PortPools::new("22000-22999".parse()?, "8100-8999".parse()?)?;
    let runtime = Arc::new(MemoryRuntime::with_clock(Arc::new(SystemClock::new())));
    let sealer = Arc::new(SealKey::generate().0);
    let (rentals, reconciler) = HostBuilder::new(host, store.clone(), runtime, sealer, gpus, pools).build();
    let sleep = |time| Box::pin(tokio::time::sleep(time)) as SleepFuture;
    let reconciling = tokio::spawn(reconciler.run(sleep, std::future::pending()));

    let customers = get(move || async move {
        let names: Result<Vec<String>, _> =
            sqlx::query_scalar("SELECT name FROM customer ORDER BY id").fetch_all(&pool).await;
        names.map(|names| names.join("\n")).map_err(|error| error.to_string())
    });
    let gpus = HttpApi::new(rentals, ApiKeys::default().with_store(store));
    let application = Router::new().route("/customers", customers).nest("/gpus", gpus.router());

    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    tokio::select! {
        served = axum::serve(listener, application.into_make_service_with_connect_info::<SocketAddr>()) => served?,
        ended = reconciling => ended??,
    }
    Ok(())
}

//! An agent of an older version may go on while a newer program has brought the tables up to date. What it left out is there
//! as soon as a newer agent takes over.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use gpurent_core::id::{EngineId, HostId, RentalId};
use gpurent_core::store::HostStore;
use gpurent_store::{PostgresStore, SqliteStore};

const BODY: &str = r#"{"state": {"at": "2026-01-01T00:00:00.5Z"}, "spec": {"labels": {"team": "red"}}}"#;
const ENDED_AT: i64 = 1_767_225_600_500_000;

fn host() -> HostId {
    format!("old-{}", RentalId::generate()).parse().unwrap()
}

async fn take_over(store: &impl HostStore, host: &HostId) {
    store.acquire_host(host, &EngineId::try_from("engine".to_owned()).unwrap(), None).await.unwrap();
}

#[tokio::test]
async fn postgres_lists_what_an_older_agent_wrote() {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL: run scripts/test, or eval $(scripts/services env)");
    let store = PostgresStore::connect(&url).await.unwrap();
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let host = host();
    take_over(&store, &host).await;
    sqlx::query("UPDATE gpurent.host SET epoch = epoch + 1 WHERE id = $1")
        .bind(host.as_str())
        .execute(&pool)
        .await
        .unwrap();
    let query = sqlx::query(
        "INSERT INTO gpurent.rental (id, host_id, renter, name, phase, end_kind, revision, created_at, fingerprint, body)
         VALUES (gen_random_uuid(), $1, 'me', 'mine', 'ended', 'expired', 1, 7, '', $2::jsonb)",
    );
    query.bind(host.as_str()).bind(BODY).execute(&pool).await.unwrap();
    take_over(&store, &host).await;
    let query = sqlx::query_as(
        "SELECT tag.renter, tag.name || '=' || tag.value, tag.created_at, rental.ended_at
         FROM gpurent.tag JOIN gpurent.rental ON rental.id = rental_id WHERE tag.host_id = $1 ORDER BY 2",
    );
    let tags: Vec<(String, String, i64, i64)> = query.bind(host.as_str()).fetch_all(&pool).await.unwrap();
    let tag = |tag: &str| ("me".to_owned(), tag.to_owned(), 7, ENDED_AT);
    assert_eq!(tags, [tag("=mine"), tag("team=red")]);
    // Found by the digest that lists look for.
    let query = sqlx::query_scalar(
        "SELECT count(*) FROM gpurent.tag
         WHERE host_id = $1 AND digest = substr(sha256(convert_to('team=red', 'UTF8')), 1, 16)",
    );
    assert_eq!(query.bind(host.as_str()).fetch_one(&pool).await.ok(), Some(1_i64));
    let query = "SELECT epoch = 3 AND listed_epoch = 3 FROM gpurent.host WHERE id = $1";
    assert_eq!(sqlx::query_scalar(query).bind(host.as_str()).fetch_one(&pool).await.ok(), Some(true));
}

#[tokio::test]
async fn sqlite_lists_what_an_older_agent_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("db");
    let store = SqliteStore::open(&file).await.unwrap();
    let pool = sqlx::SqlitePool::connect(file.to_str().unwrap()).await.unwrap();
    let host = host();
    take_over(&store, &host).await;
    sqlx::query("UPDATE gpurent_host SET epoch = epoch + 1").execute(&pool).await.unwrap();
    let query = sqlx::query(
        "INSERT INTO gpurent_rental (id, host_id, renter, name, phase, end_kind, revision, created_at, fingerprint, body)
         VALUES ('an-id', ?, 'me', 'mine', 'ended', 'expired', 1, 7, x'', ?)",
    );
    query.bind(host.as_str()).bind(BODY).execute(&pool).await.unwrap();
    take_over(&store, &host).await;
    let query = sqlx::query_as(
        "SELECT tag.renter, tag.name || '=' || tag.value, tag.created_at, rental.ended_at
         FROM gpurent_tag AS tag JOIN gpurent_rental AS rental ON rental.id = rental_id ORDER BY 2",
    );
    let tags: Vec<(String, String, i64, i64)> = query.fetch_all(&pool).await.unwrap();
    let tag = |tag: &str| ("me".to_owned(), tag.to_owned(), 7, ENDED_AT);
    assert_eq!(tags, [tag("=mine"), tag("team=red")]);
    let query = "SELECT epoch = 3 AND listed_epoch = 3 FROM gpurent_host";
    assert_eq!(sqlx::query_scalar(query).fetch_one(&pool).await.ok(), Some(true));
}

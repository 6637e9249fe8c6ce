//! PostgreSQL passes the suite that the store in memory passes, on one database for all tests.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

use futures_util::future::join_all;
use gpurent_core::allocation::{Placement, PlacementError, PortPools};
use gpurent_core::clock::{Clock, SystemClock};
use gpurent_core::id::{HostId, RentalId};
use gpurent_core::memory::SimulatedGpus;
use gpurent_core::model::{CredentialKind, Fingerprint, GpuRequest, RentalSpec, Sealed};
use gpurent_core::store::{ClaimError, NewRental, Store, StoreError};
use gpurent_store::{CompatibilityViews, PostgresStore};
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
gpurent_core::key_suite!(block_on, store);
gpurent_core::range_suite!(block_on, store);
gpurent_core::audit_suite!(block_on, store);

#[tokio::test]
async fn the_schema_is_brought_up_to_date_by_many_at_once() {
    let url = url();
    let stores = join_all((0..4).map(|_| PostgresStore::connect(&url))).await;
    assert!(stores.iter().all(Result::is_ok));
}

#[tokio::test]
async fn nothing_is_put_outside_our_own_schema() {
    let pool = PgPool::connect(&format!("{}?options=-csearch_path%3Dpublic", url())).await.unwrap();
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

#[tokio::test]
async fn an_applications_tables_never_land_among_ours() {
    // The tests' role is called gpurent, and so its search path begins with our schema.
    let pool = PgPool::connect(&url()).await.unwrap();
    let Err(error @ StoreError::Misconfigured(_)) = PostgresStore::from_pool(pool).await else { panic!("taken") };
    // Printed by whoever, also by a `main` that returns it: what to do is in the first line.
    for told in [error.to_string(), format!("{error:?}")] {
        assert!(told.contains("set search_path=public"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_fight_over_two_gpus_and_two_win() {
    let host: HostId = format!("fight-{}", RentalId::generate()).parse().unwrap();
    let placement = placement(&host);
    // Each store is a process of its own: no lock in memory between them.
    let stores = join_all((0..6).map(|_| store())).await;
    let requests: Vec<_> = (0..200).map(|n| new_rental(&host, n)).collect();
    let claims = requests.iter().enumerate().map(|(n, new)| stores[n % stores.len()].claim(new, &placement));
    let results = join_all(claims).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2);
    for error in results.into_iter().filter_map(Result::err) {
        assert!(matches!(error, ClaimError::NotPlaced(PlacementError::NoGpuFree(_))), "{error:?}");
    }
}

#[tokio::test]
async fn views_show_ports_for_datagrams_beside_those_of_the_same_number() {
    let host: HostId = format!("views-{}", RentalId::generate()).parse().unwrap();
    let store = store().await;
    store.add_views(&CompatibilityViews::in_schema("udp_views").unwrap()).await.unwrap();
    let mut new = new_rental(&host, 0);
    let ports = ["22/udp", "8080", "8080/udp"].map(|port| port.parse().unwrap());
    new.spec.ports = ports.to_vec().try_into().unwrap();
    let claimed = store.claim(&new, &placement(&host)).await.unwrap().rental().clone();
    let pool = PgPool::connect(&url()).await.unwrap();
    let query =
        sqlx::query_as("SELECT port_mappings::text, ssh_port, web_port FROM udp_views.rentals WHERE host_id = $1");
    let (mappings, ssh, web): (String, i32, i32) = query.bind(host.as_str()).fetch_one(&pool).await.unwrap();
    let at = |n: usize| claimed.ports()[n].host.to_string();
    assert_eq!((ssh.to_string(), web.to_string()), (at(0), at(2)));
    let expected = [("22", at(0)), ("22/udp", at(1)), ("8080", at(2)), ("8080/udp", at(3))];
    assert!(expected.iter().all(|(port, host)| mappings.contains(&format!("\"{port}\": \"{host}\""))), "{mappings}");
    sqlx::query("DROP SCHEMA udp_views CASCADE").execute(&pool).await.unwrap();
}

fn placement(host: &HostId) -> Placement {
    Placement {
        udp: true,
        ..Placement::new(
            SimulatedGpus::new(host, 2, "RTX 5090".parse().unwrap()).gpus().to_vec(),
            PortPools::new("22000-22999".parse().unwrap(), "8000-8999".parse().unwrap()).unwrap(),
        )
    }
}

fn new_rental(host: &HostId, n: usize) -> NewRental {
    let gpu = GpuRequest::one("RTX 5090".parse().unwrap());
    let at = SystemClock::new().now();
    NewRental {
        id: RentalId::generate(),
        host: host.clone(),
        name: format!("r{n}").parse().unwrap(),
        spec: RentalSpec::new("me".parse().unwrap(), gpu, "a".parse().unwrap(), "1h".parse().unwrap()),
        credential: CredentialKind::Password,
        sealed: Sealed { key_id: "k".to_owned(), bytes: vec![1] },
        fingerprint: Fingerprint([0; 32]),
        key: None,
        due: at.wall,
        at,
    }
}

//! `embed`: GPU rentals inside a stranger's application, beside the stranger's own tables and migrations.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection, Row};
use support::{environment, http};
use tokio::process::{Child, Command};

/// A database of its own, since the application's tables are at the top level.
async fn fresh_database() -> String {
    let url = environment("DATABASE_URL");
    let name = format!("embed_{}", std::process::id());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    for statement in [format!("DROP DATABASE IF EXISTS {name}"), format!("CREATE DATABASE {name}")] {
        connection.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    }
    let (server, _) = url.rsplit_once('/').unwrap();
    // The tests' role is called gpurent, as our schema is: see `PostgresStore::from_pool`.
    format!("{server}/{name}?options=-csearch_path%3Dpublic")
}

async fn start(url: &str) -> Child {
    let embed = Command::new(env!("CARGO_BIN_EXE_embed")).env("DATABASE_URL", url).kill_on_drop(true).spawn().unwrap();
    for _ in 0..500 {
        if http().get("http://127.0.0.1:8080/gpus/health").send().await.is_ok_and(|answer| answer.status() == 200) {
            return embed;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not come up")
}

#[tokio::test]
async fn a_strangers_application_rents_gpus_beside_its_own_tables() {
    let url = fresh_database().await;
    let mut embed = start(&url).await;
    assert_eq!(http().get("http://127.0.0.1:8080/customers").send().await.unwrap().text().await.unwrap(), "Ada\nGrace");

    let client = http();
    let body = json!({"gpu": "RTX 5090", "image": "ubuntu:22.04", "duration": "90m", "name": "ada-1",
                      "auth": {"password": "canary-password-4711"}, "ports": [8080]});
    let made = client.post("http://127.0.0.1:8080/gpus/v1/rentals").json(&body).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let location = made.headers()["location"].to_str().unwrap().to_owned();
    let id = made.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("/gpus/v1/rentals/{id}"), "where it is mounted");
    let mut rental = Value::Null;
    for _ in 0..500 {
        rental = client.get(format!("http://127.0.0.1:8080{location}")).send().await.unwrap().json().await.unwrap();
        if rental["state"] == "ready" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(rental["state"], "ready");

    // Restarted, everything is found again, and no migration collides.
    embed.kill().await.unwrap();
    let mut embed = start(&url).await;
    let mut database = PgConnection::connect(&url).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
         AND schemaname <> 'gpurent' ORDER BY 1",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    assert_eq!(tables, ["public._sqlx_migrations", "public.customer", "public.rental"]);
    let migrations: (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM public._sqlx_migrations), (SELECT count(*) FROM gpurent._migrations)",
    )
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert!(migrations.0 == 1 && migrations.1 >= 2, "{migrations:?}");

    // The view that tools of the `rent` protocol know, under its documented column names.
    let row = sqlx::query("SELECT * FROM platform.rentals WHERE rental_id = $1").bind(&id);
    let row = row.fetch_one(&mut database).await.unwrap();
    let columns: Vec<&str> = row.columns().iter().map(sqlx::Column::name).collect();
    assert_eq!(
        columns,
        [
            "id",
            "rental_id",
            "host_id",
            "container_id",
            "gpu_type",
            "os_image",
            "duration_hours",
            "auth_type",
            "password",
            "ssh_key",
            "instance_name",
            "environment_variables",
            "port_mappings",
            "created_at",
            "expires_at",
            "status",
            "ssh_port",
            "web_port",
        ]
    );
    let text = |name: &str| row.get::<Option<String>, _>(name);
    assert_eq!(text("gpu_type").as_deref(), Some("RTX 5090"));
    assert_eq!(text("os_image").as_deref(), Some("ubuntu:22.04"));
    assert_eq!(text("auth_type").as_deref(), Some("password"));
    assert_eq!(text("instance_name").as_deref(), Some("ada-1"));
    assert_eq!(text("password"), None);
    assert_eq!(row.get::<i32, _>("duration_hours"), 2, "rounded up");
    assert_eq!(
        json!(row.get::<i32, _>("ssh_port")),
        rental["ports"].as_array().unwrap().iter().find(|port| port["container"] == 22).unwrap()["host"]
    );
    assert!(row.get::<i32, _>("web_port") > 0);
    // Memory forgot the container, so the rental is being ended as lost: active until it has ended.
    assert!(["active", "terminated"].contains(&text("status").unwrap().as_str()));
    embed.kill().await.unwrap();
}

//! The API's own description as other programs take it: a validator that is none of ours finds nothing wrong, and a client
//! that is generated from it rents.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod host;

use std::path::{Path, PathBuf};
use std::process::Output;

use gpurent_http::{ApiKey, ApiKeys};
use host::host_with;
use tokio::process::Command;

const KEY: &str = "platform-platform-platform";

fn tools() -> PathBuf {
    PathBuf::from(std::env::var("GPURENT_OPENAPI").expect("GPURENT_OPENAPI: run scripts/test"))
}

async fn run(tool: &str, folder: &Path, arguments: &[&str]) -> Output {
    let tools = tools();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(tools.join(tool));
    command.current_dir(folder).env("PATH", path).env("PYTHONPATH", folder).args(arguments).output().await.unwrap()
}

fn described(folder: &Path) -> String {
    let file = folder.join("openapi.json");
    std::fs::write(&file, gpurent_http::v1::openapi()).unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_description_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let file = described(folder.path());
    let valid = run("openapi-spec-validator", folder.path(), &["--validation-errors", "all", &file]).await;
    assert!(valid.status.success(), "{valid:?}");
}

#[tokio::test]
async fn a_typed_client_compiles_rents_follows_and_ends() {
    let keys = ApiKeys::new(vec![ApiKey::platform(KEY, "platform".parse().unwrap()).unwrap()]);
    let host = host_with(keys).await;
    let folder = tempfile::tempdir().unwrap();
    let file = described(folder.path());
    let packages = tools().parent().unwrap().join("node_modules");
    std::os::unix::fs::symlink(&packages, folder.path().join("node_modules")).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/generated/rent.ts");
    std::fs::copy(script, folder.path().join("rent.ts")).unwrap();
    let strict = ["--strict", "--noUncheckedIndexedAccess", "--module", "nodenext", "--target", "es2022", "rent.ts"];
    let url = host.url("");
    for (program, arguments) in [
        ("openapi-typescript", &[file.as_str(), "--output", "schema.d.ts"] as &[&str]),
        ("tsc", &strict),
        ("node", &["rent.js", &url, KEY]),
    ] {
        let own = packages.join(".bin").join(program);
        let program = if own.exists() { own.to_str().unwrap().to_owned() } else { program.to_owned() };
        let done = run(&program, folder.path(), arguments).await;
        let said = [&done.stdout, &done.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat();
        assert!(done.status.success(), "{program}: {said}");
    }
}

#[tokio::test]
async fn a_generated_client_rents_follows_and_ends() {
    let keys = ApiKeys::new(vec![ApiKey::platform(KEY, "platform".parse().unwrap()).unwrap()]);
    let host = host_with(keys).await;
    let folder = tempfile::tempdir().unwrap();
    let file = described(folder.path());
    let generate = ["generate", "--path", &file, "--meta", "none", "--output-path", "generated_client"];
    let generated = run("openapi-python-client", folder.path(), &generate).await;
    let said = [&generated.stdout, &generated.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat();
    assert!(generated.status.success(), "{said}");
    assert!(!said.contains("arning"), "nothing is left out: {said}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/generated/rent.py");
    let rented = run("python", folder.path(), &[script, &host.url(""), KEY]).await;
    assert!(rented.status.success(), "{}", String::from_utf8_lossy(&rented.stderr));
}

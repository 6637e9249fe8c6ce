//! Builds the program that runs in every container (`gpurent-access`) for Linux, statically linked, so that it can be
//! put into a container of any image.
//!
//! For musl where its target is installed, else for the GNU C library, linked statically. `GPURENT_ACCESS_PROGRAM`
//! names a program that was built elsewhere, for machines that can do neither.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    // Without it there is no container to put the program into.
    if env::var_os("CARGO_FEATURE_DOCKER").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=GPURENT_ACCESS_PROGRAM");
    let out = PathBuf::from(variable("OUT_DIR"));
    let program = match env::var_os("GPURENT_ACCESS_PROGRAM") {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            PathBuf::from(path)
        }
        // Documentation is made where nothing can be built.
        None if env::var_os("DOCS_RS").is_some() => {
            let empty = out.join("none");
            assert!(std::fs::write(&empty, []).is_ok(), "{} cannot be written", empty.display());
            empty
        }
        None => build(&out),
    };
    println!("cargo::rustc-env=GPURENT_ACCESS_PROGRAM={}", program.display());
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("Cargo sets {name}"))
}

/// Builds it in a target folder of its own: Cargo holds the other one locked.
fn build(out: &Path) -> PathBuf {
    let sources = PathBuf::from(variable("DEP_GPURENT_ACCESS_ROOT"));
    for watched in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", sources.join(watched).display());
    }
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    let musl = format!("{architecture}-unknown-linux-musl");
    let target = if is_installed(&musl) { musl } else { format!("{architecture}-unknown-linux-gnu") };
    let folder = out.join("access");
    let build = |offline: bool| {
        let mut cargo = Command::new(variable("CARGO"));
        cargo.args(["build", "--release", "--bin", "gpurent-access", "--target", &target]);
        cargo.arg("--manifest-path").arg(sources.join("Cargo.toml")).arg("--target-dir").arg(&folder);
        if offline {
            cargo.arg("--offline");
        }
        // What was meant for the outer build: flags, wrappers (clippy is one), other profiles and targets.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let outer = text.starts_with("CARGO_PROFILE_")
                || text.starts_with("CARGO_TARGET_")
                || text.starts_with("CARGO_BUILD_");
            if outer || ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"].contains(&&*text) {
                cargo.env_remove(&name);
            }
        }
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static -C panic=abort");
        cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s").env("CARGO_PROFILE_RELEASE_LTO", "true");
        cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
        // Another system's or processor's linker is of no use; the one that comes with the compiler is.
        if !cfg!(target_os = "linux") || !variable("HOST").starts_with(&architecture) {
            let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
            cargo.env(linker, "rust-lld");
        }
        cargo.output()
    };
    // What is here already suffices as a rule; a package from a registry may lack what only Linux needs.
    let built = build(true);
    let built = if built.as_ref().is_ok_and(|output| output.status.success()) { built } else { build(false) };
    match built {
        Ok(output) if output.status.success() => folder.join(&target).join("release/gpurent-access"),
        Ok(output) => panic!(
            "the program that runs in containers cannot be built for {target}; add the target \
             ({architecture}-unknown-linux-musl), or name a built program by GPURENT_ACCESS_PROGRAM:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => panic!("Cargo cannot be run: {error}"),
    }
}

/// Whether the compiler has the standard library of a target.
fn is_installed(target: &str) -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "target-libdir", "--target", target]).output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

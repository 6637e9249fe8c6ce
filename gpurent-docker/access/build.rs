//! Tells `gpurent-docker`'s build script where these sources are, so that it can build the program from them.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::metadata=root={root}");
}

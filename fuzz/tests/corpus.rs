//! Everything that fuzzing found worth keeping, once more.

fn replay(name: &str, parse: fn(&[u8])) {
    let folder = format!("{}/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for file in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}")) {
        parse(&std::fs::read(file.expect("a file").path()).expect("it can be read"));
        files += 1;
    }
    assert!(files > 0, "{folder} is empty");
}

macro_rules! replays {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name), gpurent_fuzz::$name);
            }
        )*
    };
}

replays!(image, gpu, ports, environment, ssh_key, container, words, documents, requests);

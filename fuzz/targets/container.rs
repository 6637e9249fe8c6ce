#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gpurent_fuzz::container(data));

//! What anybody writes into the store of a cluster, and a machine that lives by it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| testkit::check::check_store(input));

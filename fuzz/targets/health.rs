//! What a backend answers a check.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| testkit::check::check_health(input));

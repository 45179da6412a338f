//! The state file, and a start with it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| testkit::check::check_state(input));

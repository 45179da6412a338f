//! Frames, time and faults through the real engine: conservation, no leak, no broken frame emitted.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| testkit::check::check_steps(input));

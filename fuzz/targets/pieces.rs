//! Pieces of relayed frames, of any place, length, sender and time.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| testkit::peers::check_pieces(input));

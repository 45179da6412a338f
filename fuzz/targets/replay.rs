//! Any file is a capture that replays, every frame with one end, or is refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    testkit::check::check_replay(input, testkit::check::replay_config());
});

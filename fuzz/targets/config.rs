//! Any text is a configuration that compiles, or is refused with places and remedies.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        testkit::check::check_config(text);
    }
});

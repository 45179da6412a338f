//! What the kernel says of routes and neighbours.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| testkit::check::check_netlink(input));

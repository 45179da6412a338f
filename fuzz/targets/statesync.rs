//! Datagrams between machines, from known ones and strangers, through a worker of a cluster.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| testkit::peers::check_statesync(input));

//! Agents' frames, sealed and not, hellos, time and configurations through the registry: what is heard stays in order.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| testkit::check::check_agents(input));

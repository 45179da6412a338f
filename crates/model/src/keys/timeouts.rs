//! `[timeouts]`.

use super::kind::Number;
use super::read::{Reader, open};
use super::table::table;
use toml::Spanned;

table! {
    /// Idle times.
    #[derive(Copy, Eq)]
    pub struct Timeouts(TimeoutsRaw, TimeoutsFound) {
        /// TCP flows of which more than one packet was seen, half-closed ones included. For those it shrinks
        /// as the table fills.
        tcp_established_s: Number<u32, 1, 86_400> = 1800,
            unit "seconds", help "seconds; leave it out for {default}" => InCluster;
        /// TCP flows after RST.
        tcp_closing_s: Number<u32, 1, 86_400> = 30,
            unit "seconds", help "seconds; leave it out for {default}" => InCluster;
        /// TCP flows of which one packet was seen.
        syn_s: Number<u32, 1, 86_400> = 30,
            unit "seconds", help "seconds; leave it out for {default}" => InCluster;
        /// UDP flows.
        udp_s: Number<u32, 1, 86_400> = 60,
            unit "seconds", help "seconds; leave it out for {default}" => InCluster;
        /// Fragments.
        fragment_ms: Number<u32, 10, 60_000> = 1000, unit "milliseconds",
            help "milliseconds; leave it out for {default}" => InCluster;
    }
}

pub(super) fn timeouts(r: &mut Reader<'_, '_>, raw: Option<Spanned<TimeoutsRaw>>) -> Timeouts {
    let (scope, raw) = open("timeouts", raw);
    let found = TimeoutsFound::read(r, &scope, raw);
    let (closing, syn) = (found.tcp_closing_s.span(), found.syn_s.span());
    let timeouts = found.finish();
    let established = timeouts.tcp_established_s;
    for (key, span, value) in
        [("tcp_closing_s", closing, timeouts.tcp_closing_s), ("syn_s", syn, timeouts.syn_s)]
    {
        if let Some(span) = span
            && value > established
        {
            r.warning(
                &span,
                format!("timeouts: `{key}` ({value}) is longer than `tcp_established_s` ({established})"),
                "flows that are over would outlive flows that are used; 30 is usual",
            );
        }
    }
    timeouts
}

//! Ageing: at the start of each turn the flow table sweeps as many buckets as are due, so that entries end soon after
//! their idle time, and long before their epoch could come round again.

use crate::Worker;
use crate::io::PacketIo;
use flow::State;
use wire::Tick;

impl<Io: PacketIo> Worker<Io> {
    pub(crate) fn age(&mut self, now: Tick) {
        let counters = &self.counters;
        self.flows.advance(now, |backend, state| expired(counters, backend, state));
        self.sampler.age(&counters.sources, now);
        counters.totals.flows.set(self.flows.len() as u64);
        counters.totals.flows_untrusted.set(self.flows.untrusted() as u64);
    }
}

fn expired(counters: &crate::Counters, backend: wire::BackendId, state: State) {
    counters.totals.flow_expired.add(1);
    counters.flow_left(backend, state);
}

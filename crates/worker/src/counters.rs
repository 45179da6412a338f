//! What a worker counts. One writer (the worker), any reader: plain loads and stores, no locked add.

use crate::DropReason;
use crate::sources::Sources;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crossbeam_utils::CachePadded;
use flow::State;
use wire::{BackendId, PortId, ServiceId};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`; only the owning worker may call this.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// Takes `n` away (gauges); only the owning worker may call this.
    #[inline(always)]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }
    /// Sets it (gauges); only the owning worker may call this.
    #[inline(always)]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    /// Reads it; any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $field:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $name { $($(#[doc = $doc])+ pub $field: Count,)+ }
        impl $name {
            /// (name, help, value) of every counter, in order.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
                [$((stringify!($field), concat!($($doc),+).trim_ascii(), self.$field.get()),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Totals of a worker. `rx + originated + ring_in = tx + relayed + punted + Σ drops + ring_out + Δheld`.
    Totals {
        /// Frames received from data ports and from the kernel.
        rx,
        /// Frames made here: echo replies, resets, ICMP errors, fragments.
        originated,
        /// Frames sent on a data port.
        tx,
        /// Frames relayed to another machine.
        relayed,
        /// Frames given to the kernel.
        punted,
        /// Frames taken from rings of other workers.
        ring_in,
        /// Frames put on rings to other workers.
        ring_out,
        /// Frames held in the fragment store now (gauge).
        held,
        /// Bytes received.
        rx_bytes,
        /// Bytes sent.
        tx_bytes,
        /// Turns taken.
        turns,
        /// Turns that found no work.
        empty_turns,
        /// Packets that found their flow in the table.
        flow_hits,
        /// Packets that did not.
        flow_misses,
        /// TCP packets steered by their slot alone, without the flow table (`state = "exceptions"`).
        flow_stateless,
        /// TCP flows met in the middle in a tainted slot, without an entry: taken to be from before the change.
        flow_guessed,
        /// Packets without an entry about which the other workers were not asked, because that budget was spent: steered by the table alone.
        flow_unasked,
        /// Flows inserted.
        flow_inserts,
        /// Flows that could not be inserted: table or quota full; steered by the Maglev table alone.
        flow_refused,
        /// Flows whose entry, untrusted yet, made room for another flow.
        flow_displaced,
        /// Flows that ended by idling.
        flow_expired,
        /// Flows whose entries were removed by command.
        flow_forgotten,
        /// Flows entered by command that had begun, and were counted, before.
        flow_restored,
        /// Flows live now (gauge).
        flows,
        /// Of these, flows that are not trusted yet (gauge).
        flows_untrusted,
        /// Packets of flows whose backend was gone, steered anew.
        resteered,
        /// "Packet too big" answers sent.
        too_big_sent,
        /// Echo replies sent.
        echo_sent,
        /// TCP resets and port-unreachable answers sent.
        reset_sent,
        /// Generation of the view in use (gauge).
        generation,
        /// Turns of more than two milliseconds of CPU time.
        long_turns,
        /// CPU time of the longest turn since the start, microseconds (gauge).
        longest_turn_us,
    }
}

counters! {
    /// State synchronisation, per worker.
    PerSync {
        /// Heartbeats sent to other machines.
        heartbeats,
        /// Decisions told to other owners.
        decides,
        /// Entries told to owners before a change of tables.
        exports,
        /// Records told to owners because their flows were used.
        refreshes,
        /// Records told to machines that will own them, and, before a change of tables, to the owners of slots that change.
        migrates,
        /// Corrections told to other machines.
        pushes,
        /// Lasting notes sent again.
        resends,
        /// Acknowledgements sent.
        acknowledgements,
        /// Answers sent.
        answers,
        /// Answers that made or changed an entry.
        answers_cached,
        /// Frames relayed to other machines.
        relays,
        /// Frames relayed to other workers of this machine.
        core_relays,
        /// Flows decided without a record, by their slot's base.
        guesses,
        /// Of these, decided by a machine that owns nothing of them, because both owners were silent.
        local_guesses,
        /// Records refused for want of room.
        records_refused,
        /// Records kept now (gauge).
        records,
        /// Lasting notes that wait for their acknowledgements (gauge).
        unacknowledged,
        /// Machines that are not asked because they were silent, a bit each (gauge).
        suspects,
        /// Bytes of UDP payload sent to other machines, relayed frames not included.
        note_bytes,
        /// Bytes of UDP payload sent to other machines with relayed frames.
        relay_bytes,
    }
}

counters! {
    /// Per service.
    PerService {
        /// Packets that matched the service.
        packets,
        /// Their bytes, from the IP header on.
        bytes,
        /// New flows.
        flows_new,
        /// Packets dropped for want of a usable backend.
        no_backend,
    }
}

counters! {
    /// Per backend: packets. Apart from flows, because every packet counts here.
    PerBackend {
        /// Packets sent to it.
        packets,
        /// Their bytes, from the inner IP header on.
        bytes,
    }
}

counters! {
    /// Per backend: flows.
    PerBackendFlows {
        /// New flows placed on it.
        flows_new,
        /// Flows live now (gauge).
        flows,
        /// Of the new flows, those that no SYN began: TCP that was met in the middle, and everything else. Counted rather than those that
        /// one began, because these are so many more.
        met,
        /// TCP flows whose second packet was no SYN, FIN or RST: the client has got an answer. Of flows that were met in the middle,
        /// too.
        handshakes,
    }
}

impl PerBackendFlows {
    /// TCP flows that a SYN began, and that found room in the flow table.
    pub fn syns(&self) -> u64 {
        // `met` first, and never above what is read later: another thread may look while the worker counts.
        let met = self.met.get();
        self.flows_new.get().saturating_sub(met)
    }
}

counters! {
    /// Per port, as this worker saw its queue.
    PerPort {
        /// Frames received.
        rx,
        /// Frames sent.
        tx,
        /// Bytes received.
        rx_bytes,
        /// Bytes sent.
        tx_bytes,
        /// Frames the transmit queue did not accept.
        tx_full,
    }
}

/// Room for the counters of all drop reasons.
const DROPS: usize = DropReason::COUNT.next_power_of_two();

counters! {
    /// Per backend: how clients' connections end. Apart from the others, whose size is a power of two.
    PerBackendEnds {
        /// TCP flows whose client sent FIN or RST after its handshake. A client whose connection was reset sends neither.
        closes,
        /// Of these, those whose client did so within [`CLOSED_SOON_US`] of its handshake.
        soon,
    }
}

/// A client that closes within this time of its handshake has closed soon, microseconds.
pub const CLOSED_SOON_US: u64 = 3_000_000;

/// All counters of one worker; shared with control as `Arc<Counters>`, sized at start.
#[derive(Debug)]
pub struct Counters {
    /// Totals.
    pub totals: CachePadded<Totals>,
    /// By reason; a power of two, so that none lies outside.
    drops: [Count; DROPS],
    /// State synchronisation.
    pub sync: PerSync,
    services: Box<[PerService]>,
    /// Apart from the services' other counters, whose size is a power of two.
    overloads: Box<[Count]>,
    backends: Box<[PerBackend]>,
    backend_flows: Box<[PerBackendFlows]>,
    /// Apart from the others, whose size is a power of two.
    ending: Box<[Count]>,
    ends: Box<[PerBackendEnds]>,
    ports: Box<[PerPort]>,
    /// Who sends what is dropped.
    pub sources: Sources,
}

impl Counters {
    /// Counters for ids below the given limits.
    pub fn new(services_max: usize, backends_max: usize, ports: usize) -> Counters {
        fn boxed<T: Default>(n: usize) -> Box<[T]> {
            (0..n).map(|_| T::default()).collect()
        }
        Counters {
            totals: CachePadded::default(),
            drops: core::array::from_fn(|_| Count::default()),
            sync: PerSync::default(),
            services: boxed(services_max),
            overloads: boxed(services_max),
            backends: boxed(backends_max),
            backend_flows: boxed(backends_max),
            ending: boxed(backends_max),
            ends: boxed(backends_max),
            ports: boxed(ports),
            sources: Sources::default(),
        }
    }

    /// The counter of a drop reason.
    #[inline(always)]
    pub fn drops(&self, reason: DropReason) -> &Count {
        &self.drops[reason as usize % DROPS]
    }

    /// The counters of a service; `None` past the limit set at start.
    #[inline(always)]
    pub fn service(&self, id: ServiceId) -> Option<&PerService> {
        self.services.get(usize::from(id.0))
    }

    /// Packets of a service that were dropped because every backend was full; `None` past the limit set at start.
    #[inline]
    pub fn overload(&self, id: ServiceId) -> Option<&Count> {
        self.overloads.get(usize::from(id.0))
    }

    /// The counters of a backend's packets; `None` past the limit set at start.
    #[inline(always)]
    pub fn backend(&self, id: BackendId) -> Option<&PerBackend> {
        self.backends.get(id.index())
    }

    /// The counters of all backends' packets, by id: for loops that count many.
    #[inline(always)]
    pub fn backends(&self) -> &[PerBackend] {
        &self.backends
    }

    /// The counters of a backend's flows; `None` past the limit set at start.
    #[inline(always)]
    pub fn flows_of(&self, id: BackendId) -> Option<&PerBackendFlows> {
        self.backend_flows.get(id.index())
    }

    /// Flows of a backend that have an entry and are not open any more (gauge); `None` past the limit set at start.
    pub fn ending(&self, id: BackendId) -> Option<&Count> {
        self.ending.get(id.index())
    }

    /// How connections of a backend's clients end; `None` past the limit set at start.
    pub fn ends(&self, id: BackendId) -> Option<&PerBackendEnds> {
        self.ends.get(id.index())
    }

    /// The gauge that a flow in this state counts in.
    #[inline]
    fn gauge(&self, id: BackendId, state: State) -> Option<&Count> {
        if state.is_open() { self.flows_of(id).map(|of| &of.flows) } else { self.ending(id) }
    }

    /// A flow that was in this state has left its backend, or that state.
    #[inline]
    pub(crate) fn flow_left(&self, id: BackendId, state: State) {
        if let Some(gauge) = self.gauge(id, state) {
            gauge.sub(1);
        }
    }

    /// A flow in this state has come to a backend, or to that state.
    #[inline]
    pub(crate) fn flow_came(&self, id: BackendId, state: State) {
        if let Some(gauge) = self.gauge(id, state) {
            gauge.add(1);
        }
    }

    /// The counters of all backends' flows, by id.
    #[inline(always)]
    pub fn backend_flows(&self) -> &[PerBackendFlows] {
        &self.backend_flows
    }

    /// The counters of a port; `None` past the limit set at start.
    #[inline(always)]
    pub fn port(&self, id: PortId) -> Option<&PerPort> {
        self.ports.get(id.index())
    }

    /// Sum of all drops.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(Count::get).sum()
    }

    /// Left side minus right side of the conservation equation: 0 between turns.
    pub fn imbalance(&self) -> i64 {
        let t = &self.totals;
        let left = t.rx.get() + t.originated.get() + t.ring_in.get();
        let right =
            t.tx.get() + t.relayed.get() + t.punted.get() + self.dropped() + t.ring_out.get() + t.held.get();
        left.wrapping_sub(right).cast_signed()
    }
}

//! New flows on the fast path: plain IPv4 packets that the burst look-up did not find are placed by their slots, four
//! hashes at a time, and entered, without the general description of a packet.
//!
//! What it does is what [`steering`](crate::steering) would do with them, only sooner; what that would have to ask about (the
//! other workers' tables, a remembered slot, a flow twice in the burst) is left to it.

use crate::classify::{Fate, classify};
use crate::fast::Run;
use crate::io::{Burst, Frame, PacketIo};
use crate::steering::place_in;
use crate::view::{HashOn, View};
use crate::{BURST, Worker};
use flow::{Isa, State};
use steer::hash::lanes::{TupleV4, tuples_v4};
use wire::plain::Plain;
use wire::{Addr, BackendId, FlowKey, Tick};

/// Hashes at a time.
pub(crate) const LANES: usize = 8;

/// Eight hashes in lockstep: as vectors, or where there are none in two halves, for which there are registers.
pub(crate) fn hashes(table: &flow::Table, key: &[u8; 16], tuples: &[TupleV4; LANES]) -> [u64; LANES] {
    table.with_vectors(
        #[inline(always)]
        |isa| match isa {
            Isa::Baseline => {
                let (halves, _) = tuples.as_chunks::<{ LANES / 2 }>();
                let mut hashes = [0; LANES];
                for (half, tuples) in hashes.as_chunks_mut().0.iter_mut().zip(halves) {
                    *half = tuples_v4(key, tuples);
                }
                hashes
            }
            _ => tuples_v4(key, tuples),
        },
    )
}

/// The new flows of a burst, by position.
#[derive(Debug)]
pub(crate) struct Fresh {
    /// The positions that have been placed, a bit each.
    placed: u32,
    backend: [BackendId; BURST],
}

impl Fresh {
    pub(crate) fn new() -> Fresh {
        Fresh { placed: 0, backend: [BackendId(0); BURST] }
    }

    #[inline(always)]
    pub(crate) fn is_placed(&self, position: usize) -> bool {
        self.placed >> (position % BURST) & 1 == 1
    }
}

/// Which keys of a burst were seen, a bit for each of 2048 values of their hash: a bit seen twice is nearly always the same
/// key twice.
struct Seen([u64; 32]);

impl Seen {
    #[inline(always)]
    fn is_first(&mut self, hash: u64) -> bool {
        // Of the upper half, which also chooses the bucket: keys of one bucket need not be told apart here.
        let (word, bit) = ((hash >> 59) as usize, hash >> 53 & 63);
        let is_first = self.0[word] >> bit & 1 == 0;
        self.0[word] |= 1 << bit;
        is_first
    }
}

impl<Io: PacketIo> Worker<Io> {
    /// Places the packets of the burst that begin a flow as far as anybody knows.
    #[inline]
    pub(crate) fn place_fresh(&mut self, view: &View, burst: &Burst<Io::Frame>) {
        self.fresh.placed = 0;
        let missed = self.batch.may_be_fresh() & !self.hits.found();
        if missed != 0 {
            self.place_missed(view, burst, missed);
        }
    }

    #[inline(never)]
    fn place_missed(&mut self, view: &View, burst: &Burst<Io::Frame>, mut missed: u32) {
        let mut seen = Seen([0; 32]);
        let is_alone = self.peers.len() < 2;
        while missed != 0 {
            let mut tuples = [TupleV4::default(); LANES];
            let mut positions = [0; LANES];
            let mut count = 0;
            while missed != 0 && count < LANES {
                let position = missed.trailing_zeros() as usize;
                missed &= missed - 1;
                // Another worker may know the flow, unless its first packet is this one.
                let is_settled = is_alone || self.batch.is_syn(position);
                let is_first = self.hits.miss(position).is_some_and(|miss| seen.is_first(miss.hash()));
                if is_settled
                    && is_first
                    && let Some(plain) = burst.get(position).and_then(|frame| Plain::read(frame.bytes()))
                {
                    let ports = u32::from(plain.sport) << 16 | u32::from(plain.dport);
                    tuples[count % LANES] =
                        TupleV4 { src: plain.src, dst: plain.dst, ports, protocol: plain.protocol };
                    positions[count % LANES] = position;
                    count += 1;
                }
            }
            let hashes = hashes(&self.flows, &view.cluster_key, &tuples);
            for ((position, hash), tuple) in positions.into_iter().zip(hashes).zip(tuples).take(count) {
                let Some(service) = view.service.get(self.batch.service_index(position)) else { continue };
                let hash = match service.hash {
                    HashOn::Tuple => hash,
                    HashOn::Source => steer::hash::source(&view.cluster_key, Addr::V4(tuple.src)),
                };
                let slot = service.maglev.slot(hash);
                // A tainted slot may have an owner to ask.
                if service.memory.is_none()
                    && !is_tainted(view, self.batch.service_index(position), slot)
                    && let Some(backend) = place_in(view, service, slot)
                {
                    self.fresh.backend[position % BURST] = backend;
                    self.fresh.placed |= 1 << (position % BURST);
                }
            }
        }
    }

    /// Enters and forwards a packet that was placed. Gives the frame back where something has changed since then.
    #[inline(never)]
    pub(crate) fn forward_fresh(
        &mut self,
        view: &View,
        frame: Io::Frame,
        position: usize,
        now: Tick,
        run: &mut Run,
    ) -> Option<Io::Frame> {
        let key = FlowKey::Narrow(self.keys.narrow(position));
        let service = view.service.get(self.batch.service_index(position));
        let (Some(service), Some(miss), false) = (service, self.hits.miss(position), self.entered) else {
            return Some(frame);
        };
        let backend = self.fresh.backend[position % BURST];
        let state = if self.batch.is_tcp(position) { State::TcpNew } else { State::UdpNew };
        self.tally.misses += 1;
        // Where there is no room, the next packet is steered by the table again.
        self.enter(service, &key, Some(miss), backend, state, now);
        match self.carry(view, frame, position, backend) {
            None => run.count(&self.counters, service.id, self.batch.datagram_len(position)),
            Some(frame) => {
                let mut packet = classify(view, frame.bytes(), frame.meta());
                packet.fate = Fate::To(backend);
                self.count_for(service, &packet);
                self.rewrite(view, frame, &mut packet, now);
            }
        }
        None
    }
}

/// Whether a slot is tainted in the cluster.
#[inline]
fn is_tainted(view: &View, service: usize, slot: u32) -> bool {
    let of = view.cluster.as_ref().and_then(|cluster| cluster.services.get(service));
    of.is_some_and(|of| of.taints.is_tainted(slot))
}

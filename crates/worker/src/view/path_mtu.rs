//! Path MTU of the tunnels as soft state (RFC 2003 section 5.1, RFC 2473 section 7.1, RFC 4213 section 3.2): learnt from what
//! routers on the way to a backend say of our own packets, kept beside the backend in the view, and forgotten after a while.
//!
//! All workers see what one has learnt, because they share the view. What packets are compared with anyway ([`Room`]) is lowered, so a
//! known flow's packet pays nothing; only one that does not fit asks why. Control carries what is known to the next view. What is
//! lost on that way, or because two workers learn and forget at once, the next error tells again.

use crate::view::{BackendState, BackendView, View};
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use wire::{Addr, BackendId, Tick};

/// How long a path MTU is believed (RFC 1191 section 6.3, RFC 8201 section 4), microseconds.
pub const AGE_US: u64 = 600_000_000;
/// A smaller path MTU is not believed: every link of IPv6 carries that (RFC 8200 section 5).
const LEAST_V6: u16 = 1280;
/// Nor is one smaller than this for IPv4: what every host takes (RFC 791 section 3.1), and far more than forged errors should make of an MTU.
const LEAST_V4: u16 = 576;

/// The largest datagram of a known flow that goes to a backend without another question.
#[derive(Debug, Default)]
pub struct Room(AtomicU16);

impl Room {
    /// The inner MTU, or 0 while the backend is down or its next hop is unresolved.
    pub fn new(state: BackendState, next_hop: Option<[u8; 6]>, inner_mtu: u16) -> Room {
        let is_open = state != BackendState::Down && next_hop.is_some();
        Room(AtomicU16::new(if is_open { inner_mtu } else { 0 }))
    }

    /// Bytes of IP.
    #[inline(always)]
    pub fn get(&self) -> u16 {
        self.0.load(Relaxed)
    }

    /// Plain load and store: see above for two workers at once.
    fn lower(&self, inner_mtu: u16) {
        self.0.store(self.get().min(inner_mtu), Relaxed);
    }
}

/// What is known of the path to a backend: in the upper 16 bits the largest inner datagram, 0 for nothing; below them since when,
/// microseconds.
#[derive(Debug, Default)]
pub struct Learnt(AtomicU64);

/// Nine years.
const TIME: u64 = (1 << 48) - 1;

impl Learnt {
    fn set(&self, inner_mtu: u16, now: Tick) {
        self.0.store(u64::from(inner_mtu) << 48 | now.0 & TIME, Relaxed);
    }

    fn get(&self, now: Tick) -> Option<u16> {
        let word = self.0.load(Relaxed);
        let age = now.0.wrapping_sub(word) & TIME;
        u16::try_from(word >> 48).ok().filter(|&inner_mtu| inner_mtu != 0 && age < AGE_US)
    }
}

impl BackendView {
    /// The path MTU that was learnt, bytes of the outer datagram; `None` while none smaller than the configured one is known.
    pub fn path_mtu(&self, now: Tick) -> Option<u16> {
        self.learnt.get(now).map(|inner| inner.saturating_add(self.overhead()))
    }

    /// The largest inner datagram that fits now. For one of IPv6 no path makes it less than 1280: a host need not send smaller packets
    /// (RFC 8201 section 4, RFC 4213 section 3.2.2).
    pub fn inner_mtu_now(&self, inner_v6: bool, now: Tick) -> u16 {
        let Some(learnt) = self.learnt.get(now) else {
            self.forget();
            return self.inner_mtu;
        };
        if inner_v6 { learnt.max(self.inner_mtu.min(LEAST_V6)) } else { learnt }
    }

    /// Takes the word of a router, if it is less than what is known.
    pub fn learn(&self, path_mtu: u16, now: Tick) {
        let least = if self.header.is_v6() { LEAST_V6 } else { LEAST_V4 };
        let inner_mtu = path_mtu.max(least).saturating_sub(self.overhead());
        if inner_mtu < self.inner_mtu && self.learnt.get(now).is_none_or(|known| inner_mtu <= known) {
            self.learnt.set(inner_mtu, now);
            self.room.lower(inner_mtu);
        }
    }

    /// After [`AGE_US`] the configured MTU is tried again.
    fn forget(&self) {
        if self.learnt.0.load(Relaxed) != 0 {
            self.learnt.0.store(0, Relaxed);
            let room = Room::new(self.state, self.next_hop, self.inner_mtu);
            self.room.0.store(room.get(), Relaxed);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most the longest header, 70 bytes")]
    fn overhead(&self) -> u16 {
        self.header.len() as u16
    }
}

/// Backends by the destination of their tunnels.
#[derive(Debug, Default)]
pub struct Tunnels(Vec<(Addr, BackendId)>);

impl Tunnels {
    /// Of all backends that are reached through a tunnel.
    pub fn of(backends: &[Option<BackendView>]) -> Tunnels {
        let to = |backend: &BackendView| Some((backend.header.destination()?, backend.id));
        let mut tunnels: Vec<_> = backends.iter().flatten().filter_map(to).collect();
        tunnels.sort_unstable();
        Tunnels(tunnels)
    }

    pub(crate) fn to(&self, destination: Addr) -> impl Iterator<Item = BackendId> {
        let first = self.0.partition_point(|(to, _)| *to < destination);
        let from_first = self.0.get(first..).unwrap_or_default().iter();
        from_first.take_while(move |(to, _)| *to == destination).map(|(_, id)| *id)
    }
}

impl View {
    /// Takes over what the view before has learnt of backends that are still behind the same header.
    pub fn inherit_paths(&self, before: &View, now: Tick) {
        for (backend, old) in self.backends.iter().zip(&before.backends) {
            if let (Some(backend), Some(old)) = (backend, old)
                && let Some(known) = old.learnt.get(now)
                && known < backend.inner_mtu
                && backend.header.is_same_tunnel(&old.header)
            {
                // With its age.
                backend.learnt.0.store(old.learnt.0.load(Relaxed), Relaxed);
                backend.room.lower(known);
            }
        }
    }
}

//! Small numbers that name things on the packet path. Names (strings) stay in the control plane.

/// A service: stands for (VIP, port, protocol). Starts at 1, so that a flow key is never all zero; an id is
/// not used again while flows of it live.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ServiceId(pub u16);

/// A backend of one service. 20 bits are stored in the flow table, so at most [`BackendId::MAX`]; not used
/// again within 1.5 × the longest idle time of its removal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct BackendId(pub u32);

impl BackendId {
    /// The largest id (inclusive): 2^20 - 1.
    pub const MAX: u32 = (1 << 20) - 1;

    /// As an index into per-backend arrays.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A worker, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct CoreId(pub u8);

/// A port of the worker's `PacketIo`, counted from 0: data ports first, in the order of the config; the
/// exception port of a data port is named by the view.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct PortId(pub u16);

impl PortId {
    /// As an index into per-port arrays.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A moment: microseconds since an origin that only the caller knows. Never goes backwards within a run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// `ms` milliseconds after the origin.
    pub const fn from_ms(ms: u64) -> Tick {
        Tick(ms * 1000)
    }

    /// Microseconds since `earlier`, 0 when `earlier` is later.
    pub const fn since_us(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

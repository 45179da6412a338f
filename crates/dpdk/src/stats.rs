//! What a device counts.

/// Counts of a device since it was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortStats {
    /// Frames received.
    pub rx: u64,
    /// Frames sent.
    pub tx: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames dropped by the device because nobody took them in time.
    pub missed: u64,
    /// Frames received with errors.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Frames lost for want of buffers.
    pub nombuf: u64,
}

/// Reads a port's counts; zeros when the device has none.
pub(crate) fn read(port: u16) -> PortStats {
    let mut stats = dpdk_sys::rte_eth_stats::default();
    // SAFETY: the structure is large enough; an unknown port is answered by an error.
    if unsafe { dpdk_sys::rte_eth_stats_get(port, &raw mut stats) } != 0 {
        return PortStats::default();
    }
    PortStats {
        rx: stats.ipackets,
        tx: stats.opackets,
        rx_bytes: stats.ibytes,
        tx_bytes: stats.obytes,
        missed: stats.imissed,
        rx_errors: stats.ierrors,
        tx_errors: stats.oerrors,
        nombuf: stats.rx_nombuf,
    }
}

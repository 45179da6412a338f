//! Lets `dpdk-dumpcap` and `dpdk-pdump` attach: only testpmd calls this by default.

use crate::eal::Eal;
use crate::errno::Errno;

/// Packet capture is served while this lives.
#[derive(Debug)]
pub struct Capture {
    _eal: Eal,
}

/// Starts to serve capture requests.
///
/// # Errors
/// The number DPDK gave; without shared configuration (`--in-memory`, `--no-shconf`) nobody can attach.
pub fn serve(eal: &Eal) -> Result<Capture, Errno> {
    // SAFETY: EAL is started.
    Errno::check(unsafe { dpdk_sys::rte_pdump_init() })?;
    Ok(Capture { _eal: eal.clone() })
}

impl Drop for Capture {
    fn drop(&mut self) {
        // SAFETY: initialized by `serve`, and EAL still runs.
        unsafe { dpdk_sys::rte_pdump_uninit() };
    }
}

//! Closures on EAL's own threads. Workers are lcores, not `std` threads: registering those switches DPDK's
//! multi-process support off, and dumpcap and proc-info could not attach.

use crate::eal::Eal;
use crate::errno::Errno;
use core::ffi::{c_int, c_void};

type LcoreJob = Box<dyn FnOnce() + Send>;

/// A closure did not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot start a worker on lcore {lcore} [{errno}]")]
pub struct LaunchError {
    /// The lcore.
    pub lcore: u32,
    /// EBUSY: it runs something already; EINVAL: no such lcore.
    pub errno: Errno,
}

/// A closure running on an lcore. Dropping one waits for its end.
#[derive(Debug)]
pub struct Running {
    lcore: u32,
    _eal: Eal,
}

/// Runs `job` on an lcore that is not the caller's own.
///
/// # Errors
/// [`LaunchError`]; the closure is dropped.
pub fn launch(eal: &Eal, lcore: u32, job: impl FnOnce() + Send + 'static) -> Result<Running, LaunchError> {
    if !eal.worker_lcores().contains(&lcore) {
        return Err(LaunchError { lcore, errno: Errno::INVAL });
    }
    let job: LcoreJob = Box::new(job);
    let argument = Box::into_raw(Box::new(job)).cast::<c_void>();
    // SAFETY: the lcore exists and `argument` is what `run` expects.
    let result = unsafe { dpdk_sys::rte_eal_remote_launch(Some(run), argument, lcore) };
    if let Err(errno) = Errno::check(result) {
        // SAFETY: the lcore did not take the argument, so it is still ours.
        drop(unsafe { Box::from_raw(argument.cast::<LcoreJob>()) });
        return Err(LaunchError { lcore, errno });
    }
    Ok(Running { lcore, _eal: eal.clone() })
}

/// On the lcore. A panic in the job ends the process, as unwinding into C must not happen.
unsafe extern "C" fn run(argument: *mut c_void) -> c_int {
    // SAFETY: `launch` made it from a box of this type and gave it away.
    let job = unsafe { Box::from_raw(argument.cast::<LcoreJob>()) };
    job();
    0
}

impl Running {
    /// Whether the closure has not returned yet.
    pub fn is_running(&self) -> bool {
        // SAFETY: the lcore exists.
        let state = unsafe { dpdk_sys::rte_eal_get_lcore_state(self.lcore) };
        state == dpdk_sys::rte_lcore_state_t::RUNNING
    }

    /// Waits for the closure's end.
    pub fn join(self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: the lcore exists and is not the caller's.
        unsafe { dpdk_sys::rte_eal_wait_lcore(self.lcore) };
    }
}

//! The core that measures, and another for whoever works beside it.

use crate::failure::Failure;
use core_affinity::CoreId;

/// CPUs of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpus {
    /// This thread's.
    pub own: usize,
    /// Another, if there is one.
    pub other: Option<usize>,
}

impl Cpus {
    /// The other one.
    ///
    /// # Errors
    /// There is none.
    pub fn other(self) -> Result<CoreId, Failure> {
        match self.other {
            Some(id) => Ok(CoreId { id }),
            None => Err(Failure::Usage("two CPUs are needed".into())),
        }
    }
}

/// Moves this thread to the last CPU it may use. The first is the kernel's favourite for interrupts.
///
/// # Errors
/// The kernel refuses.
pub fn pin() -> Result<Cpus, Failure> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let Some(own) = cores.last() else {
        return Err(Failure::Machine("the kernel does not say which CPUs there are".into()));
    };
    let other = cores.first().filter(|core| core.id != own.id).map(|core| core.id);
    if core_affinity::set_for_current(*own) {
        Ok(Cpus { own: own.id, other })
    } else {
        Err(Failure::Machine(format!("cannot move to CPU {}", own.id)))
    }
}

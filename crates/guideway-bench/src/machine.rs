//! The core that measures, and another for whoever works beside it.

use crate::failure::Failure;
use core_affinity::CoreId;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::ffi::OsStr;
use std::process::Command;

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

/// Moves this thread to `cpu`.
///
/// # Errors
/// The kernel refuses.
pub fn move_to(cpu: usize) -> Result<(), Failure> {
    match core_affinity::set_for_current(CoreId { id: cpu }) {
        true => Ok(()),
        false => Err(Failure::Machine(format!("cannot move to CPU {cpu}"))),
    }
}

/// A command for `program` that ends with the thread that starts it, however that ends.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    // Of util-linux, which every Debian has.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Does `work` while this thread may run anywhere: a program that is started inherits the CPUs of whom it is started by, and
/// would have all its threads on one.
///
/// # Errors
/// The kernel refuses.
pub fn everywhere<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    let failed = |e: rustix::io::Errno| Failure::Machine(format!("cannot choose CPUs: {e}"));
    let before = sched_getaffinity(None).map_err(failed)?;
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    // The kernel leaves out those that there are not.
    sched_setaffinity(None, &all).map_err(failed)?;
    let done = work();
    sched_setaffinity(None, &before).map_err(failed)?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_free_for_a_while_only() {
        std::thread::spawn(|| {
            let cpus = pin().expect("a CPU");
            let here = || sched_getaffinity(None).expect("a set").count();
            assert_eq!(here(), 1);
            let free = everywhere(here).expect("allowed");
            assert!(free >= 1 && (cpus.other.is_none() || free > 1), "{free}");
            assert_eq!(here(), 1);
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn a_command_ends_with_its_parent() {
        let (to, from) = std::sync::mpsc::channel();
        let starter = std::thread::spawn(move || {
            let child = command("sleep").arg("600").spawn().expect("setpriv and sleep");
            // Until it has asked for the signal.
            let name = format!("/proc/{}/comm", child.id());
            while std::fs::read_to_string(&name).is_ok_and(|name| name.trim() != "sleep") {
                std::thread::yield_now();
            }
            to.send(child).expect("somebody listens");
        });
        let mut child = from.recv().expect("a child");
        starter.join().expect("no panic");
        assert!(!child.wait().expect("a child").success(), "killed");
    }
}

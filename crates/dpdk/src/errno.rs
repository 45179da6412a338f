//! Error numbers by name: what DPDK returns, as people search for it.

use core::fmt;

/// A positive `errno` value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

/// Name and meaning of the numbers DPDK uses.
const NAMES: &[(i32, &str, &str)] = &[
    (1, "EPERM", "operation not permitted"),
    (2, "ENOENT", "no such entry"),
    (4, "EINTR", "interrupted"),
    (5, "EIO", "input/output error"),
    (6, "ENXIO", "no such device or address"),
    (7, "E2BIG", "argument list too long"),
    (8, "ENOEXEC", "wrong format"),
    (9, "EBADF", "bad file descriptor"),
    (11, "EAGAIN", "try again"),
    (12, "ENOMEM", "out of memory"),
    (13, "EACCES", "permission denied"),
    (14, "EFAULT", "bad address"),
    (16, "EBUSY", "busy"),
    (17, "EEXIST", "already exists"),
    (19, "ENODEV", "no such device"),
    (22, "EINVAL", "invalid argument"),
    (24, "EMFILE", "too many open files"),
    (25, "ENOTTY", "not supported by the device"),
    (28, "ENOSPC", "no space left"),
    (34, "ERANGE", "out of range"),
    (38, "ENOSYS", "not implemented"),
    (95, "ENOTSUP", "not supported"),
    (98, "EADDRINUSE", "address in use"),
    (100, "ENETDOWN", "network is down"),
    (110, "ETIMEDOUT", "timed out"),
    (114, "EALREADY", "already in progress"),
    (1001, "E_RTE_SECONDARY", "not allowed in a secondary process"),
    (1002, "E_RTE_NO_CONFIG", "EAL is not started"),
];

impl Errno {
    /// EBUSY.
    pub const BUSY: Errno = Errno(16);
    /// EINVAL.
    pub const INVAL: Errno = Errno(22);
    /// ENODEV.
    pub const NODEV: Errno = Errno(19);
    /// ENOENT.
    pub const NOENT: Errno = Errno(2);
    /// ENOMEM.
    pub const NOMEM: Errno = Errno(12);
    /// ENOSYS.
    pub const NOSYS: Errno = Errno(38);
    /// ENOTSUP.
    pub const NOTSUP: Errno = Errno(95);

    /// This thread's `rte_errno`.
    pub(crate) fn last() -> Errno {
        // SAFETY: reads a thread-local variable; no preconditions.
        Errno(unsafe { dpdk_sys::shim_errno() })
    }

    /// A C result: negative values are errors, as `-errno`, or -1 with the number in `rte_errno`.
    pub(crate) fn check(result: i32) -> Result<i32, Errno> {
        match result {
            0.. => Ok(result),
            // -1 is also -EPERM; where `rte_errno` says something it is the more telling of the two.
            -1 => Err(match Errno::last() {
                Errno(0) => Errno(1),
                errno => errno,
            }),
            _ => Err(Errno(result.saturating_neg())),
        }
    }

    /// The device does not know the operation.
    pub fn is_unsupported(self) -> bool {
        matches!(self, Errno::NOTSUP | Errno::NOSYS)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, ..)| *number == self.0) {
            Some((_, name, meaning)) => write!(f, "{name} ({meaning})"),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_become_named_errors() {
        assert_eq!(Errno::check(3), Ok(3));
        assert_eq!(Errno::check(-95), Err(Errno::NOTSUP));
        assert_eq!(Errno(12).to_string(), "ENOMEM (out of memory)");
        assert_eq!(Errno(777).to_string(), "errno 777");
        assert_eq!(Errno::check(i32::MIN), Err(Errno(i32::MAX)));
    }
}

//! Descriptors: each probe under way takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's soft limit of open files to the hard one, and returns what it is then; `None`: without limit.
///
/// The soft limit is low by default for the sake of programs that call `select` (systemd.exec(5), `LimitNOFILE=`), which none of ours does.
///
/// # Errors
/// The kernel refuses; the limit is as before.
pub fn raise_limit() -> std::io::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    }
    Ok(limit.maximum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a process of its own, because its limit holds for all threads.
    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        const MARK: &str = "HEALTH_TEST_RAISES_LIMIT";
        if std::env::var_os(MARK).is_none() {
            let name = "descriptors::tests::the_soft_limit_becomes_the_hard_one";
            let own = std::env::current_exe().unwrap();
            let status =
                std::process::Command::new(own).args([name, "--exact"]).env(MARK, "1").status().unwrap();
            assert!(status.success());
            return;
        }
        let limit = Rlimit { current: Some(100), maximum: Some(200) };
        setrlimit(Resource::Nofile, limit).unwrap();
        for _ in 0..2 {
            assert_eq!(raise_limit().unwrap(), Some(200));
            assert_eq!(getrlimit(Resource::Nofile).current, Some(200));
        }
    }
}

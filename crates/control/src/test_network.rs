//! A network namespace for a test: the test's binary runs the one test again, inside.

use std::ffi::OsStr;
use std::process::{Child, Command, Stdio};

const INSIDE: &str = "GUIDEWAY_TEST_NETWORK";

/// Runs `body` in a network namespace of its own, in which `setup` (shell) was run; the kernel removes it with the
/// process. `name` is the full name of the test. Needs root.
pub(crate) fn in_own_network(name: &str, setup: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        body();
        return;
    }
    assert!(rustix::process::geteuid().is_root(), "{name} makes a network namespace, which needs root");
    let script = format!("set -e; ip link set lo up; {setup}\nexec \"$0\" \"$@\"");
    let status = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare (util-linux) starts");
    assert!(status.success(), "{name} failed in its namespace");
}

/// Runs a command that must succeed; returns its output.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A second namespace, at the far end of a veth pair; lives as long as this.
pub(crate) struct Far(Child);

impl Far {
    /// Makes the pair `near` (here) and `far0` (there), and runs `setup` there.
    pub(crate) fn new(near: &str, setup: &str) -> Far {
        let child = Command::new("unshare")
            .args(["--net", "--", "sleep", "120"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare starts");
        let far = Far(child);
        let pid = far.0.id();
        let own = sh("readlink /proc/self/ns/net");
        for _ in 0..200 {
            if sh(&format!("readlink /proc/{pid}/ns/net")) != own {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        sh(&format!("ip link add {near} type veth peer name far0 && ip link set far0 netns {pid}"));
        far.sh("ip link set lo up && ip link set far0 up");
        sh(&format!("ip link set {near} up"));
        far.sh(setup);
        far
    }

    /// Runs a command there.
    pub(crate) fn sh(&self, script: impl AsRef<OsStr>) -> String {
        let pid = self.0.id().to_string();
        let output = Command::new("nsenter")
            .args(["-t", &pid, "-n", "sh", "-c"])
            .arg(script.as_ref())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

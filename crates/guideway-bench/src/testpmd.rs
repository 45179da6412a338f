//! DPDK's testpmd as a peer: kept running, told to forward for the length of a window, asked what it counted.

use crate::failure::Failure;
use crate::machine;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Those started so far: each has a name of its own.
static STARTED: AtomicU32 = AtomicU32::new(0);
/// Longest wait for an answer; starting takes a second.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between start and the first look: caches and pools settle.
const SETTLE: Duration = Duration::from_millis(20);
/// Buffers, in all programs compared.
pub const BUFFERS: u32 = 2048;
/// Buffers a core keeps to itself, in all programs compared.
pub const CACHE: u32 = dpdk::mempool::CACHE;

/// How testpmd is to be started.
#[derive(Clone, Debug)]
pub struct TestpmdSetup {
    /// EAL's words about memory and devices.
    pub eal: Vec<String>,
    /// CPU that forwards.
    pub cpu: usize,
    /// Packets received at once.
    pub burst: u16,
    /// Further options behind `--`.
    pub options: Vec<String>,
}

/// A running testpmd; dropping ends it.
#[derive(Debug)]
pub struct Testpmd {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// What the kernel knows of the thread that forwards.
    schedule: PathBuf,
    ports: usize,
    /// What it said last, for an error.
    last: Vec<String>,
}

/// What was forwarded in a window.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Window {
    /// Packets sent on all ports.
    pub packets: u64,
    /// Time for which the forwarding thread had its CPU, nanoseconds.
    pub on_cpu_ns: u64,
    /// Time by the clock, nanoseconds.
    pub elapsed_ns: u64,
}

impl Window {
    /// Nanoseconds of CPU a packet: what it costs, also where others were given the CPU in between.
    pub fn ns_per_packet(&self) -> f64 {
        self.on_cpu_ns as f64 / self.packets.max(1) as f64
    }
}

impl Testpmd {
    /// Starts it, forwarding nothing.
    ///
    /// # Errors
    /// It is not installed, or it ends at once; with its own last words.
    pub fn start(setup: &TestpmdSetup, ports: usize) -> Result<Testpmd, Failure> {
        let main = (0..).find(|cpu| *cpu != setup.cpu).unwrap_or(0);
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let main = if main < cpus { main } else { setup.cpu };
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("guideway-bench-peer-{}-{number}", std::process::id());
        // Its answers must come when they are given and not when a buffer is full.
        let mut command = machine::command("stdbuf");
        command
            .args(["--output=L", "dpdk-testpmd"])
            .args(["--no-pci", "--no-telemetry", "--no-shconf"])
            .args(["--lcores", &format!("0@{main},1@{}", setup.cpu)])
            .args(["--file-prefix", &prefix])
            .args(&setup.eal)
            .args(["--", "--interactive", "--nb-cores=1", "--no-mlockall"])
            .arg(format!("--burst={}", setup.burst))
            .arg(format!("--total-num-mbufs={BUFFERS}"))
            .arg(format!("--mbcache={CACHE}"))
            .args(&setup.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .env_remove("GLIBC_TUNABLES");
        let mut child = machine::everywhere(|| command.spawn())?.map_err(|e| {
            Failure::Machine(format!("cannot start dpdk-testpmd: {e}; it is in Debian's package dpdk"))
        })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::Machine("dpdk-testpmd has no standard input or output".into()));
        };
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let mut testpmd = Testpmd { child, input, lines, schedule: PathBuf::new(), ports, last: Vec::new() };
        // An answer to anything shows that it has started.
        testpmd.tell("show port stats all")?;
        testpmd.counters()?;
        testpmd.schedule = forwarding_thread(testpmd.child.id())
            .ok_or_else(|| Failure::Machine("dpdk-testpmd has no worker thread".into()))?;
        Ok(testpmd)
    }

    /// Forwards in `mode` for `count` windows of some `length`, as a cell of a round.
    ///
    /// # Errors
    /// It does not answer.
    pub fn forward(
        &mut self,
        mode: &str,
        length: Duration,
        count: usize,
        costs: &mut Vec<f64>,
    ) -> Result<(), Failure> {
        self.begin(mode)?;
        std::thread::sleep(SETTLE);
        for _ in 0..count {
            costs.push(self.window(length)?.ns_per_packet());
        }
        self.end()
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Starts forwarding.
    ///
    /// # Errors
    /// It does not listen.
    pub fn begin(&mut self, mode: &str) -> Result<(), Failure> {
        self.tell(&format!("set fwd {mode}"))?;
        self.tell("start")
    }

    /// Stops forwarding.
    ///
    /// # Errors
    /// It does not answer.
    pub fn end(&mut self) -> Result<(), Failure> {
        self.tell("stop")?;
        self.wait_for("Done.").map(|_| ())
    }

    /// What is forwarded within `length`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn window(&mut self, length: Duration) -> Result<Window, Failure> {
        let (first, cpu, started) = self.look()?;
        std::thread::sleep(length);
        let (last, later_cpu, ended) = self.look()?;
        let elapsed = ended.duration_since(started).as_nanos();
        Ok(Window {
            packets: last.saturating_sub(first),
            on_cpu_ns: later_cpu.saturating_sub(cpu),
            elapsed_ns: u64::try_from(elapsed).unwrap_or(u64::MAX),
        })
    }

    /// Packets sent, CPU time of the forwarding thread, and the time of both.
    fn look(&mut self) -> Result<(u64, u64, Instant), Failure> {
        self.tell("show port stats all")?;
        let sent = self.counters()?;
        let text = fs::read_to_string(&self.schedule).unwrap_or_default();
        let on_cpu = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
        Ok((sent, on_cpu, Instant::now()))
    }

    fn tell(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.input, "{line}").map_err(|e| self.silent(&e.to_string()))
    }

    /// Sum of TX-packets over all ports.
    fn counters(&mut self) -> Result<u64, Failure> {
        let mut sent = 0;
        for _ in 0..self.ports {
            let line = self.wait_for("TX-packets:")?;
            sent += number_after(&line, "TX-packets:").unwrap_or(0);
            self.wait_for("Tx-pps:")?;
        }
        Ok(sent)
    }

    fn wait_for(&mut self, text: &str) -> Result<String, Failure> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => {
                    if self.last.len() >= 8 {
                        self.last.remove(0);
                    }
                    self.last.push(line);
                }
                Err(RecvTimeoutError::Timeout) => return Err(self.silent("no answer")),
                Err(RecvTimeoutError::Disconnected) => return Err(self.silent("it has ended")),
            }
        }
    }

    fn silent(&self, why: &str) -> Failure {
        Failure::Machine(format!("dpdk-testpmd: {why}; its last lines: {}", self.last.join(" | ")))
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // Asked first: a killed one leaves sockets behind.
        let _ = self.tell("quit");
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The scheduler's account of the worker thread.
fn forwarding_thread(pid: u32) -> Option<PathBuf> {
    let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).ok()?;
    tasks.flatten().map(|task| task.path()).find_map(|task| {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        // rte-worker-1 in DPDK 22, lcore-worker-1 before, dpdk-worker1 later.
        let forwards = name.contains("-worker");
        forwards.then(|| task.join("schedstat"))
    })
}

fn number_after(line: &str, label: &str) -> Option<u64> {
    line.split_once(label)?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        let line = "  TX-packets: 4956960    TX-errors: 0          TX-bytes:  0";
        assert_eq!(number_after(line, "TX-packets:"), Some(4_956_960));
        assert_eq!(number_after("  RX-packets: x", "RX-packets:"), None);
        assert_eq!(number_after(line, "Rx-pps:"), None);
        let window = Window { packets: 100, on_cpu_ns: 1500, elapsed_ns: 3000 };
        assert_eq!(window.ns_per_packet(), 15.0);
    }
}

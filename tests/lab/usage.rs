//! Processor time: what a lab's processes used, and how busy the machine was.

use crate::command::{LabError, Result, Tried};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Ticks of the kernel's accounting a second, on every Linux of today.
const TICKS: f64 = 100.0;

/// A measurement that has begun.
#[derive(Debug)]
pub struct Usage {
    begun: Instant,
    processes: BTreeMap<String, (u32, u64)>,
    machine: (u64, u64),
}

/// Shares of one processor, over the time measured.
#[derive(Clone, Debug)]
pub struct Used {
    /// How long.
    pub time: Duration,
    /// Each process: 1.0 is one processor.
    pub processes: BTreeMap<String, f64>,
    /// All processors together, interrupts included: 1.0 is all of them.
    pub machine: f64,
}

impl Usage {
    /// Begins to measure these processes (name, id).
    pub fn begin(processes: &[(&str, u32)]) -> Result<Usage> {
        let mut measured = BTreeMap::new();
        for (name, id) in processes {
            measured.insert((*name).to_owned(), (*id, process_ticks(*id).unwrap_or(0)));
        }
        Ok(Usage { begun: Instant::now(), processes: measured, machine: machine_ticks()? })
    }

    /// Ends it. A process that is gone has used nothing.
    pub fn end(self) -> Result<Used> {
        let time = self.begun.elapsed();
        let processes = self.processes.into_iter().map(|(name, (id, before))| {
            let ticks = process_ticks(id).unwrap_or(before).saturating_sub(before);
            (name, ticks as f64 / TICKS / time.as_secs_f64())
        });
        let (busy, all) = machine_ticks()?;
        let all = all.saturating_sub(self.machine.1).max(1);
        let machine = busy.saturating_sub(self.machine.0) as f64 / all as f64;
        Ok(Used { time, processes: processes.collect(), machine })
    }
}

impl std::fmt::Display for Used {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "processors over {:.1} s: machine {:.0} % busy",
            self.time.as_secs_f64(),
            self.machine * 100.0
        )?;
        for (name, share) in &self.processes {
            write!(f, ", {name} {:.0} %", share * 100.0)?;
        }
        Ok(())
    }
}

/// User and system time of a process.
fn process_ticks(id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in parentheses may hold spaces; fields are counted behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// Busy and all time of the machine.
fn machine_ticks() -> Result<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").tried(|| "reading /proc/stat".into())?;
    let line = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; the guests' time behind them is in the first two already.
    let times: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal] = times[..] else {
        return Err(LabError::Wrong(format!("/proc/stat begins with {line:?}")));
    };
    let busy = user + nice + system + irq + softirq;
    Ok((busy, busy + idle + iowait + steal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_is_seen() {
        let usage = Usage::begin(&[("this", std::process::id())]).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(400) {
            std::hint::spin_loop();
        }
        let used = usage.end().unwrap();
        assert!(used.processes["this"] > 0.02, "{used}");
        assert!(used.machine > 0.02, "{used}");
    }
}

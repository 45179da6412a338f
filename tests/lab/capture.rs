//! Frames on one of the router's links, taken by tcpdump.

use crate::command::{LabError, Process, Result, Tried, until};
use crate::topology::Lab;
use rustix::process::Signal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A running capture. It ends when dropped.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Lab {
    /// Begins to capture what a filter lets through on a port of the router (`c0`, `lb1`, `b1`, `near` …).
    pub fn capture(&self, port: &str, filter: &str) -> Result<Capture> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{port}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (file, log) =
            (self.dir().join(format!("{name}.pcap")), self.dir().join(format!("{name}.tcpdump")));
        let path = file.to_string_lossy();
        // Its packet buffer holds more than a lab sends while tcpdump waits for a processor.
        let argv =
            ["tcpdump", "-i", port, "-n", "-s", "0", "-U", "-B", "16384", "-Z", "root", "-w", &path, filter];
        let mut process = self.router().start("tcpdump", &argv, &log)?;
        until("tcpdump", Duration::from_secs(10), || {
            let said = process.log_tail(5);
            match said.contains("listening on") {
                true => Ok(Ok(())),
                false if process.is_running() => Err(said),
                false => Ok(Err(LabError::Wrong(format!("tcpdump ended: {said}")))),
            }
        })??;
        Ok(Capture { process, file })
    }
}

impl Capture {
    /// Ends it and returns the frames. An error if some were lost.
    pub fn frames(mut self) -> Result<Vec<Vec<u8>>> {
        // What is in its buffer comes out before it ends.
        self.process.signal(Signal::INT);
        self.process.wait(Duration::from_secs(10))?;
        let said = self.process.log_tail(5);
        if !said.contains("\n0 packets dropped by kernel") {
            return Err(LabError::Wrong(format!("frames are missing from the capture: {said}")));
        }
        let bytes = std::fs::read(&self.file).tried(|| format!("reading {}", self.file.display()))?;
        parse(&bytes).ok_or_else(|| LabError::Wrong(format!("{} is no capture", self.file.display())))
    }
}

/// Frames of a pcap file in this machine's byte order, as tcpdump writes it.
fn parse(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if word(0)? != 0xa1b2_c3d4 {
        return None;
    }
    let mut frames = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let length = usize::try_from(word(at + 8)?).ok()?;
        frames.push(bytes.get(at + 16..at + 16 + length)?.to_vec());
        at += 16 + length;
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_of_the_file() {
        let mut file = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
        file.resize(24, 0);
        for frame in [&[1_u8, 2, 3][..], &[4]] {
            file.resize(file.len() + 8, 0);
            for length in [frame.len() as u32, 60] {
                file.extend_from_slice(&length.to_ne_bytes());
            }
            file.extend_from_slice(frame);
        }
        assert_eq!(parse(&file), Some(vec![vec![1, 2, 3], vec![4]]));
        assert_eq!(parse(&file[..file.len() - 1]), None);
        assert_eq!(parse(&[0; 24]), None);
    }
}

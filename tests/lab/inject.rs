//! Frames put on one of the router's links as they are, by a packet socket.

use crate::command::{LabError, Result};
use crate::topology::Lab;
use std::fmt::Write as _;
use std::time::Duration;

/// Reads a frame a line as hexadecimal digits; sends all of them so many times over, at so many a second, and says how many.
const SENDER: &str = r#"
import socket, sys, time
port, times, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
frames = [bytes.fromhex(line) for line in sys.stdin.read().split()]
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((port, 0))
begun, sent = time.monotonic(), 0
for _ in range(times):
    for frame in frames:
        if sent % 32 == 0:
            ahead = sent / rate - (time.monotonic() - begun)
            if ahead > 0:
                time.sleep(ahead)
        try:
            out.send(frame)
            sent += 1
        except OSError as error:
            # The link's queue is full: what a busy link does.
            if error.errno != 105:
                raise
print(sent)
"#;

impl Lab {
    /// Sends these frames `times` times over through a port of the router (`lb1`, `b1` …), to whoever is at its other end, `rate` a second
    /// at most. Gives how many were sent.
    pub fn inject(&self, port: &str, frames: &[Vec<u8>], times: u32, rate: u32) -> Result<u64> {
        let mut lines = String::new();
        for frame in frames {
            for byte in frame {
                // Writing to a string cannot fail.
                let _ = write!(lines, "{byte:02x}");
            }
            lines.push('\n');
        }
        let (times_text, rate_text) = (times.to_string(), rate.to_string());
        let argv = ["python3", "-c", SENDER, port, &times_text, &rate_text];
        let all = frames.len() as u64 * u64::from(times);
        let limit = Duration::from_secs(20 + 4 * all / u64::from(rate.max(1)));
        let said = self.router().run_with(&argv, &lines, limit)?;
        said.trim().parse().map_err(|_| LabError::Wrong(format!("the sender said {said:?}")))
    }
}

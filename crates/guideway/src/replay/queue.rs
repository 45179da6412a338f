//! Which worker a frame goes to: what a NIC's receive-side scaling does, with a hash of our own.

use crate::capture::Capture;
use wire::parse::{Fragment, Kind, ParsedFrame, parse};
use wire::{Addr, Tuple};

/// Which worker each frame of a capture goes to.
pub(super) struct Queues {
    /// By frame.
    of: Vec<u8>,
    /// By worker: frames that may begin a flow there, those that others hand over to it included.
    pub(super) frames: Vec<usize>,
    /// Whether there are fragments, which workers hand over to each other.
    pub(super) has_fragments: bool,
}

impl Queues {
    /// Of `capture` over so many workers.
    pub(super) fn new(capture: &Capture, workers: u8) -> Queues {
        let mut queues = Queues {
            of: Vec::with_capacity(capture.len()),
            frames: vec![0; usize::from(workers)],
            has_fragments: false,
        };
        let mut first_fragments = 0;
        for frame in capture.iter() {
            let (queue, fragment) = queue(frame.bytes, workers);
            queues.of.push(queue);
            queues.has_fragments |= fragment.is_some();
            match (fragment, queues.frames.get_mut(usize::from(queue))) {
                (Some(fragment), _) => first_fragments += usize::from(fragment.offset == 0),
                (None, Some(frames)) => *frames += 1,
                (None, None) => {}
            }
        }
        // Whose datagram it is the workers decide themselves.
        queues.frames.iter_mut().for_each(|frames| *frames += first_fragments);
        queues
    }

    /// That of the frame at `index`.
    pub(super) fn of(&self, index: usize) -> usize {
        self.of.get(index).copied().map_or(0, usize::from)
    }
}

/// The queue of a frame, below `queues`: by addresses and ports; by addresses alone where a NIC sees no ports
/// (fragments, ICMP, other protocols); queue 0 for what is not IP or cannot be read. And which part of a datagram it is.
fn queue(frame: &[u8], queues: u8) -> (u8, Option<Fragment>) {
    if queues < 2 {
        return (0, None);
    }
    let Ok(ParsedFrame::Ip(parsed)) = parse(frame) else { return (0, None) };
    let has_ports = parsed.fragment.is_none() && matches!(parsed.kind, Kind::Tcp(_) | Kind::Udp);
    let hash = hash(&parsed.tuple(frame), has_ports);
    // The product's upper half spreads a 32-bit hash evenly over any number of queues.
    let queue = u8::try_from((u64::from(hash) * u64::from(queues)) >> 32).unwrap_or(0);
    (queue, parsed.fragment)
}

/// FNV-1a with a final mix: nothing like the cluster hash, so that queue and slot are independent, as in reality.
fn hash(tuple: &Tuple, with_ports: bool) -> u32 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for &b in bytes {
            state = (state ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for addr in [tuple.src, tuple.dst] {
        match addr {
            Addr::V4(a) => eat(&a.to_be_bytes()),
            Addr::V6(a) => eat(&a.to_be_bytes()),
        }
    }
    if with_ports {
        eat(&tuple.sport.to_be_bytes());
        eat(&tuple.dport.to_be_bytes());
        eat(&[tuple.protocol]);
    }
    let mixed = (state ^ state >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u32::try_from(mixed >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: u16) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([192, 0, 2, 1], [203, 0, 113, 10], 64)
            .tcp(port, 80, 1, 1000);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"").unwrap();
        frame
    }

    #[test]
    fn flows_stay_together_and_spread_evenly() {
        for queues in [1, 2, 3, 8] {
            let mut counts = vec![0_u32; usize::from(queues)];
            for port in 1000..5000 {
                let q = queue(&tcp(port), queues);
                assert_eq!(q, queue(&tcp(port), queues));
                counts[usize::from(q.0)] += 1;
            }
            let mean = 4000 / u32::from(queues);
            assert!(counts.iter().all(|&c| c.abs_diff(mean) < mean / 5), "{counts:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_has_a_queue_too() {
        for frame in [&[][..], &[0; 14], &[0xff; 60]] {
            assert_eq!(queue(frame, 4), (0, None));
        }
    }
}

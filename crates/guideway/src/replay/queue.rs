//! Which worker a frame goes to: what a NIC's receive-side scaling does, with a hash of our own.

use wire::parse::{Frame, Kind, parse};
use wire::{Addr, Tuple};

/// The queue of a frame, below `queues`: by addresses and ports; by addresses alone where a NIC sees no ports
/// (fragments, ICMP, other protocols); queue 0 for what is not IP or cannot be read.
pub(super) fn queue(frame: &[u8], queues: usize) -> usize {
    if queues < 2 {
        return 0;
    }
    let Ok(Frame::Ip(parsed)) = parse(frame) else { return 0 };
    let has_ports = parsed.fragment.is_none() && matches!(parsed.kind, Kind::Tcp(_) | Kind::Udp);
    let hash = hash(&parsed.tuple(frame), has_ports);
    // The product's upper half spreads a 32-bit hash evenly over any number of queues.
    usize::try_from((u64::from(hash) * queues as u64) >> 32).unwrap_or(0)
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
            let mut counts = vec![0_u32; queues];
            for port in 1000..5000 {
                let q = queue(&tcp(port), queues);
                assert_eq!(q, queue(&tcp(port), queues));
                counts[q] += 1;
            }
            let mean = 4000 / queues as u32;
            assert!(counts.iter().all(|&c| c.abs_diff(mean) < mean / 5), "{counts:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_has_a_queue_too() {
        for frame in [&[][..], &[0; 14], &[0xff; 60]] {
            assert_eq!(queue(frame, 4), 0);
        }
    }
}

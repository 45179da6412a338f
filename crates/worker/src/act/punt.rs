//! What goes to the kernel, within budgets: a flood of frames for the host must take neither the worker's time for forwarding nor
//! the kernel's for the sessions that the machine's routes hang on (RFC 6192). Each class has a bucket of its own, so that none is
//! starved by another.

use crate::DropReason;
use crate::describe::general::Packet;
use crate::io::{Frame, PacketIo};
use crate::label::Label;
use crate::send::Egress;
use crate::token_bucket::TokenBucket;
use crate::view::{Moment, PortRole, View};
use wire::parse::{Kind, Parsed, TYPE_ARP, ethernet_type};

/// BGP's port (RFC 4271 section 8.2.1).
const BGP: u16 = 179;
/// Port of BFD over one hop, which is sent with a time to live of 255 (RFC 5881 sections 4 and 5).
const BFD: u16 = 3784;
/// Port of BFD's echo (RFC 5881 section 4).
const BFD_ECHO: u16 = 3785;
/// Port of BFD over several hops (RFC 5883 section 5).
const BFD_MULTIHOP: u16 = 4784;

/// What a frame for the kernel is, as far as its budget is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Arp,
    /// Neighbour discovery from this link.
    Discovery,
    /// BGP and BFD of a configured peer.
    Routing,
    Other,
}

/// Frames of each class that a worker gives to the kernel: a second, and at once. A frame costs a worker about a microsecond, so all
/// of them together cost less than four percent of its time.
const fn budget(class: Class) -> (u64, u64) {
    match class {
        Class::Arp | Class::Discovery => (2_000, 1_000),
        Class::Routing => (5_000, 1_000),
        Class::Other => (20_000, 2_000),
    }
}

/// Frames by which a health check is answered, at the most: a TLS handshake and a small page.
const FRAMES_OF_A_CHECK: u64 = 10;

/// A bucket for each class.
#[derive(Debug)]
pub(crate) struct PuntBudgets([TokenBucket; 4]);

impl PuntBudgets {
    /// All full.
    pub(crate) fn new() -> PuntBudgets {
        let classes = [Class::Arp, Class::Discovery, Class::Routing, Class::Other];
        PuntBudgets(classes.map(|class| TokenBucket::new(budget(class))))
    }

    /// The answers to so many health checks a second come on top: they must not fail because there are many of them.
    pub(crate) fn adopt(&mut self, view: &View) {
        let answers = view.checks_per_second.saturating_mul(FRAMES_OF_A_CHECK);
        let (rate, _) = budget(Class::Other);
        self.0[Class::Other as usize].set_rate(rate.saturating_add(answers));
    }
}

impl Class {
    fn of(view: &View, bytes: &[u8], parsed: &Parsed) -> Class {
        match parsed.kind {
            // Not from this link otherwise (RFC 4861 section 6.1).
            Kind::NeighbourDiscovery if hops(bytes, parsed) == Some(255) => Class::Discovery,
            Kind::Tcp(_) if parsed.sport == BGP || parsed.dport == BGP => Class::of_peer(view, bytes, parsed),
            Kind::Udp if is_bfd(bytes, parsed) => Class::of_peer(view, bytes, parsed),
            Kind::Other if parsed.end == 0 && ethernet_type(bytes) == Some(TYPE_ARP) => Class::Arp,
            _ => Class::Other,
        }
    }

    fn of_peer(view: &View, bytes: &[u8], parsed: &Parsed) -> Class {
        if view.routing_peers.contains(&parsed.src(bytes)) { Class::Routing } else { Class::Other }
    }

    const fn refused(self) -> DropReason {
        match self {
            Class::Arp => DropReason::PuntLimitArp,
            Class::Discovery => DropReason::PuntLimitDiscovery,
            Class::Routing => DropReason::PuntLimitRouting,
            Class::Other => DropReason::PuntLimit,
        }
    }
}

fn is_bfd(bytes: &[u8], parsed: &Parsed) -> bool {
    match parsed.dport {
        BFD => hops(bytes, parsed) == Some(255),
        port => matches!(port, BFD_ECHO | BFD_MULTIHOP),
    }
}

/// Time to live, or hop limit.
fn hops(bytes: &[u8], parsed: &Parsed) -> Option<u8> {
    let at = if parsed.v6 { 7 } else { 8 };
    bytes.get(usize::from(parsed.l3) + at).copied()
}

impl<Io: PacketIo> Egress<Io> {
    /// Gives a frame to the kernel's side of the port it came from, within the budget of its class.
    pub(crate) fn punt(
        &mut self,
        at: Moment<'_>,
        frame: Io::Frame,
        packet: &Packet,
        budgets: &mut PuntBudgets,
    ) {
        let Moment { view, now } = at;
        let exception = match view.ports.get(frame.meta().port.index()).map(|port| port.role) {
            Some(PortRole::Data { exception: Some(exception), .. }) => Some(exception),
            Some(PortRole::Data { punt_to_nowhere: true, .. }) => None,
            _ => return self.drop_frame(view, frame, packet, DropReason::NoException),
        };
        let class = Class::of(view, frame.bytes(), &packet.parsed);
        if !budgets.0[class as usize].take(now) {
            return self.drop_frame(view, frame, packet, class.refused());
        }
        match exception {
            Some(exception) => self.send(view, exception, frame, Label::KERNEL),
            None => self.punt_to_nowhere(frame),
        }
    }
}

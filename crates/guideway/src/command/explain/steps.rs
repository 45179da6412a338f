//! The decision in words. Every step is taken by the engine's own functions, and the end is the engine's verdict.

use crate::capture::Capture;
use crate::failure::Failure;
use crate::picture::Picture;
use crate::replay::{FrameEnd, Options, replay};
use model::Config;
use serde::Serialize;
use std::fmt::Write;
use std::net::IpAddr;
use wire::encap::TunnelHeader;
use wire::parse::{Kind, Parsed, ParsedFrame, TcpFlags, parse};
use wire::{Addr, BackendId, Tuple};
use worker::describe::general::{Fate, Packet, classify};
use worker::view::{BackendState, BackendView, HashOn, LeastLoad, OnEmpty, Select, ServiceView};
use worker::{Action, DropReason, RxMeta, View};

/// The steps, the numbers in them, and the end.
#[derive(Debug, Default, Serialize)]
pub(super) struct Explanation {
    steps: Vec<Step>,
    /// Of the cluster hash, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u32>,
    /// Whom the slot names, usable or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
    /// How the frame ended in the engine.
    verdict: Option<FrameEnd>,
    /// Lengths of the frames sent because of it, bytes.
    sent_bytes: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    text: String,
}

impl Explanation {
    fn say(&mut self, step: &'static str, text: impl Into<String>) {
        self.steps.push(Step { step, text: text.into() });
    }

    /// For people: one step a line.
    pub(super) fn text(&self) -> String {
        self.steps.iter().fold(String::new(), |mut text, s| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:<9}  {}", s.step, s.text);
            text
        })
    }
}

/// Explains the only frame of `capture`.
pub(super) fn explain(config: &Config, capture: &Capture) -> Result<Explanation, Failure> {
    let picture = Picture::new(config).map_err(|e| Failure::usage(format!("bad configuration: {e}")))?;
    let mut told = Explanation::default();
    let Some(frame) = capture.get(0) else { return Err(Failure::failed("there is no packet")) };
    let meta = RxMeta { truncated: frame.is_truncated(), ..RxMeta::default() };
    say_parse(&mut told, frame.bytes, frame.wire_len);
    let packet = classify(&picture.view, frame.bytes, meta);
    say_fate(&mut told, &picture, frame.bytes, &packet);
    let replayed = replay(config, capture, Options { workers: 1, per_frame: true });
    let replayed = replayed.map_err(|e| Failure::failed(e.to_string()))?;
    let end = replayed.summary.frames.and_then(|f| f.into_iter().next());
    told.sent_bytes = replayed.sent.iter().map(|(_, bytes)| bytes.len()).collect();
    if let Some(end) = end {
        say_verdict(&mut told, &end, replayed.summary.originated);
        told.verdict = Some(end);
    }
    Ok(told)
}

fn say_parse(told: &mut Explanation, bytes: &[u8], wire_len: u32) {
    let len = bytes.len();
    if (len as u64) < u64::from(wire_len) {
        told.say("frame", format!("{len} bytes, cut by the capture: it had {wire_len} on the wire"));
        return;
    }
    match parse(bytes) {
        Err(why) => told.say("frame", format!("{len} bytes; cannot be trusted: {why:?}")),
        Ok(ParsedFrame::NotIp) => told.say("frame", format!("{len} bytes; neither IPv4 nor IPv6")),
        Ok(ParsedFrame::Ip(p)) => {
            let tags = match p.tag_count() {
                0 => String::new(),
                1 => ", one VLAN tag".into(),
                n => format!(", {n} VLAN tags"),
            };
            let padding = match len - usize::from(p.end) {
                0 => String::new(),
                n => format!(", {n} bytes of padding"),
            };
            told.say(
                "frame",
                format!("{len} bytes{tags}; IP header at {}, transport at {}{padding}", p.l3, p.l4),
            );
            told.say("packet", packet_in_words(bytes, &p));
        }
    }
}

fn packet_in_words(bytes: &[u8], p: &Parsed) -> String {
    let t = &p.tuple(bytes);
    let what = match p.kind {
        Kind::Tcp(flags) => format!("TCP {}", flags_in_words(flags)),
        Kind::Udp => "UDP".into(),
        Kind::EchoRequest => "ICMP echo request".into(),
        Kind::IcmpError => p.quoted(bytes).map_or("ICMP error".into(), |q| {
            let (from, to) = (endpoint(q.src.0, q.src.1), endpoint(q.dst.0, q.dst.1));
            format!("ICMP error about {} from {from} to {to}", protocol(q.protocol))
        }),
        Kind::NeighbourDiscovery => "neighbour discovery".into(),
        Kind::IcmpOther => "other ICMP".into(),
        Kind::LaterFragment => format!("later fragment of {}", protocol(t.protocol)),
        Kind::Other => protocol(t.protocol),
        Kind::Bad(why) => format!("{} header cannot be trusted ({why:?})", protocol(t.protocol)),
    };
    let ends = match p.kind {
        Kind::Tcp(_) | Kind::Udp => format!("{} -> {}", endpoint(t.src, t.sport), endpoint(t.dst, t.dport)),
        _ => format!("{} -> {}", t.src, t.dst),
    };
    let fragment = p.fragment.map_or(String::new(), |f| {
        format!(
            ", fragment of datagram {} at offset {}{}",
            f.id,
            f.offset,
            if f.more { ", more follow" } else { "" }
        )
    });
    let df = match t.src {
        Addr::V4(_) if p.dont_fragment => ", don't fragment",
        Addr::V4(_) => ", may be fragmented",
        Addr::V6(_) => "",
    };
    format!("{ends} {what}, {} bytes{df}{fragment}", p.end - p.l3)
}

fn flags_in_words(flags: TcpFlags) -> String {
    let names =
        [(TcpFlags::SYN, "SYN"), (TcpFlags::ACK, "ACK"), (TcpFlags::FIN, "FIN"), (TcpFlags::RST, "RST")];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| flags.0 & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "without flags".into() } else { set.join("+") }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "ICMP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        58 => "ICMPv6".into(),
        n => format!("protocol {n}"),
    }
}

fn endpoint(addr: Addr, port: u16) -> String {
    std::net::SocketAddr::new(IpAddr::from(addr), port).to_string()
}

fn say_fate(told: &mut Explanation, picture: &Picture, bytes: &[u8], packet: &Packet) {
    let view = &picture.view;
    match packet.fate {
        Fate::Peer => told.say("match", "from another machine of the cluster: taken if its tag is right"),
        Fate::Decided(Action::Drop(reason)) => {
            told.say("match", format!("dropped as {}: {}", reason.name(), reason.help()));
        }
        Fate::Decided(Action::Punt) => {
            told.say("match", "not for a VIP (or neighbour discovery): given to the kernel");
        }
        Fate::Decided(Action::Reply(_)) => {
            told.say("match", "echo request for a VIP: answered here, under a token bucket");
        }
        Fate::Decided(Action::Encapsulate(_)) => {
            told.say("match", "a health probe through the tunnel: straight to its backend");
        }
        Fate::Decided(action @ (Action::Pass(_) | Action::Relay(_) | Action::Hold)) => {
            told.say("match", action.name());
        }
        Fate::Fragment => say_fragment(told, picture, bytes, packet),
        Fate::Flow => say_service(told, picture, (packet, packet.flow(bytes)), "the packet"),
        Fate::Quoted => {
            let t = packet.flow(bytes);
            let flow = format!("{} -> {}", endpoint(t.src, t.sport), endpoint(t.dst, t.dport));
            told.say("match", format!("an ICMP error follows the flow it quotes, turned round: {flow}"));
            say_service(told, picture, (packet, t), "that flow");
        }
    }
    debug_assert!(view.ports.len() <= worker::view::PORTS_MAX, "the view keeps its limits");
}

/// The first fragment shows the ports, so it is steered like a packet; the others wait for it.
fn say_fragment(told: &mut Explanation, picture: &Picture, bytes: &[u8], packet: &Packet) {
    let t = packet.parsed.tuple(bytes);
    let id = packet.parsed.fragment.map_or(0, |f| f.id);
    let key = &picture.view.cluster_key;
    let hash = steer::hash::fragment(key, t.src, t.dst, id, if t.src.is_v6() { 0 } else { t.protocol });
    told.say("fragment", format!("its datagram belongs to the worker chosen by hash {hash:016x}"));
    if packet.parsed.kind == Kind::LaterFragment {
        told.say(
            "match",
            "it has no ports: held until the first fragment comes, dropped if that is too late",
        );
        return;
    }
    let steer::Match::Service(index) = picture.view.services.find(t.dst, t.dport, t.protocol) else {
        told.say("match", "no service of the VIP has this port and protocol");
        return;
    };
    let first = Packet { service: Some(index), ..*packet };
    say_service(told, picture, (&first, t), "the first fragment");
}

fn say_service(told: &mut Explanation, picture: &Picture, (packet, flow): (&Packet, Tuple), who: &str) {
    let view = &picture.view;
    let Some(service) = packet.service.and_then(|i| view.service.get(usize::from(i))) else { return };
    let name = picture.service_name(service.id).unwrap_or("?");
    let key = if service.wide { "wide (32 bytes)" } else { "narrow (16 bytes)" };
    let known = match service.memory {
        None => format!("flow key {key}; taken as new, not yet in the flow table"),
        Some(_) => "state \"exceptions\": flows of slots that changed lately are tracked".to_owned(),
    };
    told.say("match", format!("{who} belongs to service {name}; {known}"));
    let (hash, of) = match service.hash {
        HashOn::Tuple => (steer::hash::tuple(&view.cluster_key, &flow), "addresses, ports and protocol"),
        HashOn::Source => (steer::hash::source(&view.cluster_key, flow.src), "the source address"),
    };
    let slot = service.maglev.slot(hash);
    told.hash = Some(format!("{hash:016x}"));
    told.slot = Some(slot);
    told.say("hash", format!("SipHash-1-3 of {of} under the cluster key is {hash:016x}"));
    let member = service.maglev.at(slot);
    let Some(named) = member.and_then(|m| service.members.get(usize::from(m))).copied() else {
        told.say("slot", format!("slot {slot} of {}: the table is empty", service.maglev.size()));
        say_empty(told, service);
        return;
    };
    let named_name = picture.backend_name(named).unwrap_or("?");
    told.member = Some(named_name.to_owned());
    told.say("slot", format!("slot {slot} of {} names backend {named_name}", service.maglev.size()));
    let begins = match packet.parsed.kind {
        Kind::Tcp(flags) => flags.is_syn(),
        Kind::Udp => true,
        _ => false,
    };
    if let Some(policy) = service.least_load()
        && begins
    {
        say_load(told, picture, service, policy);
        return;
    }
    if service.is_stateless(slot) {
        told.say(
            "tracking",
            format!("slot {slot} untainted: steered without the flow table (a running daemon may hold it tainted: guideway show services)"),
        );
    }
    say_choice(told, picture, service, (packet, flow), named);
}

/// Loads are the running daemon's, so nobody can say here who is the least loaded one.
fn say_load(told: &mut Explanation, picture: &Picture, service: &ServiceView, policy: &LeastLoad) {
    let how = match policy.select {
        Select::Min => "the least loaded of all",
        Select::TwoChoices => "the less loaded of two at random",
    };
    told.say(
        "load",
        format!(
            "policy least-load: a new flow goes to {how}, whatever its slot; the slot decides for packets of flows that are not known and do not begin"
        ),
    );
    let up: Vec<String> = service
        .members
        .iter()
        .filter(|id| backend(&picture.view, **id).is_some_and(|of| of.state == BackendState::Up))
        .map(|id| {
            let load = picture.view.loads.get(*id).ppm;
            format!("{} ({load} millionths)", picture.backend_name(*id).unwrap_or("?"))
        })
        .collect();
    if up.is_empty() {
        return say_empty(told, service);
    }
    told.say(
        "backend",
        format!(
            "one of {}; loads are of no running daemon here: guideway show backends --json says load_ppm",
            up.join(", ")
        ),
    );
}

fn say_choice(
    told: &mut Explanation,
    picture: &Picture,
    service: &ServiceView,
    (packet, flow): (&Packet, Tuple),
    named: BackendId,
) {
    let view: &View = &picture.view;
    let state = |id: BackendId| {
        backend(view, id).map_or("gone", |b| match b.state {
            BackendState::Up => "up",
            BackendState::Draining => "draining: it takes no new flows",
            BackendState::Down => "down: it takes no new flows",
        })
    };
    let name = |id| picture.backend_name(id).unwrap_or("?");
    told.say("backend", format!("{} is {}", name(named), state(named)));
    let Some(chosen) = worker::decide::slots::place(view, service, &flow, true) else {
        say_empty(told, service);
        return;
    };
    if chosen != named {
        told.say("backend", format!("next in the slot's order that takes new flows: {}", name(chosen)));
    }
    if let Some(b) = backend(view, chosen) {
        say_path(told, picture, packet, b);
    }
}

fn backend(view: &View, id: BackendId) -> Option<&BackendView> {
    view.backends.get(id.index())?.as_ref()
}

fn say_empty(told: &mut Explanation, service: &ServiceView) {
    let what = match service.on_empty {
        OnEmpty::Reset => "answered with a TCP reset, or port unreachable for UDP (on_empty = \"reset\")",
        OnEmpty::Drop => "dropped in silence (on_empty = \"drop\")",
    };
    told.say("backend", format!("no backend takes new flows: {what}"));
}

fn say_path(told: &mut Explanation, picture: &Picture, packet: &Packet, b: &BackendView) {
    let address = picture.backend_config(b.id).map_or("?".to_owned(), |b| b.address.to_string());
    let way = match headers(&b.header) {
        Some(headers) => format!("{headers} header to {address}"),
        None => format!("only the MAC addresses change, to those of {address}"),
    };
    let mode = b.header.mode().as_str();
    let overhead = b.header.len();
    let inner = usize::from(packet.parsed.end - packet.parsed.l3);
    told.say("headers", format!("{mode}: {way}; {overhead} bytes added, the inner packet is untouched"));
    let sizes =
        format!("{inner} + {overhead} = {} bytes; at most {} fit inside", inner + overhead, b.inner_mtu);
    let fits = inner <= usize::from(b.inner_mtu);
    told.say(
        "size",
        match (fits, packet.parsed.dont_fragment) {
            (true, _) => format!("{sizes}: it fits"),
            (false, true) if packet.parsed.is_v6() => {
                format!("{sizes}: answered with \"packet too big\" from the VIP")
            }
            (false, true) => format!("{sizes}: answered with \"fragmentation needed\" from the VIP"),
            (false, false) => format!("{sizes}: cut into fragments, each of which is encapsulated"),
        },
    );
    let port = picture.port_name(b.port).unwrap_or("?");
    told.say("next hop", match b.next_hop {
        Some(mac) => format!("{} through port {port}", model::config::Mac(mac)),
        None => format!(
            "not known from the configuration: the daemon takes it from the kernel's routes and neighbours (port {port})"
        ),
    });
}

/// The headers that are put in front of a packet, in words; `None`: none are.
fn headers(header: &TunnelHeader) -> Option<String> {
    if header.is_empty() {
        return None;
    }
    let (mode, parameters) = (header.mode(), header.parameters());
    let sources = header.sources().map_or_else(String::new, |prefix| format!(" from {prefix}"));
    let mut all = vec![format!("outer {}{sources}", if header.is_v6() { "IPv6" } else { "IPv4" })];
    if mode.port_key().is_some() {
        all.push(format!("UDP (port {})", parameters.port));
    }
    if let Some(own) = mode.header_name() {
        let vni = if mode.has_vni() { format!(" (VNI {})", parameters.vni) } else { String::new() };
        all.push(format!("{own}{vni}"));
    }
    if mode.carries_ethernet() {
        all.push("inner Ethernet".to_owned());
    }
    let last = all.pop()?;
    Some(if all.is_empty() { last } else { format!("{} and {last}", all.join(", ")) })
}

fn say_verdict(told: &mut Explanation, end: &FrameEnd, originated: u64) {
    let made = match originated {
        0 => String::new(),
        1 => "; one frame of our own sent".into(),
        n => format!("; {n} frames of our own sent"),
    };
    let text = match (end.verdict, end.reason) {
        ("dropped", Some(reason)) => {
            let help = DropReason::ALL.iter().find(|r| r.name() == reason).map_or("", |r| r.help());
            format!("dropped as {reason}: {help}{made}")
        }
        ("sent", _) => format!("sent to {}{made}", end.backend.as_deref().unwrap_or("?")),
        (verdict, _) => format!("{verdict}{made}"),
    };
    told.say("action", end.action);
    told.say("verdict", text);
}

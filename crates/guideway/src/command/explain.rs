//! `guideway explain`: what the balancer would do with one packet, and why, step by step.

mod packet;
mod steps;

use crate::capture::Capture;
use crate::failure::Failure;
use crate::outcome::EXIT_CODES;
use crate::{CommandResult, Done, configuration, input, output};
use clap::{Args, ValueEnum};
use packet::Described;
use std::net::IpAddr;
use std::path::PathBuf;

/// Say what happens to a packet, and why: parse, service, hash, slot, backend, headers, sizes, next hop
///
/// The packet is described on the command line or taken from a capture. It is the first of its flow: a flow that the
/// daemon knows already keeps its backend (see: guideway show flows).
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Source address
    #[arg(long, value_name = "ADDRESS", required_unless_present = "pcap")]
    src: Option<IpAddr>,
    /// Destination address
    #[arg(long, value_name = "ADDRESS", required_unless_present = "pcap")]
    dst: Option<IpAddr>,
    /// Source port
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    sport: u16,
    /// Destination port; needed for tcp and udp
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,
    /// Protocol
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
    /// TCP flags, separated by commas [default: syn]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FLAG,…")]
    flags: Vec<Flag>,
    /// Length of the IP datagram, bytes [default: headers only]
    #[arg(long, value_name = "BYTES")]
    length: Option<u16>,
    /// IPv4 without the don't-fragment bit
    #[arg(long)]
    may_fragment: bool,
    /// Take the packet from this capture instead; - is standard input
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["src", "dst", "sport", "dport", "protocol", "flags", "length", "may_fragment"])]
    pcap: Option<PathBuf>,
    /// Which packet of the capture, from 0
    #[arg(long, value_name = "N", default_value_t = 0, requires = "pcap")]
    index: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is above IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    /// An echo request
    Icmp,
}

/// A TCP flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Flag {
    Syn,
    Ack,
    Fin,
    Rst,
    Psh,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let loaded = configuration::load(&arguments.config)?;
    configuration::warn_loaded(&loaded);
    let json = arguments.json;
    let capture = match &arguments.pcap {
        Some(path) => one_of(&input::capture(path)?, arguments.index)?,
        None => {
            let frame = Described::try_from(arguments)?.frame()?;
            packet::capture_of(&frame, frame.len())?
        }
    };
    let explanation = steps::explain(&loaded.config, &capture)?;
    if json {
        output::json(&explanation)?;
    } else {
        output::print(&explanation.text())?;
    }
    Ok(Done::Well)
}

/// A capture of that one frame.
fn one_of(capture: &Capture, index: usize) -> Result<Capture, Failure> {
    let Some(frame) = capture.get(index) else {
        return Err(Failure::usage(format!("there is no packet {index}: the capture has {}", capture.len()))
            .help("packets are counted from 0"));
    };
    packet::capture_of(frame.bytes, frame.wire_len as usize)
}

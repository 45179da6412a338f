//! `guideway bench memory`: bytes a flow takes, as the kernel counts them.

use crate::failure::{Failure, wrong};
use crate::flows::{key, wide_key};
use crate::footprint::Footprint;
use crate::report::{self, rounded};
use clap::Args;
use dpdk::pages;
use flow::bucket::Bucket;
use flow::{Idle, Insert, Memory, NarrowBucket, State, Table, WideBucket};
use serde::Serialize;
use wire::{BackendId, FlowKey, ServiceId, Tick};

/// Flows of the table's other half.
const FEW: usize = 16;
const SEED: u64 = 0x6775_6964;
/// Bytes of a huge page.
const PAGE_BYTES: usize = 2 << 20;
/// Narrow and wide.
type Halves = (Memory<NarrowBucket>, Memory<WideBucket>);
const UNTRUSTED_PERCENT: u8 = 50;
const IDLE_US: u64 = 1_800_000_000;
const NOW: Tick = Tick(1_000_000);
const SERVICE: ServiceId = ServiceId(1);
const PORT: u16 = 80;

/// Show how many bytes a flow takes: IPv4 and IPv6, at load 0.8, by the growth of resident memory and huge pages
///
/// A table fills the last of its pages, which is paid for, and then holds a few flows more than asked for.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Flows of each kind, at least
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4_000_000,
        value_parser = clap::value_parser!(u64).range(100_000..=128_000_000),
    )]
    flows: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Huge pages for two tables.
    pub fn huge_bytes(&self) -> u64 {
        let flows = usize::try_from(self.flows).unwrap_or(usize::MAX);
        let narrow = whole_pages::<NarrowBucket>(flows) * size_of::<NarrowBucket>();
        let wide = whole_pages::<WideBucket>(flows) * size_of::<WideBucket>();
        (narrow + wide) as u64 + (16 << 20)
    }
}

/// Buckets for so many flows, and as many more as fill the last huge page.
fn whole_pages<B: Bucket>(flows: usize) -> usize {
    let bytes = Memory::<B>::buckets_for(flows) * size_of::<B>();
    bytes.next_multiple_of(PAGE_BYTES) / size_of::<B>()
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
struct MemoryReport {
    /// Asked for.
    flows: u64,
    ipv4: FlowKind,
    ipv6: FlowKind,
}

/// One kind of flow.
#[derive(Clone, Copy, Debug, Serialize)]
struct FlowKind {
    /// In the table.
    flows: u64,
    bytes_per_flow: f64,
    gib: f64,
    pages: &'static str,
}

/// Measures and prints.
///
/// # Errors
/// [`Failure`]; a flow that does not fit is one.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    // First a page of each, so that no code is read in while memory is measured.
    both(1)?;
    report::print(arguments.json, &both(arguments.flows)?, for_people)
}

/// Tables of both kinds.
fn both(flows: u64) -> Result<MemoryReport, Failure> {
    Ok(MemoryReport {
        flows,
        ipv4: measure::<NarrowBucket, WideBucket>(
            flows,
            (Memory::heap(FEW), |buckets, few| (buckets, few)),
            |number| key(number, SERVICE),
        )?,
        ipv6: measure::<WideBucket, NarrowBucket>(
            flows,
            (Memory::heap(FEW), |buckets, few| (few, buckets)),
            |number| wide_key(number, PORT, SERVICE),
        )?,
    })
}

fn for_people(outcome: &MemoryReport) -> String {
    let of = |(name, kind): (&str, FlowKind)| {
        format!(
            "{name}: {} bytes a flow, {} GiB for {} flows, pages {}\n",
            kind.bytes_per_flow, kind.gib, kind.flows, kind.pages
        )
    };
    [("IPv4", outcome.ipv4), ("IPv6", outcome.ipv6)].map(of).concat()
}

/// Fills a table of which one half is measured; the other, of a few flows, is there before.
fn measure<B: Bucket, F: Bucket>(
    flows: u64,
    (few, halves): (Memory<F>, impl FnOnce(Memory<B>, Memory<F>) -> Halves),
    key: impl Fn(u64) -> FlowKey,
) -> Result<FlowKind, Failure> {
    let before = Footprint::now();
    let buckets = pages::map::<B>(whole_pages::<B>(usize::try_from(flows).unwrap_or(usize::MAX)))?;
    let (narrow, wide) = halves(Memory::Static(buckets.values), few);
    let idle =
        Idle { tcp_established_us: IDLE_US, tcp_closing_us: IDLE_US, syn_us: IDLE_US, udp_us: IDLE_US };
    let mut table = Table::new(narrow, wide, SEED, idle, UNTRUSTED_PERCENT)?;
    table.advance(NOW, |_, _| ());
    let flows = Memory::Static(buckets.values).flows() as u64;
    for number in 0..flows {
        let inserted = table.insert(&key(number), BackendId(1), State::TcpEstablished, NOW);
        if inserted.outcome != Insert::Done {
            return Err(wrong(format!("flow {number} of {flows} does not fit: {inserted:?}")));
        }
    }
    if table.len() as u64 != flows {
        return Err(wrong(format!("{} flows are in the table, {flows} were inserted", table.len())));
    }
    let bytes = before.growth().bytes() as f64;
    Ok(FlowKind {
        flows,
        bytes_per_flow: rounded(bytes / flows as f64, 2),
        gib: rounded(bytes / f64::from(1 << 30), 3),
        pages: buckets.pages.name(),
    })
}

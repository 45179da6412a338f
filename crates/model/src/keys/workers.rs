//! `[workers]`.

use super::kind::{List, Number, ValueKind};
use super::read::{At, ReadValue, Reader, Span, open};
use super::table::table;
use super::word::words;
use schemars::{JsonSchema as _, Schema, SchemaGenerator};
use std::collections::HashSet;
use toml::{Spanned, Value};

table! {
    /// Poll-mode threads.
    pub struct Workers(WorkersRaw, WorkersFound) {
        /// CPUs, one worker each.
        cpus: List<CpuNumber, 1, 64> = vec![0],
            help "CPU numbers are those of /proc/cpuinfo", check are_distinct => Restart;
        /// CPUs of the management core; all, when every CPU is a worker's.
        management_cpus: List<CpuNumber, 0, 1024, false> = Vec::new(),
            default "every CPU that is no worker's",
            help "CPU numbers are those of /proc/cpuinfo", check are_distinct => Restart;
        /// What a worker does when there is nothing to do.
        idle: Idle = Idle::Busy => Restart;
        /// IPv4 flows a worker, 16 bytes each.
        flows: Number<u64, 1024, 67_108_864> = 1_048_576,
            help "IPv4 flows a worker, 16 bytes each; leave it out for {default}" => Restart;
        /// IPv6, any-port and prefix flows a worker, 40 bytes each.
        wide_flows: Number<u64, 1024, 67_108_864> = flows, default "as many as flows",
            help "IPv6, any-port and prefix flows a worker, 40 bytes each; leave it out for {default}"
            => Restart;
    }
}

words! {
    /// What a worker does after empty turns.
    pub enum Idle {
        /// Spins.
        Busy = "busy",
        /// Backs off to short sleeps.
        Adaptive = "adaptive",
    }
}

/// A CPU's number.
pub(crate) struct CpuNumber;

impl ValueKind for CpuNumber {
    type Value = u16;

    fn label() -> String {
        "CPU number".to_owned()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        u16::json_schema(generator)
    }

    /// A `cpu_set_t` holds 1024.
    fn read(r: &mut Reader<'_, '_>, at: &At<'_>, span: &Span, value: Value) -> Option<u16> {
        u16::try_from(r.integer(at, span, &value, (0, 1023), at.help())?).ok()
    }
}

fn are_distinct(r: &mut Reader<'_, '_>, at: &At<'_>, cpus: &[(u16, Span)], _: &Span) -> bool {
    let mut seen = HashSet::new();
    for (cpu, span) in cpus.iter().filter(|(cpu, _)| !seen.insert(*cpu)) {
        let message = format!("workers: CPU {cpu} is named twice in `{}`", at.key.name);
        let help = "name every CPU once; two workers on one CPU would starve each other";
        r.error(span, message, help);
    }
    true
}

pub(super) fn workers(r: &mut Reader<'_, '_>, raw: Option<Spanned<WorkersRaw>>) -> Workers {
    let (scope, raw) = open("workers", raw);
    let found = WorkersFound::read(r, &scope, raw);
    if let ReadValue::Given(cpus, span) = &found.cpus
        && cpus.is_empty()
    {
        let help = "name 1 to 64 CPUs, one for each worker, like cpus = [1]";
        r.error(span, "workers: `cpus` is empty", help);
    }
    let management_span = found.management_cpus.span();
    let workers = found.finish();
    let is_workers = |cpu: &&u16| workers.cpus.contains(cpu);
    if let (Some(span), Some(cpu)) = (management_span, workers.management_cpus.iter().find(is_workers))
        && !workers.management_cpus.iter().all(|cpu| workers.cpus.contains(cpu))
    {
        let message = format!("workers: CPU {cpu} is a worker's and in `management_cpus`");
        r.warning(&span, message, "leave the workers' CPUs to the workers");
    }
    workers
}

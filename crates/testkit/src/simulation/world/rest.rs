//! The end: everything comes to rest, and then nothing is told.

use super::{Client, World, WorldEvent};
use crate::simulation::checker::{Property, RunSummary};
use crate::simulation::client::LifePhase;

/// Of a datagram with nothing but a heartbeat.
pub const HEARTBEAT_BYTES: u64 = statesync::datagram::HEADER_LEN as u64 + 1;
/// Bytes that are told of a flow when its answer changes, times the number of machines.
const BYTES_A_FLOW: u64 = 1_000;

impl World<'_> {
    pub(super) fn count(&mut self, machine: usize) {
        let summary = &mut self.checker.summary;
        let mut full = 0;
        for counters in &self.machines[machine].counters {
            let of = &counters.sync;
            full += counters.drops(worker::DropReason::RingFull).get();
            summary.relays += of.relays.get();
            summary.core_relays += of.core_relays.get();
            summary.answers_cached += of.answers_cached.get();
            summary.statements[0] += of.decides.get();
            summary.statements[1] += of.exports.get();
            summary.statements[2] += of.refreshes.get();
            summary.statements[3] += of.migrates.get();
            summary.pushes += of.pushes.get();
            summary.others[0] += of.answers.get();
            summary.others[1] += of.resends.get();
            summary.others[2] += of.acknowledgements.get();
            summary.heartbeats += of.heartbeats.get();
            summary.note_bytes += of.note_bytes.get();
            summary.relay_bytes += of.relay_bytes.get();
            summary.refused += of.records_refused.get()
                + counters.totals.flow_refused.get()
                + counters.totals.flow_displaced.get();
            summary.guesses += of.guesses.get();
            summary.turns += counters.totals.turns.get();
        }
        if full > 0 {
            self.fail(
                Property::Rings,
                format!("machine {machine} has dropped {full} frames for a full ring"),
            );
        }
    }

    /// Faults have stopped long ago: everything has come to rest. Then flows begin again, and the router hashes anew.
    pub(super) fn rest(&mut self) {
        self.check_rest();
        self.is_steady = true;
        self.at_rest = self.counted();
        self.say(|| "at rest; flows begin again".into());
        for client in 0..self.clients.len() {
            let us = self.random.below(500_000);
            let of = &mut self.clients[client];
            of.timer += 1;
            let timer = of.timer;
            self.after(us, WorldEvent::Ring { client, timer });
        }
        self.sometime(self.scenario.reshuffle_us.min(500_000), WorldEvent::Reshuffle);
    }

    /// What all machines that live have counted, and those that died.
    fn counted(&mut self) -> RunSummary {
        let before = self.checker.summary.clone();
        for machine in 0..self.machines.len() {
            if self.machines[machine].alive {
                self.count(machine);
            }
        }
        std::mem::replace(&mut self.checker.summary, before)
    }

    /// Since the rest began only heartbeats were told, whatever began, and wherever the router sent it.
    pub(super) fn check_silence(&mut self) {
        let (before, after) = (self.at_rest.clone(), self.counted());
        let told = |of: &RunSummary| {
            (of.statements, of.pushes, of.others, of.relays, of.core_relays, of.relay_bytes)
        };
        // Where load decides, every flow is told.
        if !self.scenario.by_load && told(&before) != told(&after) {
            self.fail(
                Property::Silence,
                format!("at rest something was told: {:?}, before {:?}", told(&after), told(&before)),
            );
        }
        if after.steady_flows == before.steady_flows || after.heartbeats == before.heartbeats {
            self.fail(Property::Silence, "at rest nothing happened".into());
        }
        let (bytes, touched) =
            (after.note_bytes.saturating_sub(after.heartbeats * HEARTBEAT_BYTES), self.checker.touched);
        let limit = touched * BYTES_A_FLOW * self.scenario.machines as u64;
        if self.scenario.asks_are_answered() && bytes > limit {
            self.fail(
                Property::Bytes,
                format!(
                    "{bytes} bytes were told of {touched} flows whose answer changed, not {limit}: {:?}",
                    told(&after)
                ),
            );
        }
    }

    pub(super) fn check_rest(&mut self) {
        let waits =
            |of: &&Client| of.phase == LifePhase::Opening || of.phase == LifePhase::Open && of.unanswered;
        if let Some(client) = self.clients.iter().find(waits).map(|of| of.index) {
            let known = self.describe(client);
            self.fail(
                Property::Served,
                format!("client {client} waits for an answer that never comes; {known}"),
            );
        }
        if let Some(what) = self.unsettled() {
            self.fail(Property::Rest, format!("the cluster has not come to rest: {what}"));
        }
        let leaders = self.machines.iter().filter(|of| of.control.leads()).count();
        if leaders != 1 {
            self.fail(Property::Rest, format!("{leaders} machines lead"));
        }
        let mut notes = Vec::new();
        for (machine, of) in self.machines.iter().enumerate() {
            if !of.is_ready() {
                notes.push(format!("machine {machine} has not joined"));
            }
            for (core, counters) in of.counters.iter().enumerate() {
                if counters.sync.unacknowledged.get() > 0 {
                    notes.push(format!("{machine}.{core} has notes that nobody acknowledges"));
                }
                if counters.sync.records.get() > 0 {
                    notes.push(format!("{machine}.{core} keeps {} records", counters.sync.records.get()));
                }
            }
        }
        if let Some(first) = notes.first() {
            self.fail(Property::Rest, format!("after all was quiet: {first} (and {} more)", notes.len() - 1));
        }
    }

    pub(super) fn finish(&mut self) {
        self.checker.summary.touched = self.checker.touched;
        for machine in 0..self.machines.len() {
            if self.machines[machine].alive {
                self.count(machine);
            }
            let of = &mut self.machines[machine];
            for worker in &mut of.workers {
                worker.finish();
            }
        }
    }
}

//! What those who set a worker up, watch it, or let it sleep ask of it.

use crate::cluster::{StateSync, SyncSize};
use crate::decide::flows::Refusals;
use crate::io::PacketIo;
use crate::send::datagrams::NoteQueue;
use crate::turn::Worker;
#[cfg(feature = "negative-controls")]
use statesync::Rule;
use statesync::plan::Report;
use statesync::spsc::Sender;
use statesync::window::Windows;
use statesync::{Lasting, MachineSet, Member};
use std::sync::Arc;
use wire::{BackendId, CoreId, FlowKey, Tick};

impl<Io: PacketIo> Worker<Io> {
    /// Makes the worker able to be a member of a cluster. Once, before its first turn; allocates all that it will need.
    /// `seed` should be random; all workers of a machine share the `windows`; `reports` is how control hears of jobs done.
    pub fn attach_sync(&mut self, size: SyncSize, seed: u64, windows: Arc<Windows>, reports: Sender<Report>) {
        let flows = &mut self.stages.flows;
        let (core, reader) = ((flows.core, flows.cores()), flows.table.reader());
        flows.refusals = Some(Box::<Refusals>::default());
        self.stages.egress.notes = Some(Box::new(NoteQueue::new(core.0)));
        self.stages.sync = Some(Box::new(StateSync::new(core, size, seed, windows, reports, reader)));
    }

    /// The rule holds no more.
    #[cfg(feature = "negative-controls")]
    pub fn break_rule(&mut self, rule: Rule) {
        if let (Some(sync), Some(notes)) = (self.stages.sync.as_mut(), self.stages.egress.notes.as_mut()) {
            sync.break_rule(rule);
            notes.rules = notes.rules.without(rule);
        }
    }

    /// The back end, for tests and for the owner at shut-down.
    pub fn io(&mut self) -> &mut Io {
        &mut self.stages.egress.io
    }

    /// The flow table's live flows.
    pub fn flow_count(&self) -> usize {
        self.stages.flows.table.len()
    }

    /// The next moment at which [`turn`](Worker::turn) has something to do although nothing arrives; for those who sleep.
    pub fn next_due(&self) -> Option<Tick> {
        let stages = &self.stages;
        let fragments = stages.fragments.next_due();
        let Some(sync) = stages.sync.as_ref() else { return fragments };
        let company = stages.egress.notes.as_ref().and_then(|notes| notes.company_until);
        fragments.into_iter().chain(sync.next_due()).chain(company).min()
    }

    /// Frames and notes that other workers have put into the rings to this one.
    pub fn waiting(&self) -> usize {
        self.stages.rings.waiting()
    }

    /// Workers that have not taken yet all that this one has put into the rings to them.
    pub fn unread(&self) -> impl Iterator<Item = CoreId> {
        self.stages.rings.unread()
    }

    /// The lasting notes that wait, with their receivers. For tests and for those who watch.
    pub fn unacknowledged(&self) -> impl Iterator<Item = (Member, &Lasting)> {
        self.stages.sync.iter().flat_map(|sync| sync.unacknowledged.waiting())
    }

    /// Whom the worker does not ask, as of its last turn.
    pub fn suspects(&self) -> MachineSet {
        self.stages.sync.as_ref().map_or(MachineSet::default(), |sync| sync.suspects)
    }

    /// The last flows that found no room. For tests and for those who watch.
    pub fn refused_flows(&self) -> impl Iterator<Item = &FlowKey> {
        self.stages.flows.refusals.iter().flat_map(|refusals| &refusals.flows)
    }

    /// The flow's entry and the flow's record here, with whether it is a guess. For tests and for those who watch.
    pub fn knowledge(&self, key: &FlowKey, now: Tick) -> (Option<BackendId>, Option<(BackendId, bool)>) {
        let record = self.stages.sync.as_ref().and_then(|sync| sync.records.get(key, now));
        let entry = self.stages.flows.table.get(key, now);
        (entry.map(|hit| hit.backend), record.map(|record| (record.backend, record.guess)))
    }
}

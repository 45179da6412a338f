//! What is due by time: heartbeats, notes not acknowledged, refreshing, and the job of the plan's step.

use super::{ClusterStage, Delivery, FlowPlace};
use crate::describe::general::{FlowPacket, key_of};
use crate::io::PacketIo;
use crate::view::BackendState;
use crate::view::cluster::SlotsView;
use arrayvec::ArrayVec;
use flow::Hit;
use statesync::plan::Report;
use statesync::records::Record;
use statesync::retransmit::Full;
use statesync::{Note, Rule, Statement, Why};
use wire::{BackendId, CoreId, FlowKey, Tick};

/// Buckets of the flow table looked at together; at most five entries each.
const BUCKETS: usize = 12;
/// How often that is done in a turn.
const STEPS: usize = 24;
/// Places of the records looked at together.
const RECORDS: usize = 64;
/// Notes sent again in a turn, at most.
const RESENDS: usize = 64;
/// Records swept in a turn.
const SWEEP: usize = 64;

type DumpedEntries = ArrayVec<(FlowKey, Hit), 64>;

/// How far the job of the plan's step has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// Entries of the flow table: in which pass, and the next bucket, `None` at the end. Twice, because an entry that moves from a part not yet seen to one that was is missed.
    Entries(u8, Option<usize>),
    /// Records.
    Records(usize),
    /// Until all that was told is acknowledged.
    Waiting,
    /// To be reported.
    Done,
    /// Reported.
    #[default]
    Reported,
}

/// The job in hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Task {
    /// Its number.
    job: u64,
    stage: Stage,
}

impl Task {
    /// Whether a turn has something to do for it.
    pub(super) const fn is_busy(self) -> bool {
        matches!(self.stage, Stage::Entries(..) | Stage::Records(_) | Stage::Done)
    }
}

impl<Io: PacketIo> ClusterStage<'_, Io> {
    /// The stage of a turn that belongs to the cluster.
    #[inline(never)]
    pub(crate) fn synchronise(&mut self) {
        let (cluster, now) = (self.cluster, self.now);
        if self.sync.step != cluster.step {
            self.sync.step = cluster.step;
            // What waits for members that have left.
            let stays = |member| member == cluster.own || cluster.owners.is_member(member);
            self.sync.unacknowledged.forget(stays);
            for machine in cluster.owners.machines().iter() {
                if let Some(incarnation) = cluster.owners.incarnation(machine) {
                    self.sync.suspicion.meet(statesync::Member { machine, incarnation }, now);
                }
            }
            let is_new = self.sync.task.job != cluster.job.id;
            if is_new {
                self.sync.seen.clear();
            }
            self.sync.task = Task {
                job: cluster.job.id,
                stage: match self.sync.task.stage {
                    _ if is_new => Stage::Entries(0, Some(0)),
                    Stage::Reported => Stage::Done,
                    stage => stage,
                },
            };
        }
        #[cfg(feature = "negative-controls")]
        if let Some(notes) = self.egress.notes.as_mut() {
            notes.is_late = !notes.is_late;
        }
        let mut others = cluster.owners.machines();
        others.remove(cluster.own.machine);
        if !cluster.ready {
            // Who has not joined is told nothing, not even that the others live.
            self.sync.suspicion.expect(others, now);
        }
        self.sync.suspects = self.sync.suspicion.suspects(others, now).union(cluster.owners.lost());
        self.sync.records.sweep(SWEEP, now);
        if self.sync.core == CoreId(0) && self.sync.suspicion.beat(now) {
            for machine in others.iter() {
                self.flows.counters.sync.heartbeats.add(1);
                self.egress.say(self.view, machine, Note::Heartbeat, now);
            }
        }
        self.say_again();
        self.refresh_used();
        self.do_job();
        let counters = &self.flows.counters.sync;
        counters.records.set(self.sync.records.len() as u64);
        counters.unacknowledged.set(self.sync.unacknowledged.len() as u64);
        counters.suspects.set(self.sync.suspects.bits());
        self.egress.end_waiting(self.view, now);
    }

    fn say_again(&mut self) {
        for _ in 0..RESENDS {
            let Some(again) = self.sync.unacknowledged.due(self.now) else { return };
            if again.to == self.cluster.own {
                let (origin, sequence) = self.next_note();
                if self.deliver(origin, sequence, again.note) != Delivery::Failed {
                    self.sync.unacknowledged.acknowledge(again.to, again.sequence);
                }
                continue;
            }
            self.flows.counters.sync.resends.add(1);
            self.egress.say(self.view, again.to.machine, Note::Lasting(again.sequence, again.note), self.now);
        }
    }

    /// A flow was used after a long silence: its record must not end before its entry.
    #[inline(never)]
    pub(crate) fn refresh_revived(&mut self, of: &FlowPacket<'_>, hit: &Hit) {
        self.refresh(key_of(of.service, &of.packet.flow(of.bytes)), hit.backend, 0);
    }

    /// Every quarter of the longest idle time: entries of tainted slots that were used since are told to their owners.
    fn refresh_used(&mut self) {
        let now = self.now;
        let period_us = self.cluster.max_idle_us / 4;
        if self.sync.refreshing.is_none() {
            if now.since_us(self.sync.refreshed) < period_us {
                return;
            }
            self.sync.refreshed = now;
            if self.cluster.services.iter().any(SlotsView::is_any_tainted) {
                self.sync.refreshing = Some(0);
            }
        }
        for _ in 0..STEPS {
            let Some(from) = self.sync.refreshing else { return };
            if self.sync.unacknowledged.room() < 256 {
                return;
            }
            let (entries, next) = entries(&self.sync.reader, from, now);
            self.sync.refreshing = next;
            for (key, hit) in entries {
                if hit.idle_us <= period_us {
                    self.refresh(key, hit.backend, hit.idle_us);
                }
            }
        }
    }

    fn refresh(&mut self, key: FlowKey, backend: BackendId, age_us: u64) {
        let Some(place) = self.place_of_key(key) else { return };
        if !self.cluster.is_tainted(place.index, place.slot) || !self.holds(Rule::Refresh) {
            return;
        }
        let guess = self.sync.is_guess(&key, backend, self.now);
        let statement = Statement { key, backend, guess, age_us, why: Why::Refresh };
        if self.tell_owners(&place, statement).is_err() {
            self.flows.counters.sync.records_refused.add(1);
            self.flows.refuse(key, self.now);
        }
    }

    /// Goes on with the job of the plan's step, as far as a turn may.
    fn do_job(&mut self) {
        let now = self.now;
        for _ in 0..STEPS {
            let job = &self.cluster.job;
            match self.sync.task.stage {
                Stage::Reported => return,
                Stage::Entries(..) if job.export.is_empty() && job.check.is_empty() && !job.migrate => {
                    self.sync.task.stage = Stage::Waiting;
                }
                Stage::Entries(pass, Some(from)) => {
                    // Half of the room is for what is decided meanwhile.
                    if self.sync.unacknowledged.room() < 256 {
                        return;
                    }
                    let (entries, next) = entries(&self.sync.reader, from, now);
                    self.sync.task.stage = Stage::Entries(pass, next);
                    for (key, hit) in entries {
                        if !self.attend_entry(pass, key, &hit) {
                            self.sync.task.stage = Stage::Entries(pass, Some(from));
                            return;
                        }
                    }
                }
                Stage::Entries(0, _) => self.sync.task.stage = Stage::Entries(1, Some(0)),
                Stage::Entries(..) => self.sync.task.stage = Stage::Records(0),
                Stage::Records(from) => {
                    if self.sync.unacknowledged.room() < 256 {
                        return;
                    }
                    let mut records = ArrayVec::<(FlowKey, Record), RECORDS>::new();
                    let next = self.sync.records.scan(from, RECORDS, now, |key, record| {
                        let _ = records.try_push((*key, *record));
                    });
                    self.sync.task.stage = next.map_or(Stage::Waiting, Stage::Records);
                    for (key, record) in records {
                        if !self.attend_record(key, &record) {
                            self.sync.task.stage = Stage::Records(from);
                            return;
                        }
                    }
                }
                Stage::Waiting if self.sync.unacknowledged.of_job() > 0 => return,
                Stage::Waiting => self.sync.task.stage = Stage::Done,
                Stage::Done => {
                    let incomplete = job.complete_for_us.is_some_and(|for_us| {
                        let refused = self.flows.refusals.as_ref().and_then(|refusals| refusals.last);
                        refused.is_some_and(|refused| now.since_us(refused) <= for_us)
                    });
                    if self.sync.reports.push(Report::Done { step: self.cluster.step, incomplete }).is_ok() {
                        self.sync.task.stage = Stage::Reported;
                    }
                    return;
                }
            }
        }
    }

    /// What the job asks of an entry of the flow table. False: not now.
    fn attend_entry(&mut self, pass: u8, key: FlowKey, hit: &Hit) -> bool {
        let Some(place) = self.place_of_key(key) else { return true };
        if self.holds(Rule::CheckEntries) && self.is_in_the_way(&place, hit.backend) {
            return self.refuse_slot(&place);
        }
        let guess = self.sync.is_guess(&key, hit.backend, self.now);
        let statement = Statement { key, backend: hit.backend, guess, age_us: hit.idle_us, why: Why::Export };
        let is_told = pass > 0 && self.sync.seen.contains(&key);
        let told = if is_told { Some(true) } else { self.tell_of_job(&place, statement) };
        if told == Some(true) {
            self.sync.seen.mark(&key);
        }
        told.unwrap_or(true)
    }

    /// What the job asks of a record. False: not now.
    fn attend_record(&mut self, key: FlowKey, record: &Record) -> bool {
        let Some(place) = self.place_of_key(key) else { return true };
        if self.is_in_the_way(&place, record.backend) {
            return self.refuse_slot(&place);
        }
        let (backend, guess, age_us) = (record.backend, record.guess, self.now.since_us(record.used));
        // Left from an earlier taint, since when the owners may have changed; maybe nobody has an entry any more.
        let statement = Statement { key, backend, guess, age_us, why: Why::Migrate };
        self.tell_of_job(&place, statement).unwrap_or(true)
    }

    /// Tells those whom the job says. `None`: there is nobody; false: not now.
    fn tell_of_job(&mut self, place: &FlowPlace<'_>, statement: Statement) -> Option<bool> {
        let job = &self.cluster.job;
        if job.export.contains(place.index, place.slot) && self.holds(Rule::Export) {
            return Some(self.tell_owners(place, statement).is_ok());
        }
        let statement = Statement { why: Why::Migrate, ..statement };
        let is_told = job.migrate && self.cluster.is_tainted(place.index, place.slot);
        is_told.then(|| self.tell_gaining(place, statement).is_ok())
    }

    fn refuse_slot(&mut self, place: &FlowPlace<'_>) -> bool {
        let (job, slot) = (self.cluster.job.id, place.slot);
        let service = u16::try_from(place.index).unwrap_or(u16::MAX);
        self.sync.reports.push(Report::Refused { job, service, slot }).is_ok()
    }

    /// Tells those who will own the slot.
    fn tell_gaining(&mut self, place: &FlowPlace<'_>, statement: Statement) -> Result<(), Full> {
        for machine in self.cluster.owners.gaining(place.service.id, place.slot) {
            self.tell(machine, place, statement)?;
            self.count_statement(statement.why);
        }
        Ok(())
    }

    /// Whether the job checks the slot, and the end of its taint would move packets of a flow: the table alone would send it elsewhere, and
    /// no record tells.
    fn is_in_the_way(&self, place: &FlowPlace<'_>, backend: BackendId) -> bool {
        let FlowPlace { service, index, slot, .. } = *place;
        let has_records = self.cluster.services.get(index).is_some_and(|of| of.always);
        if has_records || !self.cluster.job.check.contains(index, slot) {
            return false;
        }
        // Of a backend that is removed the flows are steered anew in any case.
        self.view.backend(backend).is_some_and(|known| {
            let member = service.maglev.at(slot).and_then(|member| service.members.get(usize::from(member)));
            member != Some(&backend) || known.state == BackendState::Down
        })
    }
}

/// The entries of some buckets, and the bucket after them; `None` at the end.
fn entries(reader: &flow::Reader, from: usize, now: Tick) -> (DumpedEntries, Option<usize>) {
    let mut entries = DumpedEntries::new();
    reader.dump(from, BUCKETS, now, |key, hit| {
        let _ = entries.try_push((key, hit));
    });
    let next = from + BUCKETS;
    (entries, (next < reader.buckets()).then_some(next))
}

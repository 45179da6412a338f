//! What is due by time: heartbeats, notes not acknowledged, refreshing, and the job of the plan's step.

use super::{ClusterStage, place_of_key};
use crate::describe::general::{Packet, key_of};
use crate::io::PacketIo;
use crate::view::cluster::{Cluster, SlotsView};
use crate::view::{BackendState, View};
use arrayvec::ArrayVec;
use flow::Hit;
use statesync::plan::Report;
use statesync::records::Record;
use statesync::{Lasting, Note, Rule, Statement, Why};
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

/// A pass over the flow table in pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pass {
    /// The next bucket; `None`: at the end.
    next: Option<usize>,
}

impl Pass {
    const fn begin() -> Pass {
        Pass { next: Some(0) }
    }

    pub(super) const fn is_busy(self) -> bool {
        self.next.is_some()
    }
}

/// How far the job of the plan's step has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// Entries of the flow table. Twice, because an entry that moves from a part not yet seen to one that was is missed.
    Entries(u8, Pass),
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
            self.sync.forget_leavers(cluster);
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
                    _ if is_new => Stage::Entries(0, Pass::begin()),
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
        let beats = self.sync.core == CoreId(0) && self.sync.suspicion.beat(now);
        if beats {
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
                if self.deliver_here(again.note) {
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
    pub(crate) fn refresh_revived(&mut self, packet: &Packet, bytes: &[u8], hit: &Hit) {
        let view = self.view;
        let service = packet.service.and_then(|index| view.service.get(usize::from(index)));
        if let Some(service) = service {
            self.refresh(key_of(service, &packet.flow(bytes)), hit.backend, 0);
        }
    }

    /// Every quarter of the longest idle time: entries of tainted slots that were used since are told to their owners.
    fn refresh_used(&mut self) {
        let now = self.now;
        let period_us = self.cluster.max_idle_us / 4;
        if !self.sync.refreshing.is_busy() {
            if now.since_us(self.sync.refreshed) < period_us {
                return;
            }
            self.sync.refreshed = now;
            if self.cluster.services.iter().any(SlotsView::is_any_tainted) {
                self.sync.refreshing = Pass::begin();
            }
        }
        for _ in 0..STEPS {
            let Some(from) = self.sync.refreshing.next else { return };
            if self.sync.unacknowledged.room() < 256 {
                return;
            }
            let (entries, next) = entries(&self.sync.reader, from, now);
            self.sync.refreshing.next = next;
            for (key, hit) in entries {
                if hit.idle_us <= period_us {
                    self.refresh(key, hit.backend, hit.idle_us);
                }
            }
        }
    }

    fn refresh(&mut self, key: FlowKey, backend: BackendId, age_us: u64) {
        if !self.sync.rules.hold(Rule::Refresh) {
            return;
        }
        let Some((place, service)) = place_of_key(self.view, self.cluster, key, self.sync.cores) else {
            return;
        };
        if !self.cluster.services.get(place.service).is_some_and(|of| of.is_tainted(place.slot)) {
            return;
        }
        let guess = self.sync.is_guess(&key, backend, self.now);
        let statement = Statement { key, backend, guess, age_us, why: Why::Refresh };
        if self.tell_owners(service, place, statement).is_err() {
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
                Stage::Entries(pass, Pass { next: Some(from) }) => {
                    // Half of the room is for what is decided meanwhile.
                    if self.sync.unacknowledged.room() < 256 {
                        return;
                    }
                    let (entries, next) = entries(&self.sync.reader, from, now);
                    self.sync.task.stage = Stage::Entries(pass, Pass { next });
                    for (key, hit) in entries {
                        if !self.attend_entry(pass, key, &hit) {
                            self.sync.task.stage = Stage::Entries(pass, Pass { next: Some(from) });
                            return;
                        }
                    }
                }
                Stage::Entries(0, _) => self.sync.task.stage = Stage::Entries(1, Pass::begin()),
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
        let cluster = self.cluster;
        let Some((place, service)) = place_of_key(self.view, cluster, key, self.sync.cores) else {
            return true;
        };
        let job = &cluster.job;
        let (service_at, slot) = (place.service, place.slot);
        let looks = self.sync.rules.hold(Rule::CheckEntries);
        if looks
            && job.check.contains(service_at, slot)
            && !is_at_home(self.view, cluster, place, hit.backend)
        {
            return self.refuse_slot(service_at, slot);
        }
        let is_tainted = cluster.services.get(service_at).is_some_and(|of| of.is_tainted(slot));
        let guess = self.sync.is_guess(&key, hit.backend, self.now);
        let statement = |why| Statement { key, backend: hit.backend, guess, age_us: hit.idle_us, why };
        let is_told = pass > 0 && self.sync.seen.contains(&key);
        let done = if is_told {
            true
        } else if job.export.contains(service_at, slot) && self.sync.rules.hold(Rule::Export) {
            self.tell_owners(service, place, statement(Why::Export)).is_ok()
        } else if job.migrate && is_tainted {
            self.tell_gaining(service.id, place, statement(Why::Migrate))
        } else {
            return true;
        };
        if done {
            self.sync.seen.mark(&key);
        }
        done
    }

    /// What the job asks of a record. False: not now.
    fn attend_record(&mut self, key: FlowKey, record: &Record) -> bool {
        let cluster = self.cluster;
        let Some((place, service)) = place_of_key(self.view, cluster, key, self.sync.cores) else {
            return true;
        };
        let job = &cluster.job;
        if job.check.contains(place.service, place.slot)
            && !is_at_home(self.view, cluster, place, record.backend)
        {
            return self.refuse_slot(place.service, place.slot);
        }
        let (backend, guess, age_us) = (record.backend, record.guess, self.now.since_us(record.used));
        let statement = |why| Statement { key, backend, guess, age_us, why };
        if job.export.contains(place.service, place.slot) && self.sync.rules.hold(Rule::Export) {
            // Left from an earlier taint, since when the owners may have changed; maybe nobody has an entry any more.
            return self.tell_owners(service, place, statement(Why::Migrate)).is_ok();
        }
        let is_tainted = cluster.services.get(place.service).is_some_and(|of| of.is_tainted(place.slot));
        if job.migrate && is_tainted {
            return self.tell_gaining(service.id, place, statement(Why::Migrate));
        }
        true
    }

    fn refuse_slot(&mut self, service: usize, slot: u32) -> bool {
        let service = u16::try_from(service).unwrap_or(u16::MAX);
        self.sync.reports.push(Report::Refused { job: self.cluster.job.id, service, slot }).is_ok()
    }

    /// Tells those who will own the slot.
    fn tell_gaining(
        &mut self,
        service: wire::ServiceId,
        place: super::FlowPlace,
        statement: Statement,
    ) -> bool {
        let cluster = self.cluster;
        for machine in cluster.owners.gaining(service, place.slot) {
            let told = if machine != cluster.own.machine {
                self.say_lasting(machine, Lasting::State(statement), true)
            } else if place.core != self.flows.core {
                self.say_to_core(place.core, Lasting::State(statement), true)
            } else {
                let (origin, sequence) = (self.sync.origin(cluster), self.sync.unacknowledged.number());
                self.keep_record(&statement, origin, sequence);
                Ok(())
            };
            if told.is_err() {
                return false;
            }
            self.count_statement(Why::Migrate);
        }
        true
    }
}

/// Whether the end of the slot's taint moves no packet of a flow: it is where the table alone would send it, or has a record in any case.
fn is_at_home(view: &View, cluster: &Cluster, place: super::FlowPlace, backend: BackendId) -> bool {
    if cluster.services.get(place.service).is_some_and(|of| of.always) {
        return true;
    }
    let Some(service) = view.service.get(place.service) else { return true };
    let Some(known) = view.backends.get(backend.index()).and_then(Option::as_ref) else {
        // Removed: its flows are steered anew in any case.
        return true;
    };
    let member = service.maglev.at(place.slot).and_then(|member| service.members.get(usize::from(member)));
    member == Some(&backend) && known.state != BackendState::Down
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

//! What is done with what is said.

use super::{ClusterStage, Delivery};
use crate::decide::flows::PlacedFlow;
use crate::decide::known::first_state;
use crate::io::PacketIo;
use crate::lookup::LookupResult;
use crate::rings::{CoreNote, Relay};
use crate::view::BackendState;
use statesync::records::{Stated, life_us};
use statesync::retransmit::Full;
use statesync::{Answer, Lasting, MachineId, Member, Note, Origin, Rule, Sequence, Statement, Why};
use wire::{BackendId, CoreId, FlowKey, Tick};

impl<Io: PacketIo> ClusterStage<'_, Io> {
    /// Says something that lasts until it is acknowledged. A machine that has no incarnation in the membership is told nothing.
    ///
    /// # Errors
    /// Too many notes wait.
    pub(super) fn say_lasting(&mut self, to: MachineId, note: Lasting, of_job: bool) -> Result<(), Full> {
        let now = self.now;
        let Some(incarnation) = self.cluster.owners.incarnation(to) else { return Ok(()) };
        let is_of_syn = matches!(note, Lasting::State(statement) if statement.why == Why::Decide);
        let is_kept = self.holds(Rule::Acknowledged) && (self.holds(Rule::SynAsks) || !is_of_syn);
        let sequence = if is_kept {
            self.sync.unacknowledged.keep(Member { machine: to, incarnation }, note, of_job, now)?
        } else {
            self.sync.unacknowledged.number()
        };
        if matches!(note, Lasting::State(_)) && !is_of_syn {
            self.egress.say_at_leisure(self.view, to, Note::Lasting(sequence, note), now);
        } else {
            self.egress.say(self.view, to, Note::Lasting(sequence, note), now);
        }
        Ok(())
    }

    /// Tells another worker of this machine. A ring loses nothing; what does not fit is tried again.
    ///
    /// # Errors
    /// Too many notes wait.
    pub(super) fn say_to_core(&mut self, core: CoreId, note: Lasting, of_job: bool) -> Result<(), Full> {
        let (origin, sequence) = self.next_note();
        if !self.tell_core(core, CoreNote::Lasting(origin, sequence, note)) {
            self.sync.unacknowledged.keep(self.cluster.own, note, of_job, self.now)?;
        }
        Ok(())
    }

    /// Tells another worker of this machine something. False: its ring was full.
    pub(super) fn tell_core(&mut self, core: CoreId, note: CoreNote) -> bool {
        self.rings.send(core, Relay::Note(note)).is_ok()
    }

    /// Tells all other workers of this machine. False: some ring was full.
    pub(super) fn tell_other_cores(&mut self, note: CoreNote) -> bool {
        let (own, mut all) = (self.flows.core, true);
        for core in (0..self.sync.cores).map(CoreId).filter(|&core| core != own) {
            all &= self.tell_core(core, note);
        }
        all
    }

    /// Tells the worker concerned, which may be this one; what its ring has no room for is lost.
    pub(super) fn give_core(&mut self, core: CoreId, note: CoreNote) {
        if core == self.flows.core {
            self.receive_note(note);
        } else {
            self.tell_core(core, note);
        }
    }

    /// Carries a lasting note out, or has the worker concerned do so.
    pub(super) fn deliver(&mut self, origin: Origin, sequence: Sequence, note: Lasting) -> Delivery {
        match note {
            Lasting::State(statement) => match self.place_of_key(statement.key) {
                // Of a service that this machine does not have (any more).
                None => Delivery::Done,
                Some(place) if place.core == self.flows.core || !self.holds(Rule::OwnerCore) => {
                    self.keep_record(&statement, origin, sequence);
                    Delivery::Done
                }
                Some(place) if self.tell_core(place.core, CoreNote::Lasting(origin, sequence, note)) => {
                    Delivery::PassedOn
                }
                Some(_) => Delivery::Failed,
            },
            Lasting::Push { key, backend } if self.push_to_cores(key, backend) => Delivery::Done,
            Lasting::Push { .. } => Delivery::Failed,
        }
    }

    /// Corrects every member's entry of a flow.
    pub(super) fn push_to_all(&mut self, key: FlowKey, backend: BackendId) {
        let cluster = self.cluster;
        for machine in cluster.owners.machines().iter().filter(|&machine| machine != cluster.own.machine) {
            self.push_to(machine, key, backend);
        }
        self.push_here(key, backend);
    }

    /// Corrects the entries of this machine; what does not reach all of its workers is tried again.
    fn push_here(&mut self, key: FlowKey, backend: BackendId) {
        if !self.push_to_cores(key, backend) {
            let note = Lasting::Push { key, backend };
            let _ = self.sync.unacknowledged.keep(self.cluster.own, note, false, self.now);
        }
    }

    fn push_to(&mut self, machine: MachineId, key: FlowKey, backend: BackendId) {
        self.flows.counters.sync.pushes.add(1);
        // Without room the wrong entry stays until its flow begins anew; the record is right.
        if self.say_lasting(machine, Lasting::Push { key, backend }, false).is_err() {
            self.flows.counters.sync.records_refused.add(1);
            self.flows.refuse(key, self.now);
        }
    }

    /// Corrects the entries of all workers of this machine. False: some ring was full.
    fn push_to_cores(&mut self, key: FlowKey, backend: BackendId) -> bool {
        self.correct_entry(key, backend);
        !self.holds(Rule::PushToCores) || self.tell_other_cores(CoreNote::Push(key, backend))
    }

    /// Overwrites this worker's entry of a flow, if it has one, and stamps it. An entry on a masked backend is removed instead: a SYN that
    /// finds none asks the owner, who lets it pass when all machines are corrected.
    fn correct_entry(&mut self, key: FlowKey, backend: BackendId) {
        let Some(hit) = self.flows.table.get(&key, self.now) else { return };
        if self.view.backend_of(key.service(), backend).is_none() {
            return;
        }
        let former = self.view.backend(hit.backend);
        if hit.backend != backend && former.is_some_and(|of| of.state == BackendState::Down) {
            self.flows.counters.flow_left(hit.backend, hit.state);
            self.flows.table.remove(&key);
            self.flows.rewritten = true;
            return;
        }
        if hit.backend != backend {
            self.flows.counters.flow_left(hit.backend, hit.state);
            self.flows.counters.flow_came(backend, hit.state);
        }
        self.flows.table.set_backend(&key, &hit, backend, hit.state, self.now);
        self.flows.rewritten = true;
    }

    /// What another worker says.
    pub(crate) fn receive_note(&mut self, note: CoreNote) {
        match note {
            CoreNote::Lasting(origin, sequence, lasting) => {
                self.receive_lasting(origin, sequence, lasting);
            }
            CoreNote::Push(key, backend) => self.correct_entry(key, backend),
            CoreNote::Acknowledge(from, sequence) => {
                self.sync.unacknowledged.acknowledge(from, sequence);
            }
            CoreNote::Answer(answer) => self.receive_answer(&answer),
            CoreNote::Heard(member) => self.hear(member),
        }
    }

    pub(super) fn hear(&mut self, member: Member) {
        self.sync.suspicion.hear(member, self.cluster.owners.incarnation(member.machine), self.now);
    }

    /// A lasting note, of another machine or of another worker of this one: carried out by the worker concerned, who
    /// acknowledges it. Without an acknowledgement it comes again.
    pub(super) fn receive_lasting(&mut self, origin: Origin, sequence: Sequence, note: Lasting) {
        // Of what is passed on, that worker acknowledges the receipt.
        let is_done = self.deliver(origin, sequence, note) == Delivery::Done;
        if is_done && origin.member != self.cluster.own {
            self.flows.counters.sync.acknowledgements.add(1);
            let note = Note::Acknowledge { sequence, core: origin.core };
            self.egress.say_at_leisure(self.view, origin.member.machine, note, self.now);
        }
    }

    /// Takes a statement into the records. Caches that it proves wrong are corrected.
    pub(super) fn keep_record(&mut self, statement: &Statement, origin: Origin, sequence: Sequence) {
        let (view, cluster, now) = (self.view, self.cluster, self.now);
        let key = statement.key;
        if view.backend_of(key.service(), statement.backend).is_none() {
            // Of a backend that is removed: such a record decides nothing.
            return;
        }
        let known = self.sync.records.get(&key, now);
        if known.is_some_and(|known| view.backend_of(key.service(), known.backend).is_none()) {
            // Of a backend that is removed: it stands against nothing.
            self.sync.records.forget(&key);
        }
        let sequence = if self.holds(Rule::Sequence) { sequence } else { self.sync.unacknowledged.number() };
        let life_us = life_us(cluster.max_idle_us);
        if !self.holds(Rule::Conflict) {
            let _ = self.sync.records.decide(statement, origin, sequence, now, life_us);
            return;
        }
        let pushes = self.holds(Rule::Push);
        match self.sync.records.state(statement, origin, sequence, now, life_us) {
            Stated::Replaced(_) | Stated::Lost(_) if !pushes => {}
            Stated::New | Stated::Known => {}
            Stated::Full => {
                self.flows.refuse(key, now);
                self.flows.counters.sync.records_refused.add(1);
            }
            Stated::Replaced(_) => self.push_to_all(key, statement.backend),
            Stated::Lost(winner) => {
                // Who said it holds an entry of the loser.
                if origin.member == cluster.own {
                    self.push_here(key, winner);
                } else {
                    self.push_to(origin.member.machine, key, winner);
                }
            }
        }
    }

    /// An owner answers: fills an absent entry, replaces a guess or the entry its question found unusable, nothing else.
    pub(super) fn receive_answer(&mut self, answer: &Answer) {
        let (cluster, now) = (self.cluster, self.now);
        let key = answer.key;
        let fills = self.holds(Rule::AnswerFills);
        let asked = if fills { Tick(answer.asked_us) } else { now };
        let Some(to) = self.sync.asks.answered(&key, asked, now) else { return };
        let Some(place) = self.place_of_key(key) else { return };
        let id = place.service.id;
        if self.view.backend_of(id, answer.backend).is_none() {
            return;
        }
        let hit = self.flows.table.get(&key, now);
        let may_replace = hit
            .is_none_or(|hit| to.unusable == Some(hit.backend) || self.sync.is_guess(&key, hit.backend, now));
        if !may_replace && fills {
            return;
        }
        let new = PlacedFlow { backend: answer.backend, state: first_state(place.is_tcp), begins: to.begins };
        self.flows.counters.sync.answers_cached.add(1);
        self.flows.remember(&key, LookupResult { hit, miss: None }, new, now);
        let is_owner = place.core == self.flows.core
            && cluster.owners.told(id, place.slot).contains(&cluster.own.machine);
        if is_owner {
            return;
        }
        if self.sync.records.get(&key, now).is_some_and(|record| record.guess) {
            self.sync.records.forget(&key);
        }
        self.mark_guess(key, answer.backend, answer.guess);
    }

    pub(super) fn count_statement(&self, why: Why) {
        let of = &self.flows.counters.sync;
        match why {
            Why::Decide => of.decides.add(1),
            Why::Export => of.exports.add(1),
            Why::Refresh => of.refreshes.add(1),
            Why::Migrate => of.migrates.add(1),
        }
    }
}

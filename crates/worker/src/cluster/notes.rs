//! What is done with what is said.

use super::{ClusterStage, StateSync, is_usable, place_of_key};
use crate::io::PacketIo;
use crate::rings::{CoreNote, Relay};
use crate::view::BackendState;
use crate::view::cluster::Cluster;
use flow::State;
use statesync::records::{Stated, life_us};
use statesync::retransmit::Full;
use statesync::{Answer, Lasting, MachineId, Member, Note, Origin, Rule, Sequence, Statement, Why};
use wire::parse::TCP;
use wire::{BackendId, CoreId, FlowKey, Tick};

impl<Io: PacketIo> ClusterStage<'_, Io> {
    /// Says something that lasts until it is acknowledged. A machine that has no incarnation in the membership is told nothing.
    ///
    /// # Errors
    /// Too many notes wait.
    pub(super) fn say_lasting(
        &mut self,
        machine: MachineId,
        note: Lasting,
        of_job: bool,
    ) -> Result<(), Full> {
        let now = self.now;
        let Some(incarnation) = self.cluster.owners.incarnation(machine) else { return Ok(()) };
        let is_syn_note = matches!(note, Lasting::State(statement) if statement.why == Why::Decide);
        let is_kept =
            self.sync.rules.hold(Rule::Acknowledged) && (self.sync.rules.hold(Rule::SynAsks) || !is_syn_note);
        let sequence = if is_kept {
            self.sync.unacknowledged.keep(Member { machine, incarnation }, note, of_job, now)?
        } else {
            self.sync.unacknowledged.number()
        };
        let is_leisurely = match note {
            Lasting::State(statement) => statement.why != Why::Decide,
            Lasting::Push { .. } => false,
        };
        if is_leisurely {
            self.egress.say_at_leisure(self.view, machine, Note::Lasting(sequence, note), now);
        } else {
            self.egress.say(self.view, machine, Note::Lasting(sequence, note), now);
        }
        Ok(())
    }

    /// Tells another worker of this machine. A ring loses nothing; what does not fit is tried again.
    ///
    /// # Errors
    /// Too many notes wait.
    pub(super) fn say_to_core(&mut self, core: CoreId, note: Lasting, of_job: bool) -> Result<(), Full> {
        let (origin, sequence) = (self.sync.origin(self.cluster), self.sync.unacknowledged.number());
        if self.rings.send(core, Relay::Note(CoreNote::Lasting(origin, sequence, note))).is_err() {
            self.sync.unacknowledged.keep(self.cluster.own, note, of_job, self.now)?;
        }
        Ok(())
    }

    /// A lasting note to this machine itself, tried again: true when all concerned have it.
    pub(super) fn deliver_here(&mut self, note: Lasting) -> bool {
        match note {
            Lasting::State(statement) => {
                let Some((place, _)) = place_of_key(self.view, self.cluster, statement.key, self.sync.cores)
                else {
                    return true;
                };
                let (origin, sequence) = (self.sync.origin(self.cluster), self.sync.unacknowledged.number());
                if place.core == self.flows.core {
                    self.keep_record(&statement, origin, sequence);
                    return true;
                }
                self.rings.send(place.core, Relay::Note(CoreNote::Lasting(origin, sequence, note))).is_ok()
            }
            Lasting::Push { key, backend } => self.push_to_cores(key, backend),
        }
    }

    /// Corrects every member's entry of a flow.
    pub(super) fn push_to_all(&mut self, key: FlowKey, backend: BackendId) {
        let cluster = self.cluster;
        for machine in cluster.owners.machines().iter().filter(|&machine| machine != cluster.own.machine) {
            self.push_to(machine, key, backend);
        }
        if !self.push_to_cores(key, backend) {
            let _ =
                self.sync.unacknowledged.keep(cluster.own, Lasting::Push { key, backend }, false, self.now);
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
        let cores = self.sync.cores;
        let mut all = true;
        let to_all = self.sync.rules.hold(Rule::PushToCores);
        for core in (0..cores).map(CoreId).filter(|&core| to_all && core != self.flows.core) {
            all &= self.rings.send(core, Relay::Note(CoreNote::Push(key, backend))).is_ok();
        }
        all
    }

    /// Overwrites this worker's entry of a flow, if it has one, and stamps it. An entry on a masked backend is removed instead: a SYN that
    /// finds none asks the owner, who lets it pass when all machines are corrected.
    fn correct_entry(&mut self, key: FlowKey, backend: BackendId) {
        let Some(hit) = self.flows.table.get(&key, self.now) else { return };
        let is_its = self.view.backends.get(backend.index()).and_then(Option::as_ref);
        if is_its.is_none_or(|of| of.service != key.service()) {
            return;
        }
        let former = self.view.backends.get(hit.backend.index()).and_then(Option::as_ref);
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
        let is_done = match note {
            Lasting::State(statement) => {
                let cores = self.sync.cores;
                match place_of_key(self.view, self.cluster, statement.key, cores) {
                    // Of a service that this machine does not have (any more).
                    None => true,
                    Some((place, _))
                        if place.core == self.flows.core || !self.sync.rules.hold(Rule::OwnerCore) =>
                    {
                        self.keep_record(&statement, origin, sequence);
                        true
                    }
                    Some((place, _)) => {
                        // That worker acknowledges it.
                        let _ = self
                            .rings
                            .send(place.core, Relay::Note(CoreNote::Lasting(origin, sequence, note)));
                        false
                    }
                }
            }
            Lasting::Push { key, backend } => self.push_to_cores(key, backend),
        };
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
        if !is_usable(view, key.service(), statement.backend) {
            // Of a backend that is removed: such a record decides nothing.
            return;
        }
        let known = self.sync.records.get(&key, now);
        if known.is_some_and(|known| !is_usable(view, key.service(), known.backend)) {
            // Of a backend that is removed: it stands against nothing.
            self.sync.records.forget(&key);
        }
        let sequence =
            if self.sync.rules.hold(Rule::Sequence) { sequence } else { self.sync.unacknowledged.number() };
        if !self.sync.rules.hold(Rule::Conflict) {
            let _ = self.sync.records.decide(statement, origin, sequence, now, life_us(cluster.max_idle_us));
            return;
        }
        let pushes = self.sync.rules.hold(Rule::Push);
        match self.sync.records.state(statement, origin, sequence, now, life_us(cluster.max_idle_us)) {
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
                    if !self.push_to_cores(key, winner) {
                        let note = Lasting::Push { key, backend: winner };
                        let _ = self.sync.unacknowledged.keep(cluster.own, note, false, now);
                    }
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
        let fills = self.sync.rules.hold(Rule::AnswerFills);
        let asked = if fills { Tick(answer.asked_us) } else { now };
        let Some(to) = self.sync.asks.answered(&key, asked, now) else { return };
        let Some((place, service)) = place_of_key(self.view, cluster, key, self.sync.cores) else { return };
        let is_valid = self.view.backends.get(answer.backend.index()).and_then(Option::as_ref);
        if is_valid.is_none_or(|backend| backend.service != service.id) {
            return;
        }
        let hit = self.flows.table.get(&key, now);
        let may_replace = hit
            .is_none_or(|hit| to.unusable == Some(hit.backend) || self.sync.is_guess(&key, hit.backend, now));
        if !may_replace && fills {
            return;
        }
        let protocol = cluster.services.get(place.service).map_or(TCP, |of| of.vip.2);
        let state = if protocol == TCP { State::TcpNew } else { State::UdpNew };
        self.flows.counters.sync.answers_cached.add(1);
        if self.flows.remember(service, &key, (hit, None), answer.backend, state, now) && !to.begins {
            self.flows.count_met(answer.backend);
        }
        let is_owner = place.core == self.flows.core
            && cluster.owners.told(service.id, place.slot).contains(&cluster.own.machine);
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

impl StateSync {
    /// Forgets what waits for members that have left.
    pub(super) fn forget_leavers(&mut self, cluster: &Cluster) {
        self.unacknowledged.forget(|member| member == cluster.own || cluster.owners.is_member(member));
    }
}

//! What is done with what is said.

use super::{CoreNote, StateSync, is_usable, place_of_key};
use crate::Worker;
use crate::io::PacketIo;
use crate::turn::Relay;
use crate::view::cluster::Cluster;
use crate::view::{BackendState, View};
use flow::State;
use statesync::records::{Stated, life_us};
use statesync::retransmit::Full;
use statesync::{Answer, Lasting, MachineId, Member, Note, Origin, Rule, Sequence, Statement, Why};
use wire::parse::TCP;
use wire::{BackendId, CoreId, FlowKey, Tick};

impl<Io: PacketIo> Worker<Io> {
    /// Puts a note into the next datagram to a machine, which leaves before the turn's frames.
    pub(super) fn say(&mut self, view: &View, machine: MachineId, note: Note) {
        self.put_note(view, machine, note);
        if let Some(sync) = self.sync.as_mut() {
            sync.hurry();
        }
    }

    /// The same, of a note for which no frame waits: it may leave a little later, with others.
    fn say_at_leisure(&mut self, view: &View, machine: MachineId, note: Note, now: Tick) {
        self.put_note(view, machine, note);
        if let Some(sync) = self.sync.as_mut() {
            sync.linger(now);
        }
    }

    fn put_note(&mut self, view: &View, machine: MachineId, note: Note) {
        let is_full = self.sync.as_ref().is_some_and(|sync| sync.notes.is_full());
        if is_full {
            self.flush_notes(view);
        }
        if let Some(sync) = self.sync.as_mut() {
            // After a flush there is room; without it what lasts is said again.
            let _ = sync.notes.try_push((machine, note));
        }
    }

    /// Says something that lasts until it is acknowledged. A machine that has no incarnation in the membership is told nothing.
    ///
    /// # Errors
    /// Too many notes wait.
    pub(super) fn say_lasting(
        &mut self,
        view: &View,
        cluster: &Cluster,
        machine: MachineId,
        note: Lasting,
        of_job: bool,
        now: Tick,
    ) -> Result<(), Full> {
        let (Some(incarnation), Some(sync)) = (cluster.owners.incarnation(machine), self.sync.as_mut())
        else {
            return Ok(());
        };
        sync.clock = now;
        let is_syn_note = matches!(note, Lasting::State(statement) if statement.why == Why::Decide);
        let is_kept = sync.rules.hold(Rule::Acknowledged) && (sync.rules.hold(Rule::SynAsks) || !is_syn_note);
        let sequence = if is_kept {
            sync.unacknowledged.keep(Member { machine, incarnation }, note, of_job, now)?
        } else {
            sync.unacknowledged.number()
        };
        let is_leisurely = match note {
            Lasting::State(statement) => statement.why != Why::Decide,
            Lasting::Push { .. } => false,
        };
        if is_leisurely {
            self.say_at_leisure(view, machine, Note::Lasting(sequence, note), now);
        } else {
            self.say(view, machine, Note::Lasting(sequence, note));
        }
        Ok(())
    }

    /// Tells another worker of this machine. A ring loses nothing; what does not fit is tried again.
    ///
    /// # Errors
    /// Too many notes wait.
    pub(super) fn say_to_core(
        &mut self,
        cluster: &Cluster,
        core: CoreId,
        note: Lasting,
        of_job: bool,
        now: Tick,
    ) -> Result<(), Full> {
        let Some(sync) = self.sync.as_mut() else { return Ok(()) };
        let (origin, sequence) = (sync.origin(cluster), sync.unacknowledged.number());
        if self.rings.send(core, Relay::Note(CoreNote::Lasting(origin, sequence, note))).is_err()
            && let Some(sync) = self.sync.as_mut()
        {
            sync.unacknowledged.keep(cluster.own, note, of_job, now)?;
        }
        Ok(())
    }

    /// A lasting note to this machine itself, tried again: true when all concerned have it.
    pub(super) fn deliver_here(&mut self, view: &View, cluster: &Cluster, note: Lasting, now: Tick) -> bool {
        match note {
            Lasting::State(statement) => {
                let Some(sync) = self.sync.as_mut() else { return true };
                let Some((place, _)) = place_of_key(view, cluster, statement.key, sync.cores) else {
                    return true;
                };
                let (origin, sequence) = (sync.origin(cluster), sync.unacknowledged.number());
                if place.core == self.core {
                    self.keep_record(view, cluster, &statement, origin, sequence, now);
                    return true;
                }
                self.rings.send(place.core, Relay::Note(CoreNote::Lasting(origin, sequence, note))).is_ok()
            }
            Lasting::Push { key, backend } => self.push_to_cores(view, key, backend, now),
        }
    }

    /// Corrects every member's entry of a flow.
    pub(super) fn push_to_all(
        &mut self,
        view: &View,
        cluster: &Cluster,
        key: FlowKey,
        backend: BackendId,
        now: Tick,
    ) {
        for machine in cluster.owners.machines().iter().filter(|&machine| machine != cluster.own.machine) {
            self.push_to(view, cluster, machine, key, backend, now);
        }
        if !self.push_to_cores(view, key, backend, now)
            && let Some(sync) = self.sync.as_mut()
        {
            let _ = sync.unacknowledged.keep(cluster.own, Lasting::Push { key, backend }, false, now);
        }
    }

    fn push_to(
        &mut self,
        view: &View,
        cluster: &Cluster,
        machine: MachineId,
        key: FlowKey,
        backend: BackendId,
        now: Tick,
    ) {
        self.counters.sync.pushes.add(1);
        // Without room the wrong entry stays until its flow begins anew; the record is right.
        if self.say_lasting(view, cluster, machine, Lasting::Push { key, backend }, false, now).is_err() {
            self.counters.sync.records_refused.add(1);
            if let Some(sync) = self.sync.as_mut() {
                sync.refuse(key, now);
            }
        }
    }

    /// Corrects the entries of all workers of this machine. False: some ring was full.
    fn push_to_cores(&mut self, view: &View, key: FlowKey, backend: BackendId, now: Tick) -> bool {
        self.correct_entry(view, key, backend, now);
        let cores = self.sync.as_ref().map_or(1, |sync| sync.cores);
        let mut all = true;
        let to_all = self.rule(Rule::PushToCores);
        for core in (0..cores).map(CoreId).filter(|&core| to_all && core != self.core) {
            all &= self.rings.send(core, Relay::Note(CoreNote::Push(key, backend))).is_ok();
        }
        all
    }

    /// Overwrites this worker's entry of a flow, if it has one, and stamps it. An entry on a masked backend is removed instead: a SYN that
    /// finds none asks the owner, who lets it pass when all machines are corrected.
    fn correct_entry(&mut self, view: &View, key: FlowKey, backend: BackendId, now: Tick) {
        let Some(hit) = self.flows.get(&key, now) else { return };
        let is_its = view.backends.get(backend.index()).and_then(Option::as_ref);
        if is_its.is_none_or(|of| of.service != key.service()) {
            return;
        }
        let former = view.backends.get(hit.backend.index()).and_then(Option::as_ref);
        if hit.backend != backend && former.is_some_and(|of| of.state == BackendState::Down) {
            self.counters.flow_left(hit.backend, hit.state);
            self.flows.remove(&key);
            self.rewritten = true;
            return;
        }
        if hit.backend != backend {
            self.counters.flow_left(hit.backend, hit.state);
            self.counters.flow_came(backend, hit.state);
        }
        self.flows.set_backend(&key, &hit, backend, hit.state, now);
        self.rewritten = true;
    }

    /// What another worker says.
    pub(crate) fn receive_note(&mut self, view: &View, note: CoreNote, now: Tick) {
        let Some(cluster) = &view.cluster else { return };
        match note {
            CoreNote::Lasting(origin, sequence, lasting) => {
                self.receive_lasting(view, cluster, origin, sequence, lasting, now);
            }
            CoreNote::Push(key, backend) => self.correct_entry(view, key, backend, now),
            CoreNote::Acknowledge(from, sequence) => {
                if let Some(sync) = self.sync.as_mut() {
                    sync.unacknowledged.acknowledge(from, sequence);
                }
            }
            CoreNote::Answer(answer) => self.receive_answer(view, cluster, &answer, now),
            CoreNote::Heard(member) => self.hear(cluster, member, now),
        }
    }

    pub(super) fn hear(&mut self, cluster: &Cluster, member: Member, now: Tick) {
        if let Some(sync) = self.sync.as_mut() {
            sync.suspicion.hear(member, cluster.owners.incarnation(member.machine), now);
        }
    }

    /// A lasting note, of another machine or of another worker of this one: carried out by the worker concerned, who
    /// acknowledges it. Without an acknowledgement it comes again.
    pub(super) fn receive_lasting(
        &mut self,
        view: &View,
        cluster: &Cluster,
        origin: Origin,
        sequence: Sequence,
        note: Lasting,
        now: Tick,
    ) {
        let is_done = match note {
            Lasting::State(statement) => {
                let cores = self.sync.as_ref().map_or(1, |sync| sync.cores);
                match place_of_key(view, cluster, statement.key, cores) {
                    // Of a service that this machine does not have (any more).
                    None => true,
                    Some((place, _)) if place.core == self.core || !self.rule(Rule::OwnerCore) => {
                        self.keep_record(view, cluster, &statement, origin, sequence, now);
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
            Lasting::Push { key, backend } => self.push_to_cores(view, key, backend, now),
        };
        if is_done && origin.member != cluster.own {
            self.counters.sync.acknowledgements.add(1);
            let note = Note::Acknowledge { sequence, core: origin.core };
            self.say_at_leisure(view, origin.member.machine, note, now);
        }
    }

    /// Takes a statement into the records. Caches that it proves wrong are corrected.
    pub(super) fn keep_record(
        &mut self,
        view: &View,
        cluster: &Cluster,
        statement: &Statement,
        origin: Origin,
        sequence: Sequence,
        now: Tick,
    ) {
        let key = statement.key;
        if !is_usable(view, key.service(), statement.backend) {
            // Of a backend that is removed: such a record decides nothing.
            return;
        }
        let Some(sync) = self.sync.as_mut() else { return };
        let known = sync.records.get(&key, now);
        if known.is_some_and(|known| !is_usable(view, key.service(), known.backend)) {
            // Of a backend that is removed: it stands against nothing.
            sync.records.forget(&key);
        }
        let sequence = if sync.rules.hold(Rule::Sequence) { sequence } else { sync.unacknowledged.number() };
        if !sync.rules.hold(Rule::Conflict) {
            let _ = sync.records.decide(statement, origin, sequence, now, life_us(cluster.max_idle_us));
            return;
        }
        let pushes = sync.rules.hold(Rule::Push);
        match sync.records.state(statement, origin, sequence, now, life_us(cluster.max_idle_us)) {
            Stated::Replaced(_) | Stated::Lost(_) if !pushes => {}
            Stated::New | Stated::Known => {}
            Stated::Full => {
                sync.refuse(key, now);
                self.counters.sync.records_refused.add(1);
            }
            Stated::Replaced(_) => self.push_to_all(view, cluster, key, statement.backend, now),
            Stated::Lost(winner) => {
                // Who said it holds an entry of the loser.
                if origin.member == cluster.own {
                    if !self.push_to_cores(view, key, winner, now)
                        && let Some(sync) = self.sync.as_mut()
                    {
                        let note = Lasting::Push { key, backend: winner };
                        let _ = sync.unacknowledged.keep(cluster.own, note, false, now);
                    }
                } else {
                    self.push_to(view, cluster, origin.member.machine, key, winner, now);
                }
            }
        }
    }

    /// An owner answers: fills an absent entry, replaces a guess or the entry its question found unusable, nothing else.
    pub(super) fn receive_answer(&mut self, view: &View, cluster: &Cluster, answer: &Answer, now: Tick) {
        let Some(sync) = self.sync.as_mut() else { return };
        let key = answer.key;
        let fills = sync.rules.hold(Rule::AnswerFills);
        let asked = if fills { Tick(answer.asked_us) } else { now };
        let Some(to) = sync.asks.answered(&key, asked, now) else { return };
        let Some((place, service)) = place_of_key(view, cluster, key, sync.cores) else { return };
        let is_valid = view.backends.get(answer.backend.index()).and_then(Option::as_ref);
        if is_valid.is_none_or(|backend| backend.service != service.id) {
            return;
        }
        let hit = self.flows.get(&key, now);
        let may_replace = hit.is_none_or(|hit| {
            to.unusable == Some(hit.backend)
                || self.sync.as_ref().is_some_and(|sync| sync.is_guess(&key, hit.backend, now))
        });
        if !may_replace && fills {
            return;
        }
        let protocol = cluster.services.get(place.service).map_or(TCP, |of| of.vip.2);
        let state = if protocol == TCP { State::TcpNew } else { State::UdpNew };
        self.counters.sync.answers_cached.add(1);
        if self.remember(service, &key, (hit, None), answer.backend, state, now) && !to.begins {
            self.count_met(answer.backend);
        }
        let is_owner = place.core == self.core
            && cluster.owners.told(service.id, place.slot).contains(&cluster.own.machine);
        if is_owner {
            return;
        }
        if let Some(sync) = self.sync.as_mut()
            && sync.records.get(&key, now).is_some_and(|record| record.guess)
        {
            sync.records.forget(&key);
        }
        self.mark_guess(cluster, key, answer.backend, answer.guess, now);
    }

    pub(super) fn count_statement(&self, why: Why) {
        let of = &self.counters.sync;
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

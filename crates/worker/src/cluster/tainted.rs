//! The decision table for packets of tainted slots that have no usable entry, and the owner's side of it.

use super::{ClusterStage, FlowPlace, StateSync};
use crate::DropReason;
use crate::action::{Action, Hop, Route};
use crate::decide::flows::PlacedFlow;
use crate::decide::known::{SYN_RETRY_US, begins_a_flow, first_state, usable};
use crate::decide::slots::{base_of, place_in};
use crate::describe::general::{Fate, FlowPacket, Packet};
use crate::io::{Frame, PacketIo};
use crate::lookup::LookupResult;
use crate::rings::{CoreNote, Relay};
use crate::token_bucket::TokenBucket;
use crate::view::cluster::Cluster;
use crate::view::{BackendState, Moment};
use flow::Hit;
use statesync::asks::Asked;
use statesync::note::HOPS_MAX;
use statesync::records::{Record, life_us};
use statesync::retransmit::Full;
use statesync::{Answer, Lasting, MachineId, Note, Question, Rule, Statement, Why};
use wire::{BackendId, CoreId, FlowKey, Tick};

/// In a question: nobody waits for the answer.
pub(super) const NO_ANSWER: u64 = u64::MAX;

/// Questions to owners that keep silent, one after the other, before the asker decides.
const GUESS_TURNS: u32 = 3;

/// What an owner makes of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Resolution {
    /// To this backend.
    Backend { backend: BackendId, guess: bool },
    /// Somebody else decides.
    Elsewhere(MachineId),
    /// Nothing is remembered.
    Passing(Action),
}

impl Resolution {
    const fn refused(reason: DropReason) -> Resolution {
        Resolution::Passing(Action::Drop(reason))
    }
}

/// What the decision depends on.
#[derive(Clone, Copy, Debug)]
struct OwnerQuery<'v> {
    place: FlowPlace<'v>,
    /// The flow's entry, which does not decide.
    unusable: Option<Hit>,
    /// A SYN.
    begins: bool,
    /// An ICMP error about the flow: it goes where the flow goes, and nothing is remembered.
    quoted: bool,
    hops: u8,
    /// Nobody can be asked: whatever is decided is a guess.
    alone: bool,
}

impl OwnerQuery<'_> {
    fn of<'v>(place: FlowPlace<'v>, unusable: Option<Hit>, packet: &Packet, hops: u8) -> OwnerQuery<'v> {
        let (begins, quoted) = (begins_a_flow(packet), packet.fate == Fate::Quoted);
        OwnerQuery { place, unusable, begins, quoted, hops, alone: false }
    }
}

impl<'w, Io: PacketIo> ClusterStage<'w, Io> {
    /// What becomes of a packet of a tainted slot; `None` where the slot is not tainted.
    #[inline(never)]
    pub(crate) fn steer_tainted(&mut self, of: &FlowPacket<'_>, answer: LookupResult) -> Option<Action> {
        let packet = of.packet;
        let slots = self.cluster.services.get(usize::from(packet.service?))?;
        if !slots.is_any_tainted() {
            return None;
        }
        let place = self.place_of_packet(of.bytes, packet)?;
        if !slots.is_tainted(place.slot) {
            return None;
        }
        let hit = self.flows.entry(&place.key, answer, self.now);
        let ask = OwnerQuery::of(place, hit, packet, 0);
        if let Some(hit) = hit.filter(|hit| usable(of, hit)) {
            if !ask.quoted {
                self.flows.tally.hits += 1;
                if self.flows.keep(of, &hit) {
                    self.refresh_revived(of, &hit);
                }
            }
            return Some(Action::Encapsulate(hit.backend));
        }
        if !ask.quoted {
            self.flows.tally.misses += 1;
            self.flows.counters.totals.resteered.add(u64::from(hit.is_some()));
        }
        Some(self.ask_owner(&ask))
    }

    fn ask_owner(&mut self, ask: &OwnerQuery<'_>) -> Action {
        let (cluster, place) = (self.cluster, &ask.place);
        let owners = cluster.owners.asked(place.service.id, place.slot);
        if owners.contains(cluster.own.machine) {
            if place.core == self.sync.core {
                return self.decide_own(ask);
            }
            self.note_question(ask);
            return self.question(ask, Hop::Core(place.core));
        }
        let asked = self.note_question(ask);
        if asked.turns > 0 && !self.holds(Rule::GuessOnlyWhenSuspect) {
            return self.guess_here(ask);
        }
        if ask.begins && !self.holds(Rule::SynAsks) {
            return self.decide_here(ask);
        }
        let suspects = self.sync.suspects;
        let in_turn = if asked.turns.is_multiple_of(2) {
            [owners.primary, owners.backup]
        } else {
            [owners.backup, owners.primary]
        };
        // Of two that keep silent one may live: each is asked before somebody guesses.
        let lost = cluster.owners.lost();
        let heard = in_turn.into_iter().flatten().find(|&machine| !suspects.contains(machine));
        let silent = in_turn.into_iter().flatten().find(|&machine| !lost.contains(machine));
        let Some(machine) = heard.or(silent.filter(|_| asked.turns < GUESS_TURNS)) else {
            return self.guess_here(ask);
        };
        if self.sync.may_relay(cluster, self.now) {
            return self.question(ask, Hop::Machine(machine));
        }
        // The question of a SYN that came before is on its way, or was answered elsewhere; its copy must not be decided otherwise. Nor may
        // anybody but the owner decide where load does.
        let by_load = place.service.least_load().is_some();
        if (!ask.begins || asked.is_waiting || by_load) && self.holds(Rule::BucketDrops) {
            return Action::Drop(DropReason::RelayLimit);
        }
        // A flow that begins is with its record's backend, of which an entry tells, or with `cur`, whoever says so; the owners
        // must hear of it.
        self.decide_here(ask)
    }

    /// Notes that the flow's owner is asked, and tells what was asked before.
    fn note_question(&mut self, ask: &OwnerQuery<'_>) -> Asked {
        if ask.quoted {
            return Asked::default();
        }
        let unusable = ask.unusable.map(|hit| hit.backend);
        self.sync.asks.ask(&ask.place.key, unusable, ask.begins, self.now)
    }

    fn question(&self, ask: &OwnerQuery<'_>, to: Hop) -> Action {
        let asked_us = if ask.quoted { NO_ANSWER } else { self.now.0 };
        let (machine, core) = (self.cluster.own.machine, self.sync.core);
        Action::Relay(Route { to, question: Some(Question { machine, core, asked_us, hops: 0 }) })
    }

    /// This core owns the flow.
    fn decide_own(&mut self, ask: &OwnerQuery<'_>) -> Action {
        match self.resolve(ask) {
            Resolution::Backend { backend, guess } => {
                if !ask.quoted {
                    self.remember(ask, backend, guess);
                }
                Action::Encapsulate(backend)
            }
            Resolution::Passing(action) => action,
            Resolution::Elsewhere(machine) => {
                if !self.sync.may_relay(self.cluster, self.now) {
                    return Action::Drop(DropReason::RelayLimit);
                }
                self.note_question(ask);
                self.question(ask, Hop::Machine(machine))
            }
        }
    }

    /// Both owners are suspect: the slot decides, and the owners are told as soon as there are any.
    fn guess_here(&mut self, ask: &OwnerQuery<'_>) -> Action {
        self.flows.counters.sync.local_guesses.add(1);
        self.decide_here(&OwnerQuery { alone: true, ..*ask })
    }

    /// Decides a flow that others own.
    fn decide_here(&mut self, ask: &OwnerQuery<'_>) -> Action {
        let place = &ask.place;
        let kept = ask.unusable.map(|hit| hit.backend).filter(|&backend| {
            let known = self.view.backend_of(place.service.id, backend);
            known.is_some_and(|of| of.state != BackendState::Down)
        });
        let decided = kept.map(|backend| (backend, false)).or_else(|| self.answer_of_slot(ask));
        let Some((backend, concluded)) = decided else {
            return self.flows.nobody(place.service, DropReason::NoBackend);
        };
        if ask.quoted {
            return Action::Encapsulate(backend);
        }
        let guess = ask.alone || concluded;
        let statement = Statement { key: place.key, backend, guess, age_us: 0, why: Why::Decide };
        if self.tell_owners(place, statement).is_err() {
            return Action::Drop(DropReason::RecordLimit);
        }
        self.remember(ask, backend, guess);
        Action::Encapsulate(backend)
    }

    /// Enters a flow that was decided.
    fn remember(&mut self, ask: &OwnerQuery<'_>, backend: BackendId, guess: bool) {
        let (key, found) = (&ask.place.key, LookupResult { hit: ask.unusable, miss: None });
        let new = PlacedFlow { backend, state: first_state(ask.place.is_tcp), begins: ask.begins };
        self.flows.remember(key, found, new, self.now);
        self.mark_guess(*key, backend, guess);
    }

    /// Notes beside an entry whether it is a guess, so that what is said of it later says so.
    pub(super) fn mark_guess(&mut self, key: FlowKey, backend: BackendId, guess: bool) {
        if guess && self.sync.records.get(&key, self.now).is_none() {
            let statement = Statement { key, backend, guess, age_us: 0, why: Why::Decide };
            // Without room the mark is missing: then the guess counts as seen.
            if self.record(&statement).is_none() {
                self.flows.refuse(key, self.now);
            }
        }
    }

    /// Overwrites the flow's record, whatever it was. `None`: there is no room.
    fn record(&mut self, statement: &Statement) -> Option<()> {
        let (origin, sequence) = self.next_note();
        let life_us = life_us(self.cluster.max_idle_us);
        self.sync.records.decide(statement, origin, sequence, self.now, life_us)
    }

    /// The owner's side: the flow's record, or a decision. The caller is the flow's core on an owner machine (or on one that
    /// somebody takes for an owner).
    fn resolve(&mut self, ask: &OwnerQuery<'_>) -> Resolution {
        let (cluster, now, place) = (self.cluster, self.now, &ask.place);
        let record = self.sync.records.get(&place.key, now);
        let keeps = self.holds(Rule::RecordStands);
        let is_kept =
            |record: &Record| keeps || !(ask.begins && now.since_us(record.used) > cluster.max_idle_us / 32);
        if ask.begins && self.sync.is_correcting(&place.key) {
            return Resolution::refused(DropReason::Correcting);
        }
        if let Some(record) = record.filter(|record| is_kept(record) && self.stands(record, ask)) {
            if !ask.quoted {
                self.use_record(place, &record);
            }
            return Resolution::Backend { backend: record.backend, guess: record.guess };
        }
        let (id, own) = (place.service.id, cluster.own.machine);
        let decider = cluster.owners.decider(id, place.slot, own, self.sync.suspects);
        let asks_on = self.holds(Rule::MissAsksOn);
        match decider.filter(|&machine| asks_on && machine != own) {
            Some(_) if ask.hops >= HOPS_MAX && self.holds(Rule::HopLimit) => {
                Resolution::refused(DropReason::RelayLimit)
            }
            Some(machine) => Resolution::Elsewhere(machine),
            None => self.resolve_anew(ask, record),
        }
    }

    /// The record was used: it lasts longer, and the other owners hear of it in time.
    fn use_record(&mut self, place: &FlowPlace<'_>, record: &Record) {
        let now = self.now;
        self.sync.records.touch(&place.key, now, life_us(self.cluster.max_idle_us));
        let is_due = now.since_us(record.shared) > self.cluster.max_idle_us / 4;
        if is_due && self.holds(Rule::Refresh) {
            self.sync.records.share(&place.key, now);
            let (backend, guess) = (record.backend, record.guess);
            let statement = Statement { key: place.key, backend, guess, age_us: 0, why: Why::Refresh };
            // Without room the next packet tries again: the record is not shared before.
            let _ = self.tell_owners(place, statement);
        }
    }

    /// A flow without a record that stands: `former` is one that does not.
    fn resolve_anew(&mut self, ask: &OwnerQuery<'_>, former: Option<Record>) -> Resolution {
        let (service, key) = (ask.place.service, ask.place.key);
        let (mut backend, mut guess, by_load) = match self.decide(ask) {
            Ok(decided) => decided,
            Err(reason) => return Resolution::Passing(self.flows.nobody(service, reason)),
        };
        if ask.quoted {
            return Resolution::Passing(Action::Encapsulate(backend));
        }
        // Strangers' packets must not fill the records. Let pass without one, the flow would be with another backend when the
        // base is given up: nobody would speak against that.
        if guess && !self.sync.may_guess(self.cluster, self.now) {
            return Resolution::refused(DropReason::RecordLimit);
        }
        self.flows.counters.sync.guesses.add(u64::from(guess));
        let mut statement = Statement { key, backend, guess, age_us: 0, why: Why::Decide };
        if self.record(&statement).is_none() {
            // Without a record the flow's next packet will be taken to be from before the taint, and go by its slot: so does this one.
            self.flows.counters.sync.records_refused.add(1);
            self.flows.refuse(key, self.now);
            if let Some((base, _)) = self.answer_of_slot(&OwnerQuery { begins: false, ..*ask }) {
                (backend, guess) = (base, true);
                statement = Statement { backend, guess, ..statement };
            }
        } else if by_load {
            self.flows.queues.charge();
        }
        if self.tell_owners(&ask.place, statement).is_err() {
            self.sync.records.forget(&key);
            return Resolution::refused(DropReason::RecordLimit);
        }
        if let Some(former) = former.filter(|former| former.backend != backend)
            && self.holds(Rule::Push)
        {
            self.push_to_all(key, backend);
            // Entries of a removed backend are unusable anyway; those of a masked one would be hit by the flow's next packet.
            let is_known = self.view.backend_of(service.id, former.backend).is_some();
            if is_known && self.holds(Rule::RecordStands) && self.correct(key) {
                return Resolution::refused(DropReason::Correcting);
            }
        }
        Resolution::Backend { backend, guess }
    }

    /// Notes that a flow is being corrected. False: all machines have acknowledged that already.
    fn correct(&mut self, key: FlowKey) -> bool {
        if self.sync.correcting.is_full() {
            self.sync.correcting.pop_at(0);
        }
        let _ = self.sync.correcting.try_push(key);
        self.sync.is_correcting(&key)
    }

    /// What becomes of a flow without a record, whether that is a guess, and whether load said so. With policy least-load one that shows that
    /// it begins goes to the least loaded backend, and only its owner, who records it, may say so.
    fn decide(&mut self, ask: &OwnerQuery<'_>) -> Result<(BackendId, bool, bool), DropReason> {
        if !ask.quoted
            && (ask.begins || !ask.place.is_tcp)
            && let Some(picked) = self.flows.queues.pick(self.view, ask.place.index, self.now)
        {
            return picked.map(|backend| (backend, false, true));
        }
        let answer = self.answer_of_slot(ask);
        answer.map(|(backend, guess)| (backend, guess, false)).ok_or(DropReason::NoBackend)
    }

    /// What is done with a frame of a flow that this machine is taken to own.
    pub(crate) fn decide_question(&mut self, bytes: &[u8], packet: &Packet, question: Question) -> Action {
        let Some(place) = self.place_of_packet(bytes, packet).filter(|_| packet.is_of_flow()) else {
            return Action::Drop(DropReason::NoService);
        };
        if !self.cluster.ready {
            return Action::Drop(DropReason::NotReady);
        }
        if place.core != self.flows.core {
            return Action::Relay(Route { to: Hop::Core(place.core), question: Some(question) });
        }
        let ask = OwnerQuery::of(place, None, packet, question.hops);
        if !ask.quoted {
            self.flows.count_for(place.service, packet);
        }
        match self.resolve(&ask) {
            Resolution::Backend { backend, guess } => {
                if question.asked_us != NO_ANSWER {
                    let core = if self.holds(Rule::AnswerCore) { question.core } else { CoreId(0) };
                    let answer = Answer { key: place.key, backend, guess, asked_us: question.asked_us, core };
                    self.answer_question(question.machine, answer);
                }
                Action::Encapsulate(backend)
            }
            Resolution::Passing(action) => action,
            Resolution::Elsewhere(machine) => {
                Action::Relay(Route { to: Hop::Machine(machine), question: Some(question) })
            }
        }
    }

    fn answer_question(&mut self, machine: MachineId, answer: Answer) {
        self.flows.counters.sync.answers.add(1);
        if machine == self.cluster.own.machine {
            // Best effort: without room the flow's next packet asks again.
            self.give_core(answer.core, CoreNote::Answer(answer));
        } else {
            self.egress.say(self.view, machine, Note::Answer(answer), self.now);
        }
    }

    /// Gives a frame to whoever decides for its flow.
    pub(crate) fn relay(&mut self, frame: Io::Frame, packet: &Packet, (to, question): (Hop, Question)) {
        let view = self.view;
        match to {
            Hop::Core(core) => self.relay_to_core(frame, packet, core, question),
            Hop::Machine(machine) => {
                let question = Question { hops: question.hops.saturating_add(1), ..question };
                let at = Moment { view, now: self.now };
                if !self.egress.send_pieces(at, frame.bytes(), (machine, question)) {
                    return self.egress.drop_frame(view, frame, packet, DropReason::NoBuffer);
                }
                if self.holds(Rule::RelayCounts) {
                    self.flows.counters.totals.relayed.add(1);
                }
                self.flows.counters.sync.relays.add(1);
                let action = Action::Relay(Route { to, question: Some(question) });
                self.egress.end_relayed(view, frame, packet, action);
            }
        }
    }

    fn relay_to_core(&mut self, frame: Io::Frame, packet: &Packet, core: CoreId, question: Question) {
        let core = if self.holds(Rule::RingTo) { core } else { self.flows.core };
        match self.rings.send(core, Relay::Question(frame, question)) {
            Ok(()) => {
                self.flows.counters.totals.ring_out.add(1);
                self.flows.counters.sync.core_relays.add(1);
            }
            Err(Relay::Question(frame, _)) => {
                self.egress.drop_frame(self.view, frame, packet, DropReason::RingFull);
            }
            // What comes back is what was sent.
            Err(_) => self.flows.counters.drops(DropReason::RingFull).add(1),
        }
    }

    /// Tells a record to all who keep it: the owners of the epoch, and of the one that begins. The flow's core here keeps it at
    /// once.
    ///
    /// # Errors
    /// Too many notes wait already; some of the owners may have been told.
    pub(super) fn tell_owners(&mut self, place: &FlowPlace<'_>, statement: Statement) -> Result<(), Full> {
        let mut told = self.cluster.owners.told(place.service.id, place.slot);
        if !self.holds(Rule::BothTold) {
            told.truncate(1);
        }
        if self.sync.unacknowledged.room() < told.len() {
            return Err(Full);
        }
        for machine in told {
            self.tell(machine, place, statement)?;
        }
        self.count_statement(statement.why);
        Ok(())
    }

    /// Tells a record to one who keeps it.
    ///
    /// # Errors
    /// Too many notes wait already.
    pub(super) fn tell(&mut self, to: MachineId, place: &FlowPlace<'_>, said: Statement) -> Result<(), Full> {
        let of_job = matches!(said.why, Why::Export | Why::Migrate);
        if to != self.cluster.own.machine {
            return self.say_lasting(to, Lasting::State(said), of_job);
        }
        if place.core != self.flows.core {
            return self.say_to_core(place.core, Lasting::State(said), of_job);
        }
        if said.why != Why::Decide || !self.has_just_decided(&said) {
            let (origin, sequence) = self.next_note();
            self.keep_record(&said, origin, sequence);
        }
        Ok(())
    }

    /// Whether this is what the record says already.
    fn has_just_decided(&self, statement: &Statement) -> bool {
        let now = self.now;
        let record = self.sync.records.get(&statement.key, now);
        record.is_some_and(|record| record.backend == statement.backend && record.used == now)
    }
    /// Whether a record still decides. Not: a removed backend; and for a SYN one that is masked, unless the record was used just now.
    fn stands(&self, record: &Record, ask: &OwnerQuery<'_>) -> bool {
        self.view.backend_of(ask.place.service.id, record.backend).is_some_and(|backend| {
            let is_masked = backend.state == BackendState::Down;
            !(ask.begins && is_masked && self.now.since_us(record.used) > SYN_RETRY_US)
        })
    }

    /// What the slot says of a flow without a record, and whether that is a guess: flows that begin, and those that do not show
    /// it, are with `cur`; TCP in the middle is from before the taint.
    fn answer_of_slot(&self, ask: &OwnerQuery<'_>) -> Option<(BackendId, bool)> {
        let FlowPlace { service, index, slot, is_tcp, .. } = ask.place;
        let is_from_before = is_tcp && !ask.begins;
        let taints = self.cluster.services.get(index).map(|of| &of.taints).filter(|_| is_from_before);
        let base = taints.and_then(|taints| base_of(self.view, service, taints, slot));
        Some((base.or_else(|| place_in(self.view, service, slot))?, is_from_before))
    }
}

impl StateSync {
    /// Whether a machine has not acknowledged yet that the flow has another backend.
    fn is_correcting(&mut self, key: &FlowKey) -> bool {
        let Some(at) = self.correcting.iter().position(|of| of == key) else { return false };
        let is_push = |note: &Lasting| matches!(note, Lasting::Push { key: of, .. } if of == key);
        let waits = self.unacknowledged.waiting().any(|(_, note)| is_push(note));
        if !waits {
            self.correcting.pop_at(at);
        }
        waits
    }

    /// Whether the bucket gives a frame to be relayed to another machine.
    fn may_relay(&mut self, cluster: &Cluster, now: Tick) -> bool {
        let cores = self.cores;
        self.relay_tokens.get_or_insert_with(|| bucket(cluster, cores)).take(now)
    }

    /// Whether the bucket gives a record for a flow that nobody saw begin.
    fn may_guess(&mut self, cluster: &Cluster, now: Tick) -> bool {
        let cores = self.cores;
        self.guess_tokens.get_or_insert_with(|| bucket(cluster, cores)).take(now)
    }

    /// Whether what this worker holds of the flow is a guess.
    pub(super) fn is_guess(&self, key: &FlowKey, backend: BackendId, now: Tick) -> bool {
        self.records.get(key, now).is_some_and(|record| record.guess && record.backend == backend)
    }
}

/// This worker's share of what the machine may relay.
fn bucket(cluster: &Cluster, cores: u8) -> TokenBucket {
    let cores = u64::from(cores.max(1));
    TokenBucket::new((cluster.relays.0 / cores, (cluster.relays.1 / cores).max(1)))
}

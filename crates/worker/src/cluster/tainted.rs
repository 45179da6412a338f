//! The decision table for packets of tainted slots that have no usable entry, and the owner's side of it.

use super::{ClusterStage, FlowPlace, StateSync, is_usable, place_of};
use crate::DropReason;
use crate::action::{Action, Hop, Route};
use crate::decide::known::{SYN_RETRY_US, begins_a_flow, first_state, usable};
use crate::decide::slots::{base_of, place_in};
use crate::describe::general::{Fate, Packet, classify, key_of};
use crate::io::{Frame, PacketIo};
use crate::lookup::LookupResult;
use crate::rings::{CoreNote, Relay};
use crate::token_bucket::TokenBucket;
use crate::view::cluster::Cluster;
use crate::view::{BackendState, Moment, ServiceView, View};
use flow::Hit;
use statesync::asks::Asked;
use statesync::note::HOPS_MAX;
use statesync::records::{Record, life_us};
use statesync::{Lasting, Note, Question, Rule, Statement, Why};
use wire::parse::TCP;
use wire::{BackendId, CoreId, Tick};

/// In a question: nobody waits for the answer.
pub(super) const NO_ANSWER: u64 = u64::MAX;

/// Questions to owners that keep silent, one after the other, before the asker decides.
const GUESS_TURNS: u32 = 3;

/// What an owner makes of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Resolution {
    /// To this backend.
    Backend { backend: BackendId, guess: bool },
    /// To this backend, and nothing is remembered.
    Passing(BackendId),
    /// No backend takes it.
    Nobody(DropReason),
    /// Somebody else decides.
    Elsewhere(statesync::MachineId),
    /// Not now.
    Refused(DropReason),
}

/// What the decision depends on.
#[derive(Clone, Copy, Debug)]
struct OwnerQuery {
    place: FlowPlace,
    /// A SYN.
    begins: bool,
    tcp: bool,
    /// An ICMP error about the flow: it goes where the flow goes, and nothing is remembered.
    quoted: bool,
    hops: u8,
    /// Nobody can be asked: whatever is decided is a guess.
    alone: bool,
}

impl<Io: PacketIo> ClusterStage<'_, Io> {
    /// What becomes of a packet of a tainted slot; `None` where the slot is not tainted.
    #[inline(never)]
    pub(crate) fn steer_tainted(
        &mut self,
        bytes: &[u8],
        packet: &Packet,
        answer: LookupResult,
    ) -> Option<Action> {
        let (view, now) = (self.view, self.now);
        let index = usize::from(packet.service?);
        let service = view.service.get(index)?;
        let slots = self.cluster.services.get(index)?;
        if !slots.is_any_tainted() {
            return None;
        }
        let cores = self.sync.cores;
        let flow = packet.flow(bytes);
        let key = key_of(service, &flow);
        let place = place_of(view, index, service, key, &flow, cores);
        if !slots.is_tainted(place.slot) {
            return None;
        }
        let hit = match (answer.hit, answer.miss) {
            (Some(hit), _) if !self.flows.rewritten => Some(hit),
            (_, Some(miss)) => self.flows.table.get_at(&key, miss, now),
            _ => self.flows.table.get(&key, now),
        };
        let quoted = packet.fate == Fate::Quoted;
        if let Some(hit) = hit.filter(|hit| usable(view, service, hit, packet)) {
            if !quoted {
                self.flows.tally.hits += 1;
                if self.flows.keep(view, service, bytes, packet, &hit, now) {
                    self.refresh_revived(packet, bytes, &hit);
                }
            }
            return Some(Action::Encapsulate(hit.backend));
        }
        if !quoted {
            self.flows.tally.misses += 1;
            self.flows.counters.totals.resteered.add(u64::from(hit.is_some()));
        }
        let begins = begins_a_flow(packet);
        let ask = OwnerQuery { place, begins, tcp: flow.protocol == TCP, quoted, hops: 0, alone: false };
        Some(self.ask_owner(service, ask, (hit, packet)))
    }

    fn ask_owner(
        &mut self,
        service: &ServiceView,
        ask: OwnerQuery,
        (unusable, packet): (Option<Hit>, &Packet),
    ) -> Action {
        let (cluster, now) = (self.cluster, self.now);
        let place = ask.place;
        let owners = cluster.owners.asked(service.id, place.slot);
        let question = Question {
            machine: cluster.own.machine,
            core: self.sync.core,
            asked_us: if ask.quoted { NO_ANSWER } else { now.0 },
            hops: 0,
        };
        if owners.contains(cluster.own.machine) {
            if place.core == self.sync.core {
                return self.decide_own(service, ask, (unusable, packet));
            }
            if !ask.quoted {
                self.sync.asks.ask(&place.key, unusable.map(|hit| hit.backend), ask.begins, now);
            }
            return Action::Relay(Route { to: Hop::Core(place.core), question: Some(question) });
        }
        let asked = if ask.quoted {
            Asked::default()
        } else {
            self.sync.asks.ask(&place.key, unusable.map(|hit| hit.backend), ask.begins, now)
        };
        if asked.turns > 0 && !self.sync.rules.hold(Rule::GuessOnlyWhenSuspect) {
            return self.guess_here(service, ask, (unusable, packet));
        }
        if ask.begins && !self.sync.rules.hold(Rule::SynAsks) {
            return self.decide_here(service, ask, (unusable, packet));
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
            return self.guess_here(service, ask, (unusable, packet));
        };
        if self.sync.may_relay(cluster, now) {
            return Action::Relay(Route { to: Hop::Machine(machine), question: Some(question) });
        }
        // The question of a SYN that came before is on its way, or was answered elsewhere; its copy must not be decided otherwise. Nor may
        // anybody but the owner decide where load does.
        let by_load = service.least_load().is_some();
        if (!ask.begins || asked.is_waiting || by_load) && self.sync.rules.hold(Rule::BucketDrops) {
            return Action::Drop(DropReason::RelayLimit);
        }
        // A flow that begins is with its record's backend, of which an entry tells, or with `cur`, whoever says so; the owners
        // must hear of it.
        self.decide_here(service, ask, (unusable, packet))
    }

    /// This core owns the flow.
    fn decide_own(
        &mut self,
        service: &ServiceView,
        ask: OwnerQuery,
        (unusable, packet): (Option<Hit>, &Packet),
    ) -> Action {
        let now = self.now;
        match self.resolve(service, ask) {
            Resolution::Backend { backend, guess } => {
                if !ask.quoted {
                    let state = first_state(packet);
                    let is_entered =
                        self.flows.remember(service, &ask.place.key, (unusable, None), backend, state, now);
                    if is_entered && !ask.begins {
                        self.flows.count_met(backend);
                    }
                    self.mark_guess(ask.place.key, backend, guess);
                }
                Action::Encapsulate(backend)
            }
            Resolution::Passing(backend) => Action::Encapsulate(backend),
            Resolution::Nobody(reason) => self.flows.nobody(service, reason),
            Resolution::Refused(reason) => Action::Drop(reason),
            Resolution::Elsewhere(machine) => {
                if !self.sync.may_relay(self.cluster, now) {
                    return Action::Drop(DropReason::RelayLimit);
                }
                if !ask.quoted {
                    self.sync.asks.ask(&ask.place.key, unusable.map(|hit| hit.backend), ask.begins, now);
                }
                let question = Question {
                    machine: self.cluster.own.machine,
                    core: self.sync.core,
                    asked_us: if ask.quoted { NO_ANSWER } else { now.0 },
                    hops: 0,
                };
                Action::Relay(Route { to: Hop::Machine(machine), question: Some(question) })
            }
        }
    }

    /// Both owners are suspect: the slot decides, and the owners are told as soon as there are any.
    fn guess_here(&mut self, service: &ServiceView, ask: OwnerQuery, flow: (Option<Hit>, &Packet)) -> Action {
        self.flows.counters.sync.local_guesses.add(1);
        self.decide_here(service, OwnerQuery { alone: true, ..ask }, flow)
    }

    /// Decides a flow that others own.
    fn decide_here(
        &mut self,
        service: &ServiceView,
        ask: OwnerQuery,
        (unusable, packet): (Option<Hit>, &Packet),
    ) -> Action {
        let (view, cluster) = (self.view, self.cluster);
        let kept = unusable.map(|hit| hit.backend).filter(|backend| {
            let known = view.backends.get(backend.index()).and_then(Option::as_ref);
            known.is_some_and(|of| of.service == service.id && of.state != BackendState::Down)
        });
        let decided =
            kept.map(|backend| (backend, false)).or_else(|| answer_of_slot(view, cluster, service, ask));
        let Some((backend, concluded)) = decided else {
            return self.flows.nobody(service, DropReason::NoBackend);
        };
        if ask.quoted {
            return Action::Encapsulate(backend);
        }
        let guess = ask.alone || concluded;
        let key = ask.place.key;
        let statement = Statement { key, backend, guess, age_us: 0, why: Why::Decide };
        if self.tell_owners(service, ask.place, statement).is_err() {
            return Action::Drop(DropReason::RecordLimit);
        }
        let state = first_state(packet);
        if self.flows.remember(service, &key, (unusable, None), backend, state, self.now) && !ask.begins {
            self.flows.count_met(backend);
        }
        self.mark_guess(key, backend, guess);
        Action::Encapsulate(backend)
    }

    /// Notes beside an entry whether it is a guess, so that what is said of it later says so.
    pub(super) fn mark_guess(&mut self, key: wire::FlowKey, backend: BackendId, guess: bool) {
        let now = self.now;
        match self.sync.records.get(&key, now) {
            None if guess => {
                let statement = Statement { key, backend, guess, age_us: 0, why: Why::Decide };
                let (origin, sequence) = (self.sync.origin(self.cluster), self.sync.unacknowledged.number());
                // Without room the mark is missing: then the guess counts as seen.
                let kept = self.sync.records.decide(
                    &statement,
                    origin,
                    sequence,
                    now,
                    life_us(self.cluster.max_idle_us),
                );
                if kept.is_none() {
                    self.flows.refuse(key, now);
                }
            }
            _ => {}
        }
    }

    /// The owner's side: the flow's record, or a decision. The caller is the flow's core on an owner machine (or on one that
    /// somebody takes for an owner).
    fn resolve(&mut self, service: &ServiceView, ask: OwnerQuery) -> Resolution {
        let (view, cluster, now) = (self.view, self.cluster, self.now);
        let place = ask.place;
        let record = self.sync.records.get(&place.key, now);
        let keeps = self.sync.rules.hold(Rule::RecordStands);
        let is_kept =
            |record: &Record| keeps || !(ask.begins && now.since_us(record.used) > cluster.max_idle_us / 32);
        if ask.begins && self.sync.is_correcting(&place.key) {
            return Resolution::Refused(DropReason::Correcting);
        }
        if let Some(record) =
            record.filter(|record| is_kept(record) && stands(view, service, record, ask, now))
        {
            if !ask.quoted {
                self.use_record(service, place, &record);
            }
            return Resolution::Backend { backend: record.backend, guess: record.guess };
        }
        let decider = cluster.owners.decider(service.id, place.slot, cluster.own.machine, self.sync.suspects);
        let asks_on = self.sync.rules.hold(Rule::MissAsksOn);
        if let Some(machine) = decider.filter(|&machine| asks_on && machine != cluster.own.machine) {
            return if ask.hops >= HOPS_MAX && self.sync.rules.hold(Rule::HopLimit) {
                Resolution::Refused(DropReason::RelayLimit)
            } else {
                Resolution::Elsewhere(machine)
            };
        }
        self.resolve_anew(service, ask, record)
    }

    /// The record was used: it lasts longer, and the other owners hear of it in time.
    fn use_record(&mut self, service: &ServiceView, place: FlowPlace, record: &Record) {
        let now = self.now;
        self.sync.records.touch(&place.key, now, life_us(self.cluster.max_idle_us));
        let is_due = now.since_us(record.shared) > self.cluster.max_idle_us / 4;
        if is_due && self.sync.rules.hold(Rule::Refresh) {
            self.sync.records.share(&place.key, now);
            let (backend, guess) = (record.backend, record.guess);
            let statement = Statement { key: place.key, backend, guess, age_us: 0, why: Why::Refresh };
            // Without room the next packet tries again: the record is not shared before.
            let _ = self.tell_owners(service, place, statement);
        }
    }

    /// A flow without a record that stands: `former` is one that does not.
    fn resolve_anew(&mut self, service: &ServiceView, ask: OwnerQuery, former: Option<Record>) -> Resolution {
        let (cluster, now) = (self.cluster, self.now);
        let (mut backend, mut guess, by_load) = match self.decide(service, ask) {
            Ok(decided) => decided,
            Err(reason) => return Resolution::Nobody(reason),
        };
        if ask.quoted {
            return Resolution::Passing(backend);
        }
        // Strangers' packets must not fill the records. Let pass without one, the flow would be with another backend when the
        // base is given up: nobody would speak against that.
        if guess && !self.sync.may_guess(cluster, now) {
            return Resolution::Refused(DropReason::RecordLimit);
        }
        self.flows.counters.sync.guesses.add(u64::from(guess));
        let key = ask.place.key;
        let mut statement = Statement { key, backend, guess, age_us: 0, why: Why::Decide };
        let (origin, sequence) = (self.sync.origin(cluster), self.sync.unacknowledged.number());
        let life_us = life_us(cluster.max_idle_us);
        if self.sync.records.decide(&statement, origin, sequence, now, life_us).is_none() {
            // Without a record the flow's next packet will be taken to be from before the taint, and go by its slot: so does this one.
            self.flows.counters.sync.records_refused.add(1);
            self.flows.refuse(key, now);
            let before = OwnerQuery { begins: false, ..ask };
            if let Some((base, _)) = answer_of_slot(self.view, cluster, service, before) {
                (backend, guess) = (base, true);
                statement = Statement { backend, guess, ..statement };
            }
        } else if by_load {
            self.flows.queues.charge();
        }
        if self.tell_owners(service, ask.place, statement).is_err() {
            self.sync.records.forget(&key);
            return Resolution::Refused(DropReason::RecordLimit);
        }
        if let Some(former) = former.filter(|former| former.backend != backend)
            && self.sync.rules.hold(Rule::Push)
        {
            self.push_to_all(key, backend);
            // Entries of a removed backend are unusable anyway; those of a masked one would be hit by the flow's next packet.
            let keeps = self.sync.rules.hold(Rule::RecordStands);
            if keeps && is_usable(self.view, service.id, former.backend) && self.correct(key) {
                return Resolution::Refused(DropReason::Correcting);
            }
        }
        Resolution::Backend { backend, guess }
    }

    /// Notes that a flow is being corrected. False: all machines have acknowledged that already.
    fn correct(&mut self, key: wire::FlowKey) -> bool {
        if self.sync.correcting.is_full() {
            self.sync.correcting.pop_at(0);
        }
        let _ = self.sync.correcting.try_push(key);
        self.sync.is_correcting(&key)
    }

    /// What becomes of a flow without a record, whether that is a guess, and whether load said so. With policy least-load one that shows that
    /// it begins goes to the least loaded backend, and only its owner, who records it, may say so.
    fn decide(
        &mut self,
        service: &ServiceView,
        ask: OwnerQuery,
    ) -> Result<(BackendId, bool, bool), DropReason> {
        if !ask.quoted
            && (ask.begins || !ask.tcp)
            && let Some(picked) = self.flows.pick(self.view, ask.place.service, service, self.now)
        {
            return picked.map(|backend| (backend, false, true));
        }
        let answer = answer_of_slot(self.view, self.cluster, service, ask);
        answer.map(|(backend, guess)| (backend, guess, false)).ok_or(DropReason::NoBackend)
    }

    /// A frame of a flow that this machine is taken to own: what it is, with its action.
    pub(crate) fn decide_question(&mut self, frame: &Io::Frame, question: Question) -> Packet {
        let mut packet = classify(self.view, frame.bytes(), frame.meta());
        packet.fate = Fate::Decided(self.action_for_question(frame.bytes(), &packet, question));
        packet
    }

    fn action_for_question(&mut self, bytes: &[u8], packet: &Packet, question: Question) -> Action {
        let Some((place, service)) = place_of_packet(self.view, self.sync.cores, bytes, packet) else {
            return Action::Drop(DropReason::NoService);
        };
        if !self.cluster.ready {
            return Action::Drop(DropReason::NotReady);
        }
        if place.core != self.flows.core {
            return Action::Relay(Route { to: Hop::Core(place.core), question: Some(question) });
        }
        let flow = packet.flow(bytes);
        let ask = OwnerQuery {
            place,
            begins: begins_a_flow(packet),
            tcp: flow.protocol == TCP,
            quoted: packet.fate == Fate::Quoted,
            hops: question.hops,
            alone: false,
        };
        if !ask.quoted {
            self.flows.count_for(service, packet);
        }
        match self.resolve(service, ask) {
            Resolution::Backend { backend, guess } => {
                if question.asked_us != NO_ANSWER {
                    let (asked_us, mut core) = (question.asked_us, question.core);
                    if !self.sync.rules.hold(Rule::AnswerCore) {
                        core = CoreId(0);
                    }
                    let answer = statesync::Answer { key: place.key, backend, guess, asked_us, core };
                    self.answer_question(question.machine, answer);
                }
                Action::Encapsulate(backend)
            }
            Resolution::Passing(backend) => Action::Encapsulate(backend),
            Resolution::Nobody(reason) => self.flows.nobody(service, reason),
            Resolution::Refused(reason) => Action::Drop(reason),
            Resolution::Elsewhere(machine) => {
                Action::Relay(Route { to: Hop::Machine(machine), question: Some(question) })
            }
        }
    }

    fn answer_question(&mut self, machine: statesync::MachineId, answer: statesync::Answer) {
        self.flows.counters.sync.answers.add(1);
        if machine != self.cluster.own.machine {
            self.egress.say(self.view, machine, Note::Answer(answer), self.now);
        } else if answer.core == self.flows.core {
            self.receive_answer(&answer);
        } else {
            // Best effort: the flow's next packet asks again.
            let _ = self.rings.send(answer.core, Relay::Note(CoreNote::Answer(answer)));
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
                if self.sync.rules.hold(Rule::RelayCounts) {
                    self.flows.counters.totals.relayed.add(1);
                }
                self.flows.counters.sync.relays.add(1);
                let action = Action::Relay(Route { to, question: Some(question) });
                self.egress.end_relayed(view, frame, packet, action);
            }
        }
    }

    fn relay_to_core(&mut self, frame: Io::Frame, packet: &Packet, core: CoreId, question: Question) {
        let core = if self.sync.rules.hold(Rule::RingTo) { core } else { self.flows.core };
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
    pub(super) fn tell_owners(
        &mut self,
        service: &ServiceView,
        place: FlowPlace,
        statement: Statement,
    ) -> Result<(), statesync::retransmit::Full> {
        let cluster = self.cluster;
        let of_job = matches!(statement.why, Why::Export | Why::Migrate);
        let mut told = cluster.owners.told(service.id, place.slot);
        if !self.sync.rules.hold(Rule::BothTold) {
            told.truncate(1);
        }
        if self.sync.unacknowledged.room() < told.len() {
            return Err(statesync::retransmit::Full);
        }
        for machine in told {
            if machine != cluster.own.machine {
                self.say_lasting(machine, Lasting::State(statement), of_job)?;
            } else if place.core != self.flows.core {
                self.say_to_core(place.core, Lasting::State(statement), of_job)?;
            } else if statement.why != Why::Decide || !self.has_just_decided(&statement) {
                let (origin, sequence) = (self.sync.origin(cluster), self.sync.unacknowledged.number());
                self.keep_record(&statement, origin, sequence);
            }
        }
        self.count_statement(statement.why);
        Ok(())
    }

    /// Whether this is what the record says already.
    fn has_just_decided(&self, statement: &Statement) -> bool {
        let now = self.now;
        let record = self.sync.records.get(&statement.key, now);
        record.is_some_and(|record| record.backend == statement.backend && record.used == now)
    }
}

/// Where the flow of a packet of a service stands.
fn place_of_packet<'v>(
    view: &'v View,
    cores: u8,
    bytes: &[u8],
    packet: &Packet,
) -> Option<(FlowPlace, &'v ServiceView)> {
    if !matches!(packet.fate, Fate::Flow | Fate::Quoted) {
        return None;
    }
    let index = usize::from(packet.service?);
    let service = view.service.get(index)?;
    let flow = packet.flow(bytes);
    Some((place_of(view, index, service, key_of(service, &flow), &flow, cores), service))
}

/// Whether a record still decides. Not: a removed backend; and for a SYN one that is masked, unless the record was used just now.
fn stands(view: &View, service: &ServiceView, record: &Record, ask: OwnerQuery, now: Tick) -> bool {
    let Some(backend) = view.backends.get(record.backend.index()).and_then(Option::as_ref) else {
        return false;
    };
    if backend.service != service.id {
        return false;
    }
    let is_masked = backend.state == BackendState::Down;
    !(ask.begins && is_masked && now.since_us(record.used) > SYN_RETRY_US)
}

/// What the slot says of a flow without a record, and whether that is a guess: flows that begin, and those that do not show
/// it, are with `cur`; TCP in the middle is from before the taint.
fn answer_of_slot(
    view: &View,
    cluster: &Cluster,
    service: &ServiceView,
    ask: OwnerQuery,
) -> Option<(BackendId, bool)> {
    let place = ask.place;
    let is_from_before = ask.tcp && !ask.begins;
    let taints = cluster.services.get(place.service).map(|of| &of.taints);
    let base =
        taints.filter(|_| is_from_before).and_then(|taints| base_of(view, service, taints, place.slot));
    let backend = base.or_else(|| place_in(view, service, place.slot))?;
    Some((backend, is_from_before))
}

impl StateSync {
    /// Whether a machine has not acknowledged yet that the flow has another backend.
    fn is_correcting(&mut self, key: &wire::FlowKey) -> bool {
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
    pub(super) fn is_guess(&self, key: &wire::FlowKey, backend: BackendId, now: Tick) -> bool {
        self.records.get(key, now).is_some_and(|record| record.guess && record.backend == backend)
    }
}

/// This worker's share of what the machine may relay.
fn bucket(cluster: &Cluster, cores: u8) -> TokenBucket {
    let cores = u64::from(cores.max(1));
    TokenBucket::new(cluster.relays.0 / cores, (cluster.relays.1 / cores).max(1))
}

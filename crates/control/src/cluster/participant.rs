//! What a machine knows of its cluster, and what it wants to put into the store: it takes part in the agreement, and is a member of the
//! cluster ([`super::membership`]) when the others have taken it in. Pure: it is told what the store shows, what workers
//! report and what time it is, and gives [`StoreOrder`]s; the same orders come again until the store shows them done.

use super::document::{DecodeError, Document, Encoded, REGISTERED_MAX, Settings, VALUE_MAX, digests_of};
use super::keys::{
    self, AcknowledgementValue, DesiredValue, HealthValue, Key, LeaderValue, MachineValue, MemberValue,
    ReceivedValue,
};
use super::leading::Leading;
use super::readings::Reading;
use super::registrations;
use super::slot_text;
use super::snapshot::{KeyChange, StoreSnapshot};
use super::stock::{Lot, Missing, Stock};
use super::tables::AgreedTables;
use statesync::plan::{Acknowledgement, Follower, Report};
use statesync::{MachineId, Member};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use wire::{BackendId, CoreId, Tick};

/// Slots that go with one order: etcd takes 128 operations in a transaction.
const SWEPT_AT_ONCE: usize = 100;
/// How long nothing is begun after a plan that did not fit into the store, microseconds.
const REST_US: u64 = 10_000_000;
/// What this machine has heard of agents is told this often at most, microseconds: each time it is told whole.
const RECEIVED_US: u64 = 100_000;

/// How long a leader that returns to the store waits for members that have not returned, microseconds: all have lost the store at once, each
/// tries again within 3 s, and without data of theirs none can be told from a dead one.
const RETURN_US: u64 = 6_000_000;

/// What is to be put into the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StoreOrder {
    /// Under this machine's lease, if the plan is still the one of this revision.
    Put {
        /// The key.
        key: Key,
        /// Its value.
        value: Vec<u8>,
        /// Revision of the plan; `None`: whatever it is.
        if_plan: Option<i64>,
    },
    /// Who has a number, under no lease, if nobody has put that meanwhile.
    Register {
        /// The number.
        machine: MachineId,
        /// Its name and incarnation.
        value: Vec<u8>,
        /// Revision of the one before; 0: there is none.
        after: i64,
    },
    /// The leader's key under this machine's lease, if it is of this revision (0: there is none): nobody leads who lives.
    Lead {
        /// The leader's value.
        value: Vec<u8>,
        /// Revision of the one before.
        after: i64,
    },
    /// The leader's key goes, if it is this machine's.
    Resign(Vec<u8>),
    /// The next plan, if the one in the store is of this revision and this machine leads.
    Plan {
        /// The document. Of its slots only those that are not there yet.
        document: Encoded,
        /// Revision of the one before; 0: there is none.
        after: i64,
        /// The leader's value.
        leader: Vec<u8>,
    },
    /// Slots that no plan names go, if the plan is still the one of this revision, and this machine leads.
    Sweep {
        /// Their digests.
        digests: Vec<u128>,
        /// Revision of the plan.
        if_plan: i64,
        /// The leader's value.
        leader: Vec<u8>,
    },
    /// This machine has left: all that is under its lease goes.
    Leave,
}

/// What came of it that somebody should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// Another document is in force.
    Adopted,
    /// An operator should know.
    Warning(String),
    /// This machine cannot go on: it must start again, or be configured otherwise.
    Fatal(String),
}

/// What a machine says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// `machine.name`.
    pub(crate) name: String,
    /// Where it takes messages.
    pub(crate) address: IpAddr,
    /// Version of guidewayd.
    pub(crate) version: String,
    /// Workers.
    pub(crate) cores: usize,
    /// What must be the same everywhere.
    pub(crate) settings: Settings,
    /// Key of slots.
    pub(crate) key: [u8; 16],
    /// Where agents reach it; `None`: it does not listen for them.
    pub(crate) agents: Option<SocketAddr>,
}

/// Leadership, from this machine's point of view.
#[derive(Debug)]
struct Lead {
    leading: Leading,
    /// Revision of the plan in the store that the next one follows.
    after: i64,
    /// A plan is on its way.
    is_writing: bool,
    /// The first document must be written although it is no step.
    is_unwritten: bool,
    /// Revision of the plan after which was swept.
    swept: i64,
    /// Slots that were told to go and are still shown: the next plan may name them again.
    going: BTreeSet<u128>,
    /// It has waited for members that may be about to return.
    has_waited: bool,
}

/// What this machine tells the others of agents.
#[derive(Debug, Default)]
struct Hearing {
    /// What it has heard; `None`: it does not listen.
    own: Option<ReceivedValue>,
    /// What it tells, or told last.
    told: ReceivedValue,
    /// `told` as it is written.
    bytes: Vec<u8>,
    /// When that last changed.
    since: Option<Tick>,
    /// `own` has changed since.
    is_due: bool,
    /// What others had heard, and the step in force, when it was last looked whether they know what is over.
    looked_at: (u64, u64),
    /// Registrations that did not fit.
    rest: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Participant {
    own: Own,
    /// This machine's own configuration.
    own_text: String,
    member: Option<Member>,
    /// There was a cluster when it became that member.
    joins: bool,
    /// Since when the store has no plan for it to join by.
    planless_since: Option<Tick>,
    follower: Option<Follower>,
    snapshot: StoreSnapshot,
    stock: Stock,
    /// Longest value that it writes, bytes.
    value_max: usize,
    /// Connected, and the snapshot is whole.
    is_connected: bool,
    document: Option<Arc<Document>>,
    /// Revision of the plan that was looked at last.
    looked_at: i64,
    /// Who founded the cluster whose plan the store has.
    stored_founder: Option<Member>,
    /// Until when others may be about to return to the store as this machine has; `None`: it has not returned.
    returns_until: Option<Tick>,
    /// It has returned since the last turn.
    has_returned: bool,
    /// Where machines take messages, as they have said last: a store that has lost its data does not know it, and they go on.
    addresses: BTreeMap<MachineId, IpAddr>,
    /// One has changed, or come.
    addresses_changed: bool,
    /// Names of machines and the wish, as the store had them when it was reached before.
    names: BTreeMap<MachineId, MachineValue>,
    last_wish: Option<(DesiredValue, i64)>,
    /// The wish that a store has lost, and the revision of the one that it has instead.
    lost_wish: Option<(DesiredValue, i64)>,
    /// Why what the store says does not fit this machine.
    misfit: Option<String>,
    lead: Option<Lead>,
    acknowledged: Option<Acknowledgement>,
    health: Vec<u8>,
    hearing: Hearing,
    /// Weights that are not the configured ones, should this machine lead.
    weights: Arc<HashMap<BackendId, u32>>,
    is_leaving: bool,
    has_given_up: bool,
    /// A plan that did not fit into the store is not tried again before.
    rests_until: Option<Tick>,
    /// A plan counted on this machine.
    was_counted_on: bool,
    /// What was ordered since the key last changed.
    ordered: BTreeMap<Key, Vec<u8>>,
    news: Vec<News>,
    #[cfg(feature = "negative-controls")]
    broken: Option<statesync::Rule>,
}

impl Participant {
    /// Its store takes no longer values than these, bytes.
    #[cfg(test)]
    pub(crate) fn set_value_max(&mut self, bytes: usize) {
        self.value_max = bytes;
    }

    /// Of a machine that has not met the store yet. `own_text` is its configuration.
    pub(crate) fn new(own: Own, own_text: String) -> Participant {
        Participant {
            stock: Stock::new(own.key),
            value_max: VALUE_MAX,
            own,
            own_text,
            member: None,
            joins: false,
            planless_since: None,
            follower: None,
            snapshot: StoreSnapshot::default(),
            is_connected: false,
            document: None,
            looked_at: 0,
            stored_founder: None,
            returns_until: None,
            has_returned: false,
            addresses: BTreeMap::new(),
            addresses_changed: false,
            names: BTreeMap::new(),
            last_wish: None,
            lost_wish: None,
            misfit: None,
            lead: None,
            weights: Arc::default(),
            acknowledged: None,
            health: keys::bytes(&HealthValue::default()),
            hearing: Hearing::default(),
            is_leaving: false,
            has_given_up: false,
            rests_until: None,
            was_counted_on: false,
            ordered: BTreeMap::new(),
            news: Vec::new(),
            #[cfg(feature = "negative-controls")]
            broken: None,
        }
    }

    /// The rule holds no more, should this machine lead.
    #[cfg(feature = "negative-controls")]
    pub(crate) fn break_rule(&mut self, rule: statesync::Rule) {
        self.broken = Some(rule);
    }

    /// What the store shows.
    pub(crate) fn snapshot(&self) -> &StoreSnapshot {
        &self.snapshot
    }

    /// The document in force here.
    pub(crate) fn document(&self) -> Option<&Arc<Document>> {
        self.document.as_ref()
    }

    /// AgreedTables by recipe.
    pub(crate) fn tables(&self) -> &AgreedTables {
        &self.stock.tables
    }

    /// From now on what takes long is [made elsewhere](Self::take_missing): all but so many slots in a turn.
    pub(crate) fn make_elsewhere(&mut self, slots: u64) {
        self.stock.make_elsewhere(slots);
    }

    /// What is to be made elsewhere now; then it is [brought](Self::made).
    pub(crate) fn take_missing(&mut self) -> Option<Missing> {
        self.stock.take_missing()
    }

    /// Whether something is being made elsewhere.
    pub(crate) fn is_making(&self) -> bool {
        self.stock.is_making()
    }

    /// What was to be made is there.
    pub(crate) fn made(&mut self, lot: Lot) {
        self.stock.put(lot);
    }

    /// This machine's own configuration with services; `None`: that is still being read.
    pub(crate) fn read(&mut self, services: &str) -> Option<Arc<Reading>> {
        self.stock.readings.get(&self.own_text, services)
    }

    /// Who this machine is, once the store has said so.
    pub(crate) fn member(&self) -> Option<Member> {
        self.member
    }

    /// Whether this machine leads.
    pub(crate) fn leads(&self) -> bool {
        self.lead.is_some()
    }

    /// Why what the store says does not fit this machine: it goes on by the last plan, and should get no new traffic.
    pub(crate) fn misfit(&self) -> Option<&str> {
        self.misfit.as_deref()
    }

    /// Whether its join has committed, and nothing speaks against it.
    pub(crate) fn is_ready(&self) -> bool {
        self.misfit.is_none() && self.is_member()
    }

    /// Whether its join has committed.
    pub(crate) fn is_member(&self) -> bool {
        let plan = self.document.as_ref().map(|document| &document.plan);
        self.member.zip(plan).is_some_and(|(member, plan)| plan.owners().is_ready(member))
    }

    /// The last step that all workers have done.
    pub(crate) fn done(&self) -> u64 {
        self.follower.as_ref().map_or(0, Follower::done)
    }

    /// Whether something is under way that should not wait for the usual housekeeping.
    pub(crate) fn is_busy(&self) -> bool {
        let step = self.document.as_ref().map_or(0, |document| document.plan.step);
        let masks = self.lead.as_ref().is_some_and(|lead| {
            lead.is_writing
                || lead.leading.is_waiting()
                || lead.leading.document().plan.masks.iter().any(|mask| !mask.in_force)
        });
        self.done() < step || masks || self.hearing.is_due || self.stock.is_making()
    }

    /// Who is waited for, as the leader knows.
    pub(crate) fn lagging(&self) -> Vec<Member> {
        self.lead
            .as_ref()
            .map_or_else(Vec::new, |lead| lead.leading.lagging(&self.snapshot.live(&self.own.settings)))
    }

    /// This machine's own configuration was read again. `agents`: where agents reach it.
    pub(crate) fn set_own_text(&mut self, text: String, agents: Option<SocketAddr>) {
        self.own_text = text;
        self.own.agents = agents;
        // Files that it names may hold something else, too.
        self.stock.readings.forget();
    }

    /// What checks say here.
    pub(crate) fn set_health(&mut self, health: &HealthValue) {
        self.health = keys::bytes(health);
    }

    /// Whether the newest plan that the store shows was looked at, and is in force here unless it could not be read.
    pub(crate) fn is_current(&self) -> bool {
        self.is_connected && self.looked_at == self.snapshot.revision(Key::Plan)
    }

    /// What agents have told this machine; the rest is silence, which changes nothing. After each connection to the store nothing is told before
    /// this is called again, which should be when the machine [is current](Self::is_current): what it heard may be over since.
    pub(crate) fn set_received(&mut self, heard: ReceivedValue) {
        self.hearing.is_due |= self.hearing.own.as_ref() != Some(&heard);
        self.hearing.own = Some(heard);
    }

    /// Weights for the next table that are not the configured ones, should this machine lead.
    pub(crate) fn set_weights(&mut self, weights: HashMap<BackendId, u32>) {
        if *self.weights != weights {
            self.weights = Arc::new(weights);
        }
    }

    /// The machine wants to go.
    pub(crate) fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// Whether the others go on without this machine, which wanted to go.
    pub(crate) fn has_left(&self) -> bool {
        let Some(member) = self.member else { return true };
        self.is_leaving
            && self.document.as_ref().is_none_or(|document| {
                let plan = &document.plan;
                let is_listed = plan.members.contains(member)
                    || plan.next_members.as_ref().is_some_and(|next| next.contains(member));
                !is_listed || plan.members.len() < 2
            })
    }

    /// The store has said who this machine is, and whether it joins a cluster that was there. It does so again after every connection;
    /// only the first counts.
    pub(crate) fn identified(&mut self, member: Member, joins: bool) {
        if self.member.is_none() {
            self.joins = joins;
            self.member = Some(member);
            self.follower = Some(Follower::new(member, self.own.cores));
        }
    }

    /// The store was reached, and this is all that is in it.
    pub(crate) fn connected(&mut self, changes: Vec<KeyChange>) {
        let before = std::mem::take(&mut self.snapshot);
        if before.entry(Key::Plan).is_some() {
            self.names.clear();
        }
        self.names.extend(before.machines().iter().map(|(machine, of)| (*machine, of.clone())));
        if let Some((wish, revision)) = before.wish() {
            self.last_wish = Some((wish.clone(), revision));
        }
        self.ordered.clear();
        // Revisions may be another store's: what is there is looked at anew.
        self.looked_at = 0;
        self.stored_founder = None;
        self.returns_until = None;
        self.has_returned = self.document.is_some();
        self.is_connected = true;
        // What it heard before may be over since: that is seen when it has adopted what is in force.
        self.hearing = Hearing { told: std::mem::take(&mut self.hearing.told), ..Hearing::default() };
        self.lead = None;
        self.changed(changes);
    }

    /// The store is not reached any more. Everything goes on as it is.
    pub(crate) fn disconnected(&mut self) {
        self.is_connected = false;
        self.ordered.clear();
        self.lead = None;
    }

    /// Keys have changed.
    pub(crate) fn changed(&mut self, changes: Vec<KeyChange>) {
        for change in changes {
            self.ordered.remove(&change.0);
            if let (Key::Slots(digest), Some(lead)) = (change.0, &mut self.lead) {
                lead.going.remove(&digest);
            }
            if let Err(problem) = self.snapshot.change(change) {
                self.news.push(News::Warning(format!("in the store: {problem}")));
            }
        }
        for (of, value) in self.snapshot.members() {
            let known = self.addresses.insert(of.machine, value.address);
            self.addresses_changed |= known != Some(value.address);
        }
    }

    /// The other machines that live, or that the plan counts on, and where they take messages.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (MachineId, IpAddr)> + '_ {
        let own = self.member.map(|member| member.machine);
        let plan = self.document.as_ref().map(|document| &document.plan);
        let is_counted_on = move |machine: MachineId| {
            let lists = |members: &statesync::Members| members.incarnation(machine).is_some();
            plan.is_some_and(|plan| lists(&plan.members) || plan.next_members.as_ref().is_some_and(lists))
        };
        let lives = |machine: MachineId| self.snapshot.members().any(|(of, _)| of.machine == machine);
        let addresses = self.addresses.iter().map(|(machine, address)| (*machine, *address));
        addresses.filter(move |(of, _)| Some(*of) != own && (is_counted_on(*of) || lives(*of)))
    }

    /// Whether an address of theirs has changed since the last call.
    pub(crate) fn take_addresses_changed(&mut self) -> bool {
        std::mem::take(&mut self.addresses_changed)
    }

    /// Leaving could not be ordered.
    pub(crate) fn not_left(&mut self) {
        if let Some(member) = self.member {
            self.ordered.remove(&Key::Member(member.machine));
        }
    }

    /// A value was not put, because the plan was another one.
    pub(crate) fn not_put(&mut self, key: Key) {
        self.ordered.remove(&key);
    }

    /// A plan was written, as this revision, or not.
    pub(crate) fn plan_written(&mut self, revision: Option<i64>) {
        match (revision, &mut self.lead) {
            (Some(revision), Some(lead)) => {
                lead.after = revision;
                lead.is_writing = false;
            }
            // Somebody else was faster. What is there now is gone on from.
            (None, Some(_)) => self.lead = None,
            (_, None) => {}
        }
    }

    /// A worker reports.
    pub(crate) fn report(&mut self, core: CoreId, report: Report) {
        if let Some(follower) = &mut self.follower {
            follower.report(core, report);
        }
    }

    /// What happened since the last time.
    pub(crate) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Takes in what is known by now, and says what is to be put into the store.
    pub(crate) fn poll(&mut self, now: Tick) -> Vec<StoreOrder> {
        let mut orders = Vec::new();
        let Some(member) = self.member else { return orders };
        self.stock.next_round();
        if std::mem::take(&mut self.has_returned) {
            self.returns_until = Some(Tick(now.0.saturating_add(RETURN_US)));
        }
        self.look_at_plan();
        if self.has_given_up || self.has_lost_its_cluster(now) {
            return orders;
        }
        if let Some(acknowledgement) = self.follower.as_mut().and_then(Follower::acknowledge) {
            self.acknowledged = Some(acknowledgement);
        }
        if !self.is_connected || !self.fits(member) || !self.stand(member, &mut orders) {
            return orders;
        }
        self.register(member, &mut orders);
        self.put_own(member, now, &mut orders);
        self.put_received(member, now, &mut orders);
        self.lead(member, now, &mut orders);
        orders
    }

    /// The store has lost the plan that this machine was to join by, and nobody has put it back in time: it gives up. When it starts again
    /// it waits for that plan once more, and founds a cluster if there is none.
    fn has_lost_its_cluster(&mut self, now: Tick) -> bool {
        let is_planless = self.joins
            && self.is_connected
            && self.document.is_none()
            && self.snapshot.entry(Key::Plan).is_none();
        if !is_planless {
            self.planless_since = None;
            return false;
        }
        let since = *self.planless_since.get_or_insert(now);
        let is_lost = now.since_us(since) >= RETURN_US;
        if is_lost {
            self.give_up(
                "the store has lost the plan of the cluster before this machine had joined it".to_owned(),
            );
        }
        is_lost
    }

    /// Adopts a newer plan.
    fn look_at_plan(&mut self) {
        let Some(entry) = self.snapshot.entry(Key::Plan) else { return self.stored_founder = None };
        if entry.revision == self.looked_at || self.stock.is_making() {
            return;
        }
        let revision = entry.revision;
        let document = match Document::decode(
            &entry.value,
            |digest| self.snapshot.slots(digest),
            &mut self.stock.tables,
        ) {
            // They were put before the plan; so they come, unless another plan has come meanwhile.
            Err(DecodeError::Missing(_) | DecodeError::Tables) => return,
            other => other,
        };
        self.looked_at = revision;
        let document = match document {
            Ok(document) => document,
            Err(problem) => return self.news.push(News::Warning(format!("in the store: {problem}"))),
        };
        self.stored_founder = document.founder;
        if self.document.as_ref().is_some_and(|own| own.is_of_another(document.founder)) {
            return;
        }
        if let Some(key) = document.settings.difference(&self.own.settings) {
            let help = "all machines of a cluster need the same";
            return self.give_up(format!("{key} differs from the cluster's: {help}"));
        }
        let Some(follower) = &mut self.follower else { return };
        let plan = Arc::new(document.plan.clone());
        let known = self.document.as_ref().map_or(0, |known| known.plan.step);
        // An older one may be in a store that has lost its data; ours is newer.
        let is_newer = follower.offer(&plan);
        let is_other = || self.document.as_deref() != Some(&document);
        if is_newer || document.plan.step == known && is_other() {
            self.document = Some(Arc::new(document));
            self.stock.tables.keep_used();
            self.news.push(News::Adopted);
        }
    }

    /// This machine cannot be a member (any more), and says nothing more to the store.
    fn give_up(&mut self, problem: String) {
        self.has_given_up = true;
        self.news.push(News::Fatal(problem));
    }

    /// Whether this machine can act as who it is. If the store gives its number to another, or has the plan of another cluster, a machine that
    /// has no plan yet gives up; one that forwards by a plan goes on doing that, and no more: its flows are worth more than its place.
    fn fits(&mut self, member: Member) -> bool {
        let (machine, name) = (member.machine, &self.own.name);
        let number = machine.0;
        let alive = self.snapshot.alive(machine).filter(|of| of.name != *name).map(|of| &of.name);
        let registered =
            self.snapshot.machines().get(&machine).filter(|of| of.name != *name).map(|of| &of.name);
        let is_other = self.document.as_ref().is_some_and(|own| own.is_of_another(self.stored_founder));
        let misfit = if is_other {
            let cluster = "is of another cluster, founded after this store had lost its data";
            Some(format!(
                "the plan in the store {cluster}: restart this machine to join it, or delete {}",
                keys::PREFIX
            ))
        } else if let Some(other) = alive {
            Some(format!(
                "machine number {number} is used by {other:?} as well as by this machine, {name:?}: \
                 restart the one that may lose its flows"
            ))
        } else {
            registered.map(|other| {
                let key = Key::Machine(machine).text();
                format!(
                    "machine number {number} is registered for {other:?} and used by this machine, \
                     {name:?}: delete {key}, or restart this machine"
                )
            })
        };
        self.misfit = misfit;
        let Some(misfit) = &self.misfit else { return true };
        if self.document.is_none() {
            self.give_up(misfit.clone());
            return false;
        }
        // As long as the others count on it, they wait for what it says.
        let is_counted_on = !is_other
            && self.snapshot.members().any(|(of, value)| of == member && value.name == self.own.name);
        if !is_counted_on {
            self.lead = None;
        }
        is_counted_on
    }

    /// Numbers stay those of their machines, also when the store has lost them.
    fn register(&mut self, member: Member, orders: &mut Vec<StoreOrder>) {
        let own = MachineValue { name: self.own.name.clone(), incarnation: member.incarnation };
        let is_there = |machine: MachineId| self.snapshot.machines().get(&machine);
        let mut missing = Vec::new();
        // Another name is not overwritten.
        if is_there(member.machine).is_none_or(|of| of.name == own.name && of.incarnation < own.incarnation) {
            missing.push((member.machine, own));
        }
        let is_lost = self.snapshot.entry(Key::Plan).is_none();
        if let Some(document) = self.document.as_ref().filter(|_| is_lost) {
            let plan = &document.plan;
            let listed =
                plan.members.iter().chain(plan.next_members.iter().flat_map(statesync::Members::iter));
            let last: BTreeMap<MachineId, u32> =
                document.former.iter().chain(listed).map(|of| (of.machine, of.incarnation)).collect();
            for (&machine, of) in self.names.iter().filter(|(machine, _)| **machine != member.machine) {
                if is_there(machine).is_none() {
                    let incarnation =
                        last.get(&machine).map_or(of.incarnation, |last| of.incarnation.max(*last));
                    missing.push((machine, MachineValue { name: of.name.clone(), incarnation }));
                }
            }
        }
        for (machine, value) in missing {
            let (key, value) = (Key::Machine(machine), keys::bytes(&value));
            if self.ordered.get(&key) != Some(&value) {
                self.ordered.insert(key, value.clone());
                orders.push(StoreOrder::Register { machine, value, after: self.snapshot.revision(key) });
            }
        }
    }

    /// Whether this machine is one that the others know. Says so if it was not said yet.
    fn stand(&mut self, member: Member, orders: &mut Vec<StoreOrder>) -> bool {
        let other = self.snapshot.members().map(|(known, _)| known).find(|of| of.machine == member.machine);
        if other.is_some_and(|known| known.incarnation > member.incarnation) {
            let name = &self.own.name;
            let problem =
                format!("another machine has started under the name {name:?}; every machine needs its own");
            self.give_up(problem);
            return false;
        }
        let plan = self.document.as_ref().map(|document| &document.plan);
        let counts = plan.is_some_and(|plan| plan.concerns(member));
        self.was_counted_on |= counts;
        // It may have entries that nobody knows of, so it must not come back as the same one.
        if self.was_counted_on && !counts && !self.is_leaving {
            let problem = "the other machines have given this one up, because its lease in the store \
                           had ended; it must start again";
            self.give_up(problem.to_owned());
            return false;
        }
        let value = keys::bytes(&MemberValue {
            name: self.own.name.clone(),
            incarnation: member.incarnation,
            address: self.own.address,
            version: self.own.version.clone(),
            settings: self.own.settings.clone(),
            leaving: self.is_leaving,
            agents: self.own.agents,
            founder: self
                .document
                .as_ref()
                .and_then(|document| document.founder)
                .map(|of| (of.machine.0, of.incarnation)),
        });
        if self.is_leaving && self.has_left() {
            if other.is_some() && self.ordered.insert(Key::Member(member.machine), Vec::new()).is_none() {
                orders.push(StoreOrder::Leave);
            }
            return false;
        }
        // Nobody has begun to go on without it: the plan is still the one that was looked at.
        let if_plan = Some(self.snapshot.revision(Key::Plan));
        self.put(Key::Member(member.machine), value, if_plan, orders);
        other == Some(member)
    }

    /// Orders a value unless the store shows it, or it is on its way.
    fn put(&mut self, key: Key, value: Vec<u8>, if_plan: Option<i64>, orders: &mut Vec<StoreOrder>) {
        let is_there = self.snapshot.entry(key).is_some_and(|entry| entry.value == value);
        if !is_there && self.ordered.get(&key) != Some(&value) {
            self.ordered.insert(key, value.clone());
            orders.push(StoreOrder::Put { key, value, if_plan });
        }
    }

    fn put_own(&mut self, member: Member, now: Tick, orders: &mut Vec<StoreOrder>) {
        let in_force = self.document.as_ref().map_or(0, |document| document.plan.step);
        let returns = self.is_returning(now);
        if let Some(acknowledged) = &self.acknowledged {
            let services = self.document.as_ref().map_or(0, |document| document.services.len());
            let refused = &acknowledged.refused;
            let value = keys::bytes(&AcknowledgementValue {
                incarnation: member.incarnation,
                step: acknowledged.step,
                known: (returns && in_force > acknowledged.step).then_some(in_force),
                refused: if refused.is_empty() {
                    Vec::new()
                } else {
                    let of =
                        |at| refused.service(at).map_or_else(String::new, |set| slot_text::write(set.iter()));
                    (0..services).map(of).collect()
                },
                incomplete: acknowledged.incomplete,
            });
            self.put(Key::Acknowledgement(member.machine), value, None, orders);
        }
        let value = self.health.clone();
        self.put(Key::Health(member.machine), value, None, orders);
    }

    fn put_received(&mut self, member: Member, now: Tick, orders: &mut Vec<StoreOrder>) {
        let Some(own) = &self.hearing.own else { return };
        let step = self.document.as_ref().map_or(0, |document| document.plan.step);
        let looked_at = (self.snapshot.received_version(), step);
        // Those that are over are told until all know it, and again when one is in force that was not when it was told: the leader
        // may have let it in just before.
        let is_over = !self.hearing.told.over.is_empty() || !own.over.is_empty();
        let looks = self.hearing.is_due || is_over && self.hearing.looked_at != looked_at;
        let may = self.hearing.since.is_none_or(|since| now.since_us(since) >= RECEIVED_US);
        if looks && may {
            let others =
                self.snapshot.received().filter(|(of, _)| *of != member.machine).map(|(_, value)| value);
            let in_force = self.document.as_ref().map_or(&[][..], |document| &document.registered);
            let told = registrations::to_tell(own.clone(), &self.hearing.told, in_force, others);
            self.hearing.is_due = false;
            self.hearing.looked_at = looked_at;
            if told != self.hearing.told || self.hearing.bytes.is_empty() {
                let (bytes, rest) = registrations::written(&told, REGISTERED_MAX);
                if rest > self.hearing.rest {
                    self.news.push(News::Warning(format!(
                        "{rest} registrations that this machine has heard do not fit into the store: \
                         the cluster takes them from it when others have gone, or from another machine"
                    )));
                }
                self.hearing.rest = rest;
                self.hearing.bytes = bytes;
                self.hearing.told = told;
                self.hearing.since = Some(now);
            }
        }
        let key = Key::Received(member.machine);
        let value = &self.hearing.bytes;
        let is_there = self.snapshot.entry(key).is_some_and(|entry| entry.value == *value);
        if !value.is_empty() && !is_there && self.ordered.get(&key) != Some(value) {
            self.put(key, value.clone(), None, orders);
        }
    }

    fn lead(&mut self, member: Member, now: Tick, orders: &mut Vec<StoreOrder>) {
        let own_value = keys::bytes(&LeaderValue::from(member));
        let own_step = self.document.as_ref().map_or(0, |document| document.plan.step);
        // Whoever leads must know the newest plan, also after the store has lost it; and nobody founds a cluster where one is.
        let may_found = self.document.is_some()
            || self.snapshot.entry(Key::Plan).is_some()
            || !self.joins && self.snapshot.members().all(|(_, value)| value.founder.is_none());
        let knows_newest = own_step >= self.snapshot.last_step() && may_found;
        // Who does not live leads nobody, nor does what cannot be read: neither is under a lease that ends, or it would be gone.
        let lives = |of: &Member| *of == member || self.snapshot.members().any(|(alive, _)| alive == *of);
        match self.snapshot.leader().filter(lives) {
            Some(leader) if leader == member => {
                if !knows_newest {
                    self.lead = None;
                    if self.ordered.insert(Key::Leader, own_value.clone()).as_ref() != Some(&own_value) {
                        orders.push(StoreOrder::Resign(own_value));
                    }
                    return;
                }
            }
            Some(_) => return self.lead = None,
            None => {
                self.lead = None;
                if knows_newest && self.ordered.get(&Key::Leader) != Some(&own_value) {
                    self.ordered.insert(Key::Leader, own_value.clone());
                    let after = self.snapshot.revision(Key::Leader);
                    orders.push(StoreOrder::Lead { value: own_value, after });
                }
                return;
            }
        }
        if self.lead.is_none() {
            self.begin_to_lead(member, now);
        }
        let waits = self.waits(now);
        let Some(lead) = &mut self.lead else { return };
        if lead.is_writing {
            return;
        }
        if self.rests_until.is_some_and(|until| now < until) {
            return;
        }
        let unwritten = std::mem::take(&mut lead.is_unwritten);
        lead.leading.set_weights(&self.weights);
        let next =
            !waits && lead.leading.poll(&self.snapshot, &self.own_text, &mut self.stock, now).is_some();
        if let Some(problem) = lead.leading.take_problem() {
            self.news.push(News::Warning(problem));
        }
        if !next && !unwritten {
            return self.sweep(&own_value, orders);
        }
        match lead.leading.document().encode(&self.stock.tables, self.value_max) {
            Ok(mut document) => {
                lead.is_writing = true;
                // What somebody has overwritten is put again.
                let is_there = |digest, slots: &[u8]| {
                    !lead.going.contains(&digest) && self.snapshot.slots(digest) == Some(slots)
                };
                document.slots.retain(|(digest, slots)| !is_there(*digest, slots));
                orders.push(StoreOrder::Plan { document, after: lead.after, leader: own_value });
            }
            Err(problem) => {
                self.news.push(News::Warning(problem));
                // What was not written was not done. It would be the same at once.
                self.lead = None;
                self.rests_until = Some(Tick(now.0 + REST_US));
            }
        }
    }

    /// Slots that the plan names no more go, once after every plan.
    fn sweep(&mut self, leader: &[u8], orders: &mut Vec<StoreOrder>) {
        let (Some(lead), Some(entry)) = (&mut self.lead, self.snapshot.entry(Key::Plan)) else { return };
        if entry.revision != lead.after || lead.swept == lead.after {
            return;
        }
        lead.swept = lead.after;
        let named = digests_of(&entry.value);
        let mut rest = self.snapshot.digests().filter(|digest| !named.contains(digest)).peekable();
        while rest.peek().is_some() {
            let digests: Vec<u128> = rest.by_ref().take(SWEPT_AT_ONCE).collect();
            lead.going.extend(&digests);
            orders.push(StoreOrder::Sweep { digests, if_plan: lead.after, leader: leader.to_vec() });
        }
    }

    /// Others may be about to return to the store, too.
    fn is_returning(&self, now: Tick) -> bool {
        self.returns_until.is_some_and(|until| now < until)
    }

    /// Whether the next step has to wait, because what is known may not be all: members may be about to return, with a newer plan
    /// perhaps, or the wish of a store that has lost it is on its way. When the time for that is over, the plan gets a step that nobody can have.
    fn waits(&mut self, now: Tick) -> bool {
        let returns = self.is_returning(now);
        let Some(lead) = &mut self.lead else { return false };
        let plan = &lead.leading.document().plan;
        let listed = plan.members.iter().chain(plan.next_members.iter().flat_map(statesync::Members::iter));
        let is_missing = |of: Member| !plan.lost.contains(of) && !self.snapshot.has_spoken(of);
        if listed.filter(|of| Some(*of) != self.member).any(is_missing) {
            if returns {
                lead.has_waited = true;
                return true;
            }
            if std::mem::take(&mut lead.has_waited) && !lead.is_writing {
                let Some(lead) = self.lead.take() else { return false };
                #[cfg_attr(
                    not(feature = "negative-controls"),
                    expect(unused_mut, reason = "a rule is broken in tests")
                )]
                let mut leading = lead.leading.leap(now);
                #[cfg(feature = "negative-controls")]
                leading.break_rules(self.broken);
                self.lead = Some(Lead { leading, is_unwritten: true, ..lead });
            }
        }
        returns && self.wish_to_put_back().is_some()
    }

    /// The wish that a store has lost, if this machine leads and should put it back: the last one that was seen, or what is in force.
    pub(crate) fn wish_to_put_back(&self) -> Option<DesiredValue> {
        self.lead.as_ref()?;
        let revision = self.snapshot.revision(Key::Desired);
        let lost = self.lost_wish.as_ref().filter(|(_, instead)| *instead == revision).map(|(wish, _)| wish);
        let wish = match lost {
            Some(wish) => wish.clone(),
            None if self.snapshot.wish().is_none() => self.wish_in_force()?,
            None => return None,
        };
        let is_there =
            |(known, _): (&DesiredValue, i64)| known.text == wish.text && known.drains == wish.drains;
        (!self.snapshot.wish().is_some_and(is_there)).then_some(wish)
    }

    fn wish_in_force(&self) -> Option<DesiredValue> {
        let document = self.document.as_ref().filter(|document| !document.text.is_empty())?;
        Some(DesiredValue {
            text: document.text.clone(),
            drains: document.drains.clone(),
            by: self.own.name.clone(),
            unix_ms: 0,
        })
    }

    /// From the newest document there is: the store's, unless it is older than what is in force here.
    fn begin_to_lead(&mut self, member: Member, now: Tick) {
        if self.stock.is_making() {
            return;
        }
        let entry = self.snapshot.entry(Key::Plan);
        let after = entry.map_or(0, |entry| entry.revision);
        let slots = |digest| self.snapshot.slots(digest);
        let stored = match entry.map(|entry| Document::decode(&entry.value, slots, &mut self.stock.tables)) {
            None => None,
            Some(Ok(document)) => Some(document),
            // It was told when it was looked at, or comes to be readable, with its slots or its tables. Nobody overwrites what he cannot read.
            Some(Err(_)) => return,
        };
        let own = self.document.as_deref();
        let (document, is_unwritten) = match (stored, own) {
            (Some(stored), Some(own)) if own.plan.step <= stored.plan.step => (stored, false),
            (Some(stored), None) => (stored, false),
            // The store has lost its data, or some of it.
            (_, Some(own)) => {
                let last = self.last_wish.as_ref().filter(|(_, revision)| *revision > own.wish);
                let wish = last.map(|(wish, _)| wish.clone()).or_else(|| self.wish_in_force());
                let document = own.clone().for_another_store();
                self.lost_wish = wish.map(|wish| (wish, self.snapshot.revision(Key::Desired)));
                (document, true)
            }
            (None, None) => {
                let live = self.snapshot.live(&self.own.settings);
                (Document::first(live, self.own.settings.clone(), member), true)
            }
        };
        #[cfg_attr(
            not(feature = "negative-controls"),
            expect(unused_mut, reason = "a rule is broken in tests")
        )]
        let mut leading = Leading::new(document, now);
        #[cfg(feature = "negative-controls")]
        leading.break_rules(self.broken);
        self.lead = Some(Lead {
            leading,
            after,
            is_writing: false,
            is_unwritten,
            swept: 0,
            going: BTreeSet::new(),
            has_waited: false,
        });
    }
}

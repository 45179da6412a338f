//! The connection to etcd: carries out orders, says what is there, and keeps the lease.
//!
//! Rule of this module: it decides nothing. Whatever goes wrong ends the session; the next one reads everything anew, so nothing has to be
//! remembered but the lease, which outlives a session if etcd still has it.

use super::StoreRequest;
use super::pieces::{self, Cut, Pieces};
use crate::cluster::desire::Desire;
use crate::cluster::document::numbers_of;
use crate::cluster::keys::{self, Key, MachineValue, MemberValue, PREFIX};
use crate::cluster::participant::StoreOrder;
use crate::cluster::snapshot::{KeyChange, StoredValue};
use crate::cluster::store_event::StoreEvent;
use crate::event::Event;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions, Identity,
    KeyValue, KvClient, LeaseClient, LeaseKeepAliveStream, LeaseKeeper, PutOptions, TlsOptions, Txn, TxnOp,
    TxnOpResponse, WatchOptions, WatchStream,
};
use model::config;
use statesync::Member;
use statesync::number::{self, Known, NumberError};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, timeout};

/// How long a machine that says nothing counts as alive, seconds. Flows do not wait for it: machines hear each other.
const LEASE_S: i64 = 5;
/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(1);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Pauses before the store is tried again: the first, and the longest, which a lease survives.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// How long a machine that starts waits for a plan before it founds a cluster: machines that run put theirs back into a store that has lost
/// its data, and try it after the longest pause and a connection that is not answered.
const FOUNDING: Duration = Duration::from_secs(3);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);
/// A connection that lasted this long was a good one.
const STEADY: Duration = Duration::from_secs(10);
/// Largest message taken.
const MESSAGE_MAX: usize = 64 << 20;
/// Keys that are read at once: of pieces so many are less than [`MESSAGE_MAX`].
const PAGE: i64 = 32;
/// Most old pieces that one transaction takes away; etcd takes 128 operations.
const STALE_MAX: usize = 100;
/// How often a number is tried to get, while others do the same.
const NUMBER_TRIES: usize = 16;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("{}", short(.0))]
    Store(#[from] etcd_client::Error),
    #[error("no answer within {} s", ANSWER.as_secs())]
    Silent,
    #[error("cannot read {file}: {problem}")]
    File { file: String, problem: String },
    #[error("the store closed the {0}")]
    Closed(&'static str),
    #[error("{0}; delete {PREFIX}machines/N of one that is no more")]
    Number(#[from] NumberError),
    #[error(
        "another machine, at {0}, lives under this machine's name: every machine needs its own; if it \
         was this one, wait until its lease of {LEASE_S} s has ended"
    )]
    Namesake(IpAddr),
    #[error("others change {PREFIX}machines all the time")]
    Restless,
    #[error("the plan in the store says which numbers are used, and cannot be read: {0}")]
    Plan(String),
}

impl SessionError {
    /// Whether trying again is of no use.
    fn is_final(&self) -> bool {
        matches!(self, SessionError::Number(NumberError::Used { .. }) | SessionError::Namesake(_))
    }
}

/// What an error says, without what its libraries say of themselves, and what is at the bottom of it: "refused" rather than
/// "cannot connect" alone.
fn short(error: &etcd_client::Error) -> String {
    let (text, error): (String, &dyn std::error::Error) = match error {
        etcd_client::Error::GRpcStatus(status) => (status.message().to_owned(), status),
        other => (other.to_string(), other),
    };
    let cause = std::iter::successors(error.source(), |error| error.source()).last().map(ToString::to_string);
    match cause {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text,
    }
}

/// Keeps the connection until the owner is gone. `own`: name and address of this machine.
pub(crate) async fn keep(
    cluster: config::Cluster,
    own: (String, IpAddr),
    mut asked: mpsc::Receiver<StoreRequest>,
    events: mpsc::Sender<Event>,
) {
    let (name, address) = own;
    let mut keeper = StoreKeeper { cluster, name, address, member: None, lease: None };
    let mut pause = PAUSES.0;
    loop {
        let begun = Instant::now();
        let reason = match keeper.session(&mut asked, &events).await {
            // The owner is gone.
            Ok(()) => return,
            Err((error, _)) if error.is_final() => {
                let _ = events.send(Event::Store(StoreEvent::Unfit(error.to_string()))).await;
                return;
            }
            Err((error, was_connected)) => {
                // Not after one that ended at once: it would do so again and again.
                if was_connected && begun.elapsed() > STEADY {
                    pause = PAUSES.0;
                }
                error.to_string()
            }
        };
        if events.send(Event::Store(StoreEvent::Disconnected(reason.clone()))).await.is_err() {
            return;
        }
        let until = Instant::now() + pause;
        pause = (pause * 2).min(PAUSES.1);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => break,
                next = asked.recv() => match next {
                    Some(StoreRequest::Desire { reply, .. }) => drop(reply.send(Err(reason.clone()))),
                    Some(StoreRequest::Order(StoreOrder::Leave)) | None => return,
                    // It comes again when the store is reached.
                    Some(StoreRequest::Order(_)) => {}
                },
            }
        }
    }
}

/// Waits for an answer, but not for ever.
async fn within<T>(answer: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, SessionError> {
    Ok(timeout(ANSWER, answer).await.map_err(|_| SessionError::Silent)??)
}

struct StoreKeeper {
    cluster: config::Cluster,
    name: String,
    address: IpAddr,
    /// Who it is, and whether it joins a cluster that was there.
    member: Option<(Member, bool)>,
    lease: Option<i64>,
}

impl StoreKeeper {
    /// One connection. With the error: whether it had come about.
    async fn session(
        &mut self,
        asked: &mut mpsc::Receiver<StoreRequest>,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), (SessionError, bool)> {
        let mut session = self.begin(events).await.map_err(|error| (error, false))?;
        session.run(asked, events).await.map_err(|error| (error, true))
    }

    async fn begin(&mut self, events: &mpsc::Sender<Event>) -> Result<StoreSession, SessionError> {
        let client = within(Client::connect(&self.cluster.endpoints, Some(self.options().await?))).await?;
        let mut kv = client.kv_client().max_decoding_message_size(MESSAGE_MAX);
        let mut leases = client.lease_client();
        let (lease, mut keeper, renewals) = self.lease(&mut leases).await?;
        if self.member.is_none() {
            self.member = Some(self.number(&mut kv).await?);
        }
        // All that is there, and from then on what changes.
        let (all, revision) = all(&mut kv, &mut keeper).await?;
        let pieces = pieces_of(&all);
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let mut watch_client = client.watch_client().max_decoding_message_size(MESSAGE_MAX);
        let watch = within(watch_client.watch(PREFIX, Some(options))).await?;
        if let Some((member, joins)) = self.member {
            let _ = events.send(Event::Store(StoreEvent::Identified { member, joins })).await;
        }
        let changes = all.iter().filter_map(|entry| change(entry, &pieces)).collect();
        let _ = events.send(Event::Store(StoreEvent::Connected(changes))).await;
        let now = Instant::now();
        Ok(StoreSession { kv, leases, watch, pieces, lease, keeper, renewals, renewed: now, kept: now })
    }

    async fn options(&self) -> Result<ConnectOptions, SessionError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(ANSWER)
            .with_require_leader(true)
            .with_keep_alive(RENEW, ANSWER);
        if let Some(user) = &self.cluster.user {
            let text = read(&user.password_file).await?;
            let password = text.lines().next().unwrap_or_default();
            options = options.with_user(&user.name, password);
        }
        if let Some(tls) = &self.cluster.tls {
            let mut with = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca).await?));
            if let Some((cert, key)) = &tls.identity {
                with = with.identity(Identity::from_pem(read(cert).await?, read(key).await?));
            }
            options = options.with_tls(with);
        }
        Ok(options)
    }

    /// The lease of the last session, or a new one.
    async fn lease(
        &mut self,
        leases: &mut LeaseClient,
    ) -> Result<(i64, LeaseKeeper, LeaseKeepAliveStream), SessionError> {
        if let Some(lease) = self.lease {
            match within(leases.keep_alive(lease)).await {
                Ok((keeper, renewals)) => return Ok((lease, keeper, renewals)),
                // It has ended.
                Err(SessionError::Store(etcd_client::Error::LeaseKeepAliveError(_))) => self.lease = None,
                Err(error) => return Err(error),
            }
        }
        let lease = within(leases.grant(LEASE_S, None)).await?.id();
        let (keeper, renewals) = within(leases.keep_alive(lease)).await?;
        self.lease = Some(lease);
        Ok((lease, keeper, renewals))
    }

    /// The number of this machine's name, or a free one, and the next incarnation; and whether there is a plan, for which it waits for some time.
    async fn number(&self, kv: &mut KvClient) -> Result<(Member, bool), SessionError> {
        let until = Instant::now() + FOUNDING;
        let mut tries = 0;
        while tries < NUMBER_TRIES {
            let prefixes = ["machines/", "members/", "plan"].map(|of| format!("{PREFIX}{of}"));
            let reads = prefixes.map(|of| TxnOp::get(of, Some(GetOptions::new().with_prefix())));
            let read = within(kv.txn(Txn::new().and_then(reads))).await?;
            let entries = read.op_responses().into_iter().filter_map(|response| match response {
                TxnOpResponse::Get(mut read) => Some(read.take_kvs()),
                _ => None,
            });
            let found = FoundNumbers::of(&entries.flatten().collect::<Vec<_>>());
            if found.plan.is_none() && Instant::now() < until {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let member = self.choose(&found)?;
            let key = Key::Machine(member.machine);
            let after =
                found.revisions.iter().find(|(of, _)| *of == key).map_or(0, |(_, revision)| *revision);
            let value =
                keys::bytes(&MachineValue { name: self.name.clone(), incarnation: member.incarnation });
            let txn = Txn::new()
                .when([Compare::mod_revision(key.text(), CompareOp::Equal, after)])
                .and_then([TxnOp::put(key.text(), value, None)]);
            if within(kv.txn(txn)).await?.succeeded() {
                return Ok((member, found.plan.is_some()));
            }
            tries += 1;
        }
        Err(SessionError::Restless)
    }

    fn choose(&self, found: &FoundNumbers) -> Result<Member, SessionError> {
        let namesake = found.alive.iter().find(|(_, of)| of.name == self.name && of.address != self.address);
        if let Some((_, of)) = namesake {
            return Err(SessionError::Namesake(of.address));
        }
        let (planned, former) =
            found.plan.as_deref().map_or(Ok(Default::default()), numbers_of).map_err(SessionError::Plan)?;
        let known = Known {
            registered: found.registered.iter().map(|(of, name)| (*of, name.as_deref())).collect(),
            alive: found.alive.iter().map(|(of, value)| (*of, value.name.as_str())).collect(),
            planned,
            former,
        };
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(number::choose(&self.name, u32::try_from(clock).unwrap_or(u32::MAX), &known)?)
    }
}

/// What the store says of numbers.
#[derive(Default)]
struct FoundNumbers {
    registered: Vec<(Member, Option<String>)>,
    alive: Vec<(Member, MemberValue)>,
    plan: Option<Vec<u8>>,
    /// Of what is registered.
    revisions: Vec<(Key, i64)>,
}

impl FoundNumbers {
    fn of(entries: &[KeyValue]) -> FoundNumbers {
        let mut found = FoundNumbers::default();
        let pieces = pieces_of(entries);
        for entry in entries {
            let Some(key) = entry.key_str().ok().and_then(Key::parse) else { continue };
            match key {
                Key::Machine(machine) => {
                    // Whoever it is: the number is not free.
                    let value: Option<MachineValue> = keys::value(key, entry.value()).ok();
                    let incarnation = value.as_ref().map_or(0, |of| of.incarnation);
                    found.registered.push((Member { machine, incarnation }, value.map(|of| of.name)));
                    found.revisions.push((key, entry.mod_revision()));
                }
                Key::Member(machine) => {
                    let value: Result<MemberValue, String> = keys::value(key, entry.value());
                    if let Ok(value) = value {
                        let incarnation = value.incarnation;
                        found.alive.push((Member { machine, incarnation }, value));
                    }
                }
                Key::Plan => found.plan = Some(pieces.whole(key, entry.value())),
                _ => {}
            }
        }
        found
    }
}

async fn read(path: &Path) -> Result<String, SessionError> {
    tokio::fs::read_to_string(path)
        .await
        .map_err(|error| SessionError::File { file: path.display().to_string(), problem: error.to_string() })
}

/// All keys of ours as they are at one revision, which is told. Between the pages the lease is kept.
async fn all(kv: &mut KvClient, keeper: &mut LeaseKeeper) -> Result<(Vec<KeyValue>, i64), SessionError> {
    // The first key that no key of ours is.
    let end = PREFIX.strip_suffix('/').map_or_else(String::new, |prefix| format!("{prefix}0"));
    let (mut entries, mut revision): (Vec<KeyValue>, i64) = (Vec::new(), 0);
    loop {
        // The key behind the last one.
        let from =
            entries.last().map_or_else(|| PREFIX.as_bytes().to_vec(), |last| [last.key(), &[0]].concat());
        let options = GetOptions::new().with_range(end.as_str()).with_limit(PAGE).with_revision(revision);
        let mut page = within(kv.get(from, Some(options))).await?;
        if revision == 0 {
            revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
        }
        let is_last = !page.more() || page.kvs().is_empty();
        entries.extend(page.take_kvs());
        if is_last {
            return Ok((entries, revision));
        }
        within(keeper.keep_alive()).await?;
    }
}

/// The pieces among these.
fn pieces_of(entries: &[KeyValue]) -> Pieces {
    let mut pieces = Pieces::default();
    for entry in entries {
        pieces.change(entry.key_str().unwrap_or_default(), Some(entry.value()));
    }
    pieces
}

/// A value of ours.
fn change(entry: &KeyValue, pieces: &Pieces) -> Option<KeyChange> {
    let key = Key::parse(entry.key_str().ok()?)?;
    let value = pieces.whole(key, entry.value());
    Some((key, Some(StoredValue { value, revision: entry.mod_revision() })))
}

struct StoreSession {
    kv: KvClient,
    leases: LeaseClient,
    watch: WatchStream,
    pieces: Pieces,
    lease: i64,
    keeper: LeaseKeeper,
    renewals: LeaseKeepAliveStream,
    /// When the store has said last that the lease lasts.
    renewed: Instant,
    /// When it was asked last to let it last.
    kept: Instant,
}

impl StoreSession {
    async fn run(
        &mut self,
        asked: &mut mpsc::Receiver<StoreRequest>,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), SessionError> {
        let mut renew = tokio::time::interval(RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = renew.tick() => {
                    if self.renewed.elapsed() > ANSWER + RENEW {
                        return Err(SessionError::Silent);
                    }
                    within(self.keeper.keep_alive()).await?;
                    self.kept = Instant::now();
                }
                renewal = self.renewals.message() => match renewal? {
                    Some(renewal) if renewal.ttl() > 0 => self.renewed = Instant::now(),
                    Some(_) => return Err(SessionError::Closed("lease")),
                    None => return Err(SessionError::Closed("renewals of the lease")),
                },
                seen = self.watch.message() => {
                    let seen = seen?.ok_or(SessionError::Closed("watch"))?;
                    if seen.canceled() {
                        return Err(SessionError::Closed("watch"));
                    }
                    let changes = self.seen(seen.events());
                    let is_nothing = changes.is_empty();
                    let changed = Event::Store(StoreEvent::Changed(changes));
                    if !is_nothing && events.send(changed).await.is_err() {
                        return Ok(());
                    }
                }
                next = asked.recv() => match next {
                    Some(StoreRequest::Order(StoreOrder::Leave)) => {
                        // Nothing is to follow.
                        within(self.leases.revoke(self.lease)).await?;
                        return Ok(());
                    }
                    Some(StoreRequest::Order(order)) => {
                        if let Some(event) = self.carry_out(order).await?
                            && events.send(Event::Store(event)).await.is_err()
                        {
                            return Ok(());
                        }
                    }
                    Some(StoreRequest::Desire { desire: Desire { value, after }, reply }) => {
                        let conditions =
                            vec![Compare::mod_revision(Key::Desired.text(), CompareOp::Equal, after)];
                        match self.put(Key::Desired, value, conditions, None).await {
                            Ok(done) => drop(reply.send(Ok(done))),
                            Err(error) => {
                                let _ = reply.send(Err(error.to_string()));
                                return Err(error);
                            }
                        }
                    }
                    None => return Ok(()),
                },
            }
        }
    }

    /// The revision of a transaction; `None`: its conditions did not hold.
    async fn transact(&mut self, txn: Txn) -> Result<Option<i64>, SessionError> {
        let done = within(self.kv.txn(txn)).await?;
        Ok(done.succeeded().then(|| done.header().map_or(0, etcd_client::ResponseHeader::revision)))
    }

    /// What changed, by events in their order.
    fn seen(&mut self, events: &[etcd_client::Event]) -> Vec<KeyChange> {
        let mut changes = Vec::new();
        let revision = |event: &etcd_client::Event| event.kv().map_or(0, KeyValue::mod_revision);
        // In a transaction a value is put and pieces of the one before go; the value is read with what was there before.
        for at_once in events.chunk_by(|a, b| revision(a) == revision(b)) {
            let (put, gone): (Vec<_>, Vec<_>) =
                at_once.iter().partition(|event| event.event_type() == EventType::Put);
            for entry in put.iter().filter_map(|event| event.kv()) {
                self.pieces.change(entry.key_str().unwrap_or_default(), Some(entry.value()));
            }
            changes.extend(put.iter().filter_map(|event| change(event.kv()?, &self.pieces)));
            for entry in gone.iter().filter_map(|event| event.kv()) {
                let key = entry.key_str().unwrap_or_default();
                if !self.pieces.change(key, None) {
                    changes.extend(Key::parse(key).map(|key| (key, None)));
                }
            }
        }
        changes
    }

    /// Puts a value if the conditions hold, in pieces if it has to be; returns its revision. Pieces of the value before go with it.
    async fn put(
        &mut self,
        key: Key,
        value: Vec<u8>,
        mut conditions: Vec<Compare>,
        lease: Option<i64>,
    ) -> Result<Option<i64>, SessionError> {
        let options = || lease.map(|lease| PutOptions::new().with_lease(lease));
        let cut = Cut::new(value);
        for (name, piece) in &cut.pieces {
            let text = pieces::key_text(key, *name);
            conditions.push(Compare::create_revision(text.clone(), CompareOp::Greater, 0));
            if self.pieces.has(key, *name) {
                continue;
            }
            within(self.kv.put(text, piece.clone(), options())).await?;
            self.pieces.add(key, *name, piece.clone());
            self.keep().await?;
        }
        let stale: Vec<u128> = self.pieces.stale(key, &cut).into_iter().take(STALE_MAX).collect();
        let put = TxnOp::put(key.text(), cut.value, options());
        let deletes = stale.iter().map(|name| TxnOp::delete(pieces::key_text(key, *name), None));
        let done = self
            .transact(
                Txn::new().when(conditions).and_then([put].into_iter().chain(deletes).collect::<Vec<_>>()),
            )
            .await?;
        if done.is_some() {
            stale.into_iter().for_each(|name| self.pieces.remove(key, name));
        }
        Ok(done)
    }

    /// The lease is kept also while there is much to put, each of which shows that the store is there.
    async fn keep(&mut self) -> Result<(), SessionError> {
        self.renewed = Instant::now();
        if self.kept.elapsed() >= RENEW {
            within(self.keeper.keep_alive()).await?;
            self.kept = Instant::now();
        }
        Ok(())
    }

    async fn carry_out(&mut self, order: StoreOrder) -> Result<Option<StoreEvent>, SessionError> {
        let leased = || Some(PutOptions::new().with_lease(self.lease));
        match order {
            StoreOrder::Put { key, value, if_plan } => {
                let mut conditions = Vec::new();
                if let Some(revision) = if_plan {
                    conditions.push(Compare::mod_revision(Key::Plan.text(), CompareOp::Equal, revision));
                }
                let done = self.put(key, value, conditions, Some(self.lease)).await?;
                Ok(done.is_none().then_some(StoreEvent::NotPut(key)))
            }
            StoreOrder::Register { machine, value, after } => {
                let key = Key::Machine(machine);
                let txn = Txn::new()
                    .when([Compare::mod_revision(key.text(), CompareOp::Equal, after)])
                    .and_then([TxnOp::put(key.text(), value, None)]);
                let done = self.transact(txn).await?;
                Ok(done.is_none().then_some(StoreEvent::NotPut(key)))
            }
            StoreOrder::Lead { value, after } => {
                let key = Key::Leader.text();
                let txn = Txn::new()
                    .when([Compare::mod_revision(key.clone(), CompareOp::Equal, after)])
                    .and_then([TxnOp::put(key, value, leased())]);
                let done = self.transact(txn).await?;
                Ok(done.is_none().then_some(StoreEvent::NotPut(Key::Leader)))
            }
            StoreOrder::Resign(value) => {
                let key = Key::Leader.text();
                let txn = Txn::new()
                    .when([Compare::value(key.clone(), CompareOp::Equal, value)])
                    .and_then([TxnOp::delete(key, None)]);
                self.transact(txn).await?;
                Ok(None)
            }
            StoreOrder::Sweep { digests, if_plan, leader } => {
                let deletes: Vec<TxnOp> = digests
                    .into_iter()
                    // With its pieces.
                    .map(|digest| {
                        TxnOp::delete(Key::Slots(digest).text(), Some(DeleteOptions::new().with_prefix()))
                    })
                    .collect();
                let txn = Txn::new()
                    .when([
                        Compare::mod_revision(Key::Plan.text(), CompareOp::Equal, if_plan),
                        Compare::value(Key::Leader.text(), CompareOp::Equal, leader),
                    ])
                    .and_then(deletes);
                self.transact(txn).await?;
                Ok(None)
            }
            StoreOrder::Plan { document, after, leader } => {
                // Nobody reads these before the plan that names them.
                for (digest, slots) in document.slots {
                    self.put(Key::Slots(digest), slots, Vec::new(), None).await?;
                    self.keep().await?;
                }
                let conditions = vec![
                    Compare::mod_revision(Key::Plan.text(), CompareOp::Equal, after),
                    Compare::value(Key::Leader.text(), CompareOp::Equal, leader),
                ];
                Ok(Some(StoreEvent::PlanWritten(self.put(Key::Plan, document.head, conditions, None).await?)))
            }
            // Ends the session.
            StoreOrder::Leave => Ok(None),
        }
    }
}

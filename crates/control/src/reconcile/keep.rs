//! The task that keeps the kernel as it is wanted.

use super::backoff::Backoff;
use super::kernel::{self, RepairOutcome};
use super::{
    KernelAction, KernelState, OnLoopback, PlacedAddress, RepairKind, Surroundings, WantedOfKernel, decide,
};
use crate::announce::{LOOPBACK, Vip};
use crate::claims::{Claims, ExclusiveName};
use crate::event::Event;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use model::config::Net;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// How often it is looked, changes or not.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause after a change that the kernel tells of, in which more may follow.
const SETTLE: Duration = Duration::from_millis(10);
/// Longest time that a look, or an action, may take before the connection is made anew.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the task needs.
pub(crate) struct KeeperSetup {
    pub(crate) wanted: watch::Receiver<WantedOfKernel>,
    /// VIPs that an earlier process may have left on the loopback.
    pub(crate) left_over: BTreeSet<Vip>,
    /// Told what is on the loopback now.
    pub(crate) on_loopback: watch::Sender<OnLoopback>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) claims: Claims,
}

/// Keeps the kernel as wanted until the owner is gone.
pub(crate) async fn keep(setup: KeeperSetup) {
    let at_loopback = |address| PlacedAddress { interface: LOOPBACK.to_owned(), address };
    let mut keeper = Keeper {
        wanted: setup.wanted,
        on_loopback: setup.on_loopback,
        events: setup.events,
        claims: setup.claims,
        ours: setup.left_over.into_iter().map(at_loopback).collect(),
        known: BTreeMap::new(),
        backoff: Backoff::default(),
        surroundings: None,
        complained: false,
        refused: None,
    };
    let mut connection = None;
    while keeper.round(&mut connection).await.is_some() {}
}

/// The owner is gone.
type Gone = Option<()>;

struct NetlinkConnection {
    handle: Handle,
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for NetlinkConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NetlinkConnection {
    fn open() -> std::io::Result<NetlinkConnection> {
        let (connection, handle, messages) = new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])?;
        let task = tokio::spawn(connection);
        Ok(NetlinkConnection { handle, messages: messages.map(|(message, _)| message).boxed(), task })
    }
}

struct Keeper {
    wanted: watch::Receiver<WantedOfKernel>,
    on_loopback: watch::Sender<OnLoopback>,
    events: mpsc::Sender<Event>,
    claims: Claims,
    /// VIPs that we have put somewhere.
    ours: BTreeSet<PlacedAddress>,
    /// The kernel's numbers of exception interfaces, and which of their devices that was.
    known: BTreeMap<String, (u64, u32)>,
    backoff: Backoff,
    /// What was told last.
    surroundings: Option<Surroundings>,
    complained: bool,
    /// An interface that does not accept our own VIPs was told of.
    refused: Option<String>,
}

impl Keeper {
    /// Looks, acts, tells, and waits for something to happen. `None` when nobody listens any more.
    async fn round(&mut self, connection: &mut Option<NetlinkConnection>) -> Gone {
        let wanted = self.wanted.borrow_and_update().clone();
        let pause = match self.reconcile(connection, &wanted).await? {
            Ok(pause) => {
                self.complained = false;
                pause
            }
            Err(problem) => {
                *connection = None;
                if !std::mem::replace(&mut self.complained, true) {
                    let text = format!(
                        "cannot see what the kernel has ({problem}): exception interfaces and VIPs \
                         stay as they are; tried again every second"
                    );
                    self.events.send(Event::Warning(text)).await.ok()?;
                }
                LOOK_EVERY
            }
        };
        self.accept_local(&wanted).await?;
        let mut until = tokio::time::Instant::now() + pause;
        loop {
            let heard = async {
                match connection {
                    Some(connection) => connection.messages.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.wanted.changed() => return changed.ok(),
                message = heard => match message {
                    None => {
                        *connection = None;
                        return Some(());
                    }
                    Some(message) if matters(&message) => {
                        until = until.min(tokio::time::Instant::now() + SETTLE);
                    }
                    Some(_) => {}
                },
                () = tokio::time::sleep_until(until) => return Some(()),
            }
        }
    }

    /// One comparison and what follows; gives the time until the next one, or what went wrong with netlink itself.
    async fn reconcile(
        &mut self,
        connection: &mut Option<NetlinkConnection>,
        wanted: &WantedOfKernel,
    ) -> Option<Result<Duration, String>> {
        if connection.is_none() {
            match NetlinkConnection::open() {
                Ok(opened) => *connection = Some(opened),
                Err(error) => return Some(Err(format!("netlink socket: {error}"))),
            }
        }
        let Some(NetlinkConnection { handle, .. }) = connection else { return Some(Ok(LOOK_EVERY)) };
        let handle = handle.clone();
        let seen = match self.look(&handle, wanted).await {
            Ok(seen) => seen,
            Err(problem) => return Some(Err(problem)),
        };
        if self.surroundings.is_none() {
            // What an earlier process has left is what is there of it.
            self.ours.retain(|at| seen.addresses.contains(at));
        }
        let found = decide(wanted, &seen, &self.ours);
        let mut left = Vec::new();
        for action in found.actions {
            let now = Instant::now();
            if !self.backoff.is_due(&action, now) {
                left.push(action);
                continue;
            }
            if !self.attempt(&handle, &seen, &action).await? {
                left.push(action);
            }
        }
        self.tell_loopback(wanted, &seen, &left).await?;
        let now = Instant::now();
        self.backoff.forget(now);
        let due = self.backoff.next_due(left.iter(), now);
        let mut wrong: Vec<_> = left
            .iter()
            .map(|action| {
                let port = kernel::interface_of(action).and_then(|name| wanted.port_of(name));
                (port, action.kind(), action.wrong())
            })
            .collect();
        for interface in wanted.interfaces.iter().filter(|of| found.absent.contains(&of.port)) {
            let text = format!("{} is gone", interface.name);
            wrong.push((Some(interface.port), RepairKind::Interface, text));
        }
        let absent = wanted.interfaces.iter().filter(|of| found.absent.contains(&of.port));
        let absent = absent.map(|of| (of.port, of.made)).collect();
        let surroundings = Surroundings { down: found.down, absent, wrong };
        if self.surroundings.as_ref() != Some(&surroundings) {
            self.surroundings = Some(surroundings.clone());
            self.events.send(Event::Surroundings(surroundings)).await.ok()?;
        }
        Some(Ok(due.map_or(LOOK_EVERY, |due| due.clamp(SETTLE, LOOK_EVERY))))
    }

    async fn look(&mut self, handle: &Handle, wanted: &WantedOfKernel) -> Result<KernelState, String> {
        let made = |name: &str| wanted.interfaces.iter().find(|of| of.name == name).map(|of| of.made);
        self.known.retain(|name, (of, _)| made(name) == Some(*of));
        let known = self.known.iter().map(|(name, (_, index))| (name.clone(), *index)).collect();
        let looked = tokio::time::timeout(PATIENCE, kernel::look(handle, wanted, &known)).await;
        let seen = looked.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
        for interface in &wanted.interfaces {
            if let Some(link) = seen.links.get(&interface.name) {
                let is_new =
                    self.known.insert(interface.name.clone(), (interface.made, link.index)).is_none();
                if is_new {
                    let name = interface.name.as_str();
                    self.backoff.forget_those(|action| kernel::interface_of(action) == Some(name));
                }
            }
        }
        Ok(seen)
    }

    /// Does one thing and tells what came of it; whether it is right now.
    async fn attempt(&mut self, handle: &Handle, seen: &KernelState, action: &KernelAction) -> Option<bool> {
        let result = match self.claimed(action) {
            Ok(true) => {
                let acted = tokio::time::timeout(PATIENCE, kernel::act(handle, seen, action)).await;
                acted
                    .map_err(|_| "no answer".to_owned())
                    .and_then(|acted| acted.map_err(|error| format!("{error}; {}", kernel::help(action))))
            }
            Ok(false) => Ok(RepairOutcome::Already),
            Err(problem) => Err(problem),
        };
        let tell = self.backoff.tried(action, result.is_err(), Instant::now());
        let note = match &result {
            Ok(done) => {
                // What comes and goes with services is told as announced and withdrawn.
                let is_repair = match action {
                    KernelAction::PutVip(at) if *done == RepairOutcome::Changed => {
                        !self.ours.insert(at.clone())
                    }
                    KernelAction::TakeVip(at) => !self.ours.remove(at),
                    _ => true,
                };
                (is_repair && *done == RepairOutcome::Changed)
                    .then(|| Event::Repaired { kind: action.kind(), text: action.done() })
            }
            Err(problem) => Some(Event::RepairFailed {
                kind: action.kind(),
                text: tell.then(|| format!("{}: {problem}", action.wrong())),
            }),
        };
        if let Some(note) = note {
            self.events.send(note).await.ok()?;
        }
        Some(result.is_ok())
    }

    /// Makes sure that a VIP is nobody else's before it is touched. False: it is, and was never ours but by what an earlier process
    /// has noted down; then it is left alone.
    fn claimed(&mut self, action: &KernelAction) -> Result<bool, String> {
        let claim = |at: &PlacedAddress| {
            let net = Net { addr: at.address.address, len: at.address.length };
            self.claims.claim(&ExclusiveName::Vip(net))
        };
        match action {
            KernelAction::PutVip(at) => claim(at).map(|_| true).map_err(|error| error.to_string()),
            KernelAction::TakeVip(at) => Ok(claim(at).is_ok()),
            _ => Ok(true),
        }
    }

    /// Tells what is on the loopback after actions of which `left` did not succeed.
    async fn tell_loopback(
        &mut self,
        wanted: &WantedOfKernel,
        seen: &KernelState,
        left: &[KernelAction],
    ) -> Gone {
        // Ours that somebody else took away, and that are not wanted, are nobody's now.
        let places = wanted.places();
        self.ours.retain(|at| places.contains(at) || seen.addresses.contains(at));
        let is_there = |at: &&PlacedAddress| {
            at.interface == LOOPBACK
                && !left.iter().any(|of| matches!(of, KernelAction::PutVip(p) if p == *at))
        };
        let vips = |places: &BTreeSet<PlacedAddress>| -> BTreeSet<Vip> {
            places.iter().filter(is_there).map(|at| at.address).collect()
        };
        let ours = vips(&self.ours);
        let now = OnLoopback { there: vips(&places).union(&ours).copied().collect(), ours };
        let mut changes = Vec::new();
        self.on_loopback.send_if_modified(|before| {
            changes.extend(now.there.difference(&before.there).map(|vip| (*vip, true)));
            changes.extend(before.there.difference(&now.there).map(|vip| (*vip, false)));
            let differs = *before != now;
            before.clone_from(&now);
            differs
        });
        for (vip, there) in changes {
            self.events.send(Event::Announced { vip, there }).await.ok()?;
        }
        let of = |vip: &Vip| Net { addr: vip.address, len: vip.length };
        self.claims.keep_vips(&wanted.configured.union(&now.ours).map(of).collect());
        Some(())
    }

    /// Answers to probes through the tunnel come from our own VIPs.
    async fn accept_local(&mut self, wanted: &WantedOfKernel) -> Gone {
        let here = |name: &&String| {
            // What is gone is told already.
            self.surroundings
                .as_ref()
                .is_none_or(|seen| wanted.port_of(name).is_none_or(|port| !seen.absent.contains_key(&port)))
        };
        let names = wanted.announce.accept_local.iter().filter(here);
        let problem = names.filter_map(|name| kernel::accept_local(name).err()).next();
        if problem != self.refused {
            self.refused.clone_from(&problem);
            if let Some(problem) = problem {
                let text = format!(
                    "probes through the tunnel are not answered: {problem}; tried again every second"
                );
                self.events.send(Event::Warning(text)).await.ok()?;
            }
        }
        Some(())
    }
}

/// Whether a message may be about something that is wanted. Of routes only default ones are: a routing daemon may change thousands a second.
fn matters(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => route.header.destination_prefix_length == 0,
        // Messages were lost.
        NetlinkPayload::InnerMessage(_) | NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

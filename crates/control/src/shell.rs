//! The edge of the controller: it is told events with their time, and what it has done is done here.

use crate::agents::counts::{Closed, ListenerCounts};
use crate::agents::event::AgentEvent;
use crate::agents::gate::Gate;
use crate::agents::listener::FromAgent;
use crate::agents::outboxes::Outboxes;
use crate::capture::Captures;
use crate::cluster::desire::Progress;
use crate::cluster::participant::StoreOrder;
use crate::cluster::store::StoreRequest;
use crate::cluster::store_event::StoreEvent;
use crate::controller::Controller;
use crate::effect::Effect;
use crate::event::Event;
use crate::gauges::{DataPort, WorkerGauges};
use crate::now::Now;
use crate::plane::{PortHandle, Renew, WorkerHandle};
use crate::publisher::Backlog;
use crate::reconcile::OnLoopback;
use crate::state::saver::Saver;
use crate::task::check::Checks;
use crate::task::{log, renew, tables};
use crate::{neighbour, reconcile, scan};
use ::health::unix_ms;
use std::collections::VecDeque;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};
use wire::{PortId, Tick};

/// Where times come from.
pub(crate) struct EventClock {
    started: Instant,
    tick: Box<dyn Fn() -> Tick>,
}

impl EventClock {
    /// Starts; `tick` is the workers' clock.
    pub(crate) fn start(tick: Box<dyn Fn() -> Tick>) -> EventClock {
        EventClock { started: Instant::now(), tick }
    }

    pub(crate) fn now(&self) -> Now {
        Now { monotonic: self.started.elapsed(), unix_ms: unix_ms(), tick: (self.tick)() }
    }
}

/// Reads the link of a data port.
type LinkReader = (PortId, Box<dyn Fn() -> bool>);

/// A data port as the controller is given it, and its link.
pub(crate) fn split(port: PortHandle) -> (DataPort, LinkReader) {
    let PortHandle { id, name, device, mac, mtu, driver, exception, kernel, stats, link_up } = port;
    (DataPort { id, name, device, mac, mtu, driver, exception, kernel, stats }, (id, link_up))
}

/// A worker as the controller is given it.
pub(crate) fn gauges(worker: &WorkerHandle) -> WorkerGauges {
    let WorkerHandle { core, cpu, counters, flows, .. } = worker;
    WorkerGauges { core: *core, cpu: *cpu, counters: counters.clone(), flows: flows.clone() }
}

/// The ways to those who are told what is so now.
pub(crate) struct Watches {
    pub(crate) acknowledged: watch::Sender<u64>,
    pub(crate) last_event: watch::Sender<u64>,
    pub(crate) wanted_neighbours: watch::Sender<neighbour::next_hop::WantedNextHops>,
    pub(crate) wanted_of_kernel: watch::Sender<reconcile::WantedOfKernel>,
    pub(crate) agent_gate: watch::Sender<Gate>,
    pub(crate) progress: watch::Sender<Progress>,
}

/// What a shell is made of.
pub(crate) struct ShellParts {
    pub(crate) clock: EventClock,
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) links: Vec<LinkReader>,
    pub(crate) on_loopback: watch::Receiver<OnLoopback>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) listener_counts: ListenerCounts,
    /// `None`: the machine is alone.
    pub(crate) store: Option<mpsc::Sender<StoreRequest>>,
    pub(crate) saver: Saver,
    /// `None`: exception devices cannot be made anew.
    pub(crate) renew: Option<Renew>,
    pub(crate) told: Watches,
}

/// See the module.
pub(crate) struct Shell {
    pub(crate) controller: Controller,
    parts: ShellParts,
    backlog: Backlog,
    captures: Captures,
    checks: Checks,
    outboxes: Outboxes,
    /// What came of effects at once.
    came: VecDeque<Event>,
    /// Every worker has taken a turn before the last sweep.
    is_alive: bool,
}

impl Shell {
    /// Does what the controller has done when it was made.
    pub(crate) fn new(controller: Controller, parts: ShellParts) -> Shell {
        let mut shell = Shell {
            controller,
            backlog: Backlog::new(parts.workers.len()),
            captures: Captures::default(),
            checks: Checks::new(parts.events.clone()),
            parts,
            outboxes: Outboxes::default(),
            came: VecDeque::new(),
            is_alive: false,
        };
        let effects = shell.controller.take_effects();
        shell.perform(effects);
        shell.go_on();
        shell
    }

    /// Tells the controller an event, and does what it wants.
    pub(crate) fn step(&mut self, event: Event) {
        self.look_at_loopback();
        self.came.push_back(event);
        self.go_on();
    }

    fn look_at_loopback(&mut self) {
        if self.parts.on_loopback.has_changed().unwrap_or(false) {
            let seen = self.parts.on_loopback.borrow_and_update().clone();
            self.came.push_back(Event::OnLoopback(seen));
        }
    }

    fn go_on(&mut self) {
        while let Some(event) = self.came.pop_front() {
            let effects = self.controller.step(event, self.parts.clock.now());
            self.perform(effects);
        }
    }

    /// Housekeeping.
    pub(crate) fn tick(&mut self) {
        self.backlog.push(&mut self.parts.workers);
        let mut reports = Vec::new();
        for worker in &mut self.parts.workers {
            while let Some(report) = worker.reports.as_mut().and_then(statesync::spsc::Receiver::pop) {
                reports.push((worker.core, report));
            }
        }
        self.step(Event::Tick(reports));
        let until = Instant::now() + scan::TURN;
        while self.controller.scanner.is_busy() {
            self.step(Event::Scan);
            if Instant::now() >= until {
                break;
            }
        }
        for slow in self.outboxes.flush() {
            self.parts.listener_counts.count(Closed::Slow);
            self.step(Event::Agent(AgentEvent::Closed(slow)));
        }
    }

    /// Twice a second; whether every worker has taken a turn since the last time.
    pub(crate) fn sweep(&mut self) -> bool {
        self.is_alive = false;
        self.tell_links();
        self.step(Event::Sweep);
        self.is_alive
    }

    /// A task tells something.
    pub(crate) fn tell(&mut self, event: Event) {
        if matches!(event, Event::Surroundings(_)) {
            self.tell_links();
        }
        self.step(event);
    }

    fn tell_links(&mut self) {
        let links = self.parts.links.iter().map(|(port, link_up)| (*port, link_up())).collect();
        self.step(Event::Links(links));
    }

    /// A connection of an agent says something.
    pub(crate) fn agent_said(&mut self, said: FromAgent) {
        let FromAgent { event, opened } = said;
        if let (AgentEvent::Hello(hello), Some((outbox, stranger))) = (&event, opened) {
            let id = hello.id;
            self.outboxes.open(id, outbox);
            self.step(Event::Agent(event));
            if self.controller.agents.registry.sessions().contains_key(&id) {
                stranger.leave();
            }
        } else {
            self.step(Event::Agent(event));
        }
    }

    /// Runs a question on the controller, and does what it wants.
    pub(crate) fn ask<T>(&mut self, question: impl FnOnce(&mut Controller) -> T) -> T {
        self.look_at_loopback();
        self.go_on();
        let (answer, effects) = self.controller.ask(self.parts.clock.now(), question);
        self.perform(effects);
        self.go_on();
        answer
    }

    /// As [`ask`](Self::ask), for what captures are asked.
    pub(crate) fn with_captures<T>(
        &mut self,
        question: impl FnOnce(&mut Captures, &mut Controller) -> T,
    ) -> T {
        let mut captures = std::mem::take(&mut self.captures);
        let answer = self.ask(|controller| question(&mut captures, controller));
        self.captures = captures;
        answer
    }

    /// Runs a question on the workers.
    pub(crate) fn with_workers<T>(&mut self, question: impl FnOnce(&mut [WorkerHandle], Tick) -> T) -> T {
        let now = self.parts.clock.now();
        question(&mut self.parts.workers, now.tick)
    }

    /// The store is told that this machine goes; whatever is under its lease goes, too.
    pub(crate) fn say_farewell(&mut self) {
        self.order(StoreOrder::Leave);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.do_one(effect);
        }
    }

    fn do_one(&mut self, effect: Effect) {
        let told = &self.parts.told;
        match effect {
            Effect::Publish(view) => self.backlog.publish(&mut self.parts.workers, &view),
            Effect::Acknowledged(generation) => drop(told.acknowledged.send_replace(generation)),
            Effect::WantNeighbours(wanted) => drop(told.wanted_neighbours.send_replace(wanted)),
            Effect::WantOfKernel(wanted) => drop(told.wanted_of_kernel.send_replace(wanted)),
            Effect::StartCheck(of, first, check) => self.checks.start(of, first, check),
            Effect::StopCheck(of) => self.checks.stop(&of),
            Effect::Tell(id, message) => self.outboxes.tell(id, &message),
            Effect::Close(id) => self.outboxes.close(id),
            Effect::AgentGate(gate) => drop(told.agent_gate.send_replace(gate)),
            Effect::Order(order) => self.order(order),
            Effect::Desire(desire) => {
                let asked = StoreRequest::Desire { desire, reply: oneshot::channel().0 };
                let sent = self.parts.store.as_ref().is_some_and(|store| store.try_send(asked).is_ok());
                if !sent {
                    self.came.push_back(Event::Store(StoreEvent::NotDesired));
                }
            }
            Effect::Progress(progress) => drop(told.progress.send_replace(progress)),
            Effect::MakeTables(missing) => tables::make(missing, self.parts.events.clone()),
            Effect::MakeMissing(missing) => tables::make_lot(missing, self.parts.events.clone()),
            Effect::Save(number, saved) => self.parts.saver.save(number, saved),
            Effect::Renew(port) => {
                let Some(renew) = self.parts.renew.clone() else { return };
                if let Err(problem) = renew::start(renew, port, self.parts.events.clone()) {
                    self.came.push_back(Event::Renewed { port, result: Err(problem) });
                }
            }
            Effect::Log(event) => {
                log::tell(&event);
                told.last_event.send_replace(event.id);
            }
            Effect::Alive => self.is_alive = true,
        }
    }

    fn order(&mut self, order: StoreOrder) {
        let Some(store) = &self.parts.store else { return };
        if let Err(error) = store.try_send(StoreRequest::Order(order))
            && let StoreRequest::Order(order) = error.into_inner()
        {
            self.came.push_back(Event::Store(StoreEvent::NotOrdered(order)));
        }
    }
}

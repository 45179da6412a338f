//! The management thread's loop: whatever comes in is a turn of its own, and housekeeping follows each.

use crate::agents::listener::{FromAgent, Listening};
use crate::apply;
use crate::balance;
use crate::event::Event;
use crate::handle::{Handle, ShellCall};
use crate::listeners::Socket;
use crate::meter::{Meter, ThreadJob};
use crate::plane::{Notice, Telemetry};
use crate::reconcile::OnLoopback;
use crate::run_error::RunError;
use crate::shell::Shell;
use crate::state::saver::Written;
use crate::{status, telemetry};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Messages of agents that are taken in one turn.
const MESSAGES_AT_ONCE: usize = 256;
/// How often housekeeping runs while workers are on the newest view …
const TICK_IDLE: Duration = Duration::from_millis(100);
/// … and while they are not.
const TICK_WAITING: Duration = Duration::from_millis(2);
/// … and while the flow tables are looked through.
const TICK_SCANNING: Duration = Duration::from_millis(10);
/// How often telemetry is refreshed, removed backends are looked at and the service manager is told.
const SWEEP: Duration = Duration::from_millis(500);
/// Longest time that withdrawing announcements and writing the state may take at the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// Longest time that the store may take to learn that this machine goes; without it the lease ends by itself.
const FAREWELL_TO_STORE: Duration = Duration::from_millis(500);

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SignalCommand {
    Reload,
    Stop,
}

/// What the loop receives.
pub(super) struct LoopInbox {
    pub(super) commands: mpsc::Receiver<SignalCommand>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) questions: mpsc::Receiver<ShellCall>,
    /// Of agents' connections.
    pub(super) said: mpsc::Receiver<FromAgent>,
    pub(super) written: watch::Receiver<Written>,
    pub(super) acknowledged: watch::Receiver<u64>,
    pub(super) on_loopback: watch::Receiver<OnLoopback>,
}

/// The reload under way, if there is one.
#[derive(Default)]
pub(super) struct Reload {
    task: Option<JoinHandle<()>>,
    /// It was asked for again meanwhile.
    again: bool,
}

/// See the module.
pub(super) struct EventLoop {
    pub(super) shell: Shell,
    pub(super) inbox: LoopInbox,
    pub(super) handle: Handle,
    pub(super) meter: Meter,
    pub(super) notify: Box<dyn FnMut(Notice)>,
    pub(super) telemetry: Option<Telemetry>,
    pub(super) grace: Duration,
    pub(super) reload: Reload,
    /// The connection to the cluster's store.
    pub(super) store: Option<JoinHandle<()>>,
    /// The listener for agents.
    pub(super) agents: Option<Listening>,
    /// Its file goes with it.
    pub(super) _socket: Socket,
}

impl EventLoop {
    /// Runs until a signal, the cluster, or an error ends it, and takes leave.
    pub(super) async fn run(mut self) -> Result<(), RunError> {
        let result = self.turns().await;
        self.take_leave().await;
        result
    }

    async fn turns(&mut self) -> Result<(), RunError> {
        let (mut sweep, mut weigh) = (every(SWEEP), every(balance::PERIOD));
        let mut is_started = false;
        loop {
            let housekeeping = self.housekeeping_in();
            tokio::select! {
                biased;
                command = self.inbox.commands.recv() => match command {
                    Some(SignalCommand::Reload) => self.reload(),
                    Some(SignalCommand::Stop) | None => return Ok(()),
                },
                () = self.reload.ended() => self.reloaded(),
                _ = sweep.tick() => self.sweep(),
                _ = weigh.tick() => self.meter.time(ThreadJob::Weigh, || self.shell.step(Event::Weigh)),
                () = tokio::time::sleep(self.shell.controller.compares_in()) => {
                    self.meter.time(ThreadJob::Sweep, || self.shell.step(Event::Compare));
                }
                Some(event) = self.inbox.events.recv() => self.events(event),
                Some(question) = self.inbox.questions.recv() => {
                    self.meter.time(ThreadJob::Question, || question(&mut self.shell));
                }
                Some(said) = self.inbox.said.recv() => self.agents_said(said),
                Ok(()) = self.inbox.written.changed() => {
                    let error = self.inbox.written.borrow_and_update().error.clone();
                    self.shell.step(Event::Saved(error.map_or(Ok(()), Err)));
                }
                () = tokio::time::sleep(housekeeping) => {}
            }
            if self.shell.controller.publication.is_due() {
                // Making a view is a turn of its own.
                tokio::task::yield_now().await;
            }
            self.meter.time(ThreadJob::Housekeeping, || self.shell.tick());
            if self.shell.controller.has_left() {
                return Ok(());
            }
            if let Some(reason) = self.shell.controller.fatal() {
                return Err(RunError::Cluster(reason));
            }
            if !is_started && *self.inbox.acknowledged.borrow() > 0 {
                is_started = true;
                (self.notify)(Notice::Started);
            }
        }
    }

    /// When housekeeping runs, should nothing else happen.
    fn housekeeping_in(&self) -> Duration {
        let controller = &self.shell.controller;
        if !controller.is_acknowledged() || controller.is_cluster_busy() {
            TICK_WAITING
        } else if controller.scanner.is_busy() {
            TICK_SCANNING
        } else {
            controller.publishes_in().map_or(TICK_IDLE, |wait| wait.clamp(TICK_WAITING, TICK_IDLE))
        }
    }

    fn reload(&mut self) {
        if self.reload.task.is_some() {
            self.reload.again = true;
            return;
        }
        (self.notify)(Notice::Reloading);
        let reload = self.meter.watch(ThreadJob::Configure, apply::reload(self.handle.clone()));
        self.reload.task = Some(tokio::spawn(reload));
    }

    fn reloaded(&mut self) {
        self.reload.task = None;
        (self.notify)(Notice::Reloaded);
        if std::mem::take(&mut self.reload.again) {
            self.reload();
        }
    }

    fn sweep(&mut self) {
        if self.meter.time(ThreadJob::Sweep, || self.shell.sweep()) {
            (self.notify)(Notice::Alive);
        }
        if let Some(publish) = &mut self.telemetry {
            self.meter.time(ThreadJob::Telemetry, || {
                let summary = self.shell.ask(|controller| status::summary(controller));
                for (command, answer) in telemetry::answers(&summary) {
                    publish(command, answer);
                }
            });
        }
    }

    /// Mass failure arrives as many events: one view for all that are here.
    fn events(&mut self, first: Event) {
        self.meter.time(ThreadJob::Events, || {
            self.shell.tell(first);
            while let Ok(event) = self.inbox.events.try_recv() {
                self.shell.tell(event);
            }
            self.shell.step(Event::Settle);
        });
    }

    /// Many messages at once, but not so many that others wait.
    fn agents_said(&mut self, first: FromAgent) {
        self.meter.time(ThreadJob::Agents, || {
            self.shell.agent_said(first);
            for _ in 0..MESSAGES_AT_ONCE {
                let Ok(said) = self.inbox.said.try_recv() else { break };
                self.shell.agent_said(said);
            }
        });
    }

    /// Withdraws announcements and saves the state; returns after the time of grace. Meanwhile the API goes on
    /// answering, so that health checks of routers see "not ready", not silence.
    async fn take_leave(mut self) {
        (self.notify)(Notice::Stopping);
        let stopped = Instant::now();
        self.shell.step(Event::Stop);
        let number = self.shell.controller.saving.saves;
        let LoopInbox { mut questions, mut events, mut said, mut written, mut on_loopback, .. } = self.inbox;
        let farewell = async {
            let done = async {
                let _ = on_loopback.wait_for(|now| now.ours.is_empty()).await;
                let _ = written.wait_for(|written| written.saved >= number).await;
            };
            let _ = tokio::time::timeout(FAREWELL, done).await;
            tokio::time::sleep_until(stopped + self.grace).await;
        };
        tokio::pin!(farewell);
        loop {
            tokio::select! {
                biased;
                () = &mut farewell => break,
                Some(question) = questions.recv() => question(&mut self.shell),
                Some(event) = events.recv() => self.shell.tell(event),
                Some(said) = said.recv() => self.shell.agent_said(said),
                () = tokio::time::sleep(TICK_IDLE) => self.shell.tick(),
            }
        }
        if let Some(agents) = self.agents {
            agents.stop();
        }
        if let Some(store) = self.store {
            // Until now it forwarded, and so was one of them.
            self.shell.say_farewell();
            let _ = tokio::time::timeout(FAREWELL_TO_STORE, store).await;
        }
    }
}

impl Reload {
    /// Returns when the task has ended, and never without one.
    async fn ended(&mut self) {
        match &mut self.task {
            // One that panicked has ended the process.
            Some(task) => drop(task.await),
            None => std::future::pending().await,
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

//! From what the program gives to the loop: the configuration to start with, listeners, the controller in its
//! shell, and the tasks around it.

use super::event_loop::{EventLoop, LoopInbox, Reload, SignalCommand};
use crate::agents::counts::ListenerCounts;
use crate::agents::facts::AgentTokens;
use crate::agents::gate::Gate;
use crate::agents::listener::{self as agents, FromAgent, Listening};
use crate::agents::token_file;
use crate::announce::Vip;
use crate::api;
use crate::api::connections::ConnectionCounters;
use crate::api::credentials::Credentials;
use crate::api::listener::{self, Serving};
use crate::claims::Claims;
use crate::cluster::desire::Progress;
use crate::cluster::desired::{ASKED_MAX, StoreHandle};
use crate::cluster::membership::{Membership, own_address};
use crate::cluster::store::StoreRequest;
use crate::controller::{BeforeStart, Controller, ControllerParts, ThisProgram};
use crate::event::Event;
use crate::gauges::{Figures, ListenerFigures, LostWords};
use crate::handle::{Handle, ShellCall};
use crate::listeners::{Listeners, Socket};
use crate::meter::{Meter, ThreadJob};
use crate::pages::Pages;
use crate::plane::{Plane, RunOptions};
use crate::reconcile::OnLoopback;
use crate::refusal::Refusal;
use crate::revision::Ledger;
use crate::revision::start::{StartConfig, start as start_config};
use crate::run_error::RunError;
use crate::shell::{EventClock, Shell, ShellParts, Watches, gauges, split};
use crate::state;
use crate::state::saver::{Saver, Written};
use crate::{compile, neighbour, reconcile};
use model::{Config, Loaded};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

/// Questions that may wait; further askers wait for room.
const QUESTIONS_MAX: usize = 256;
/// Events that may wait; further ones wait for room.
const EVENTS_MAX: usize = 1024;
/// Configurations that are read, checked and compared at once.
const PREPARING_MAX: usize = 2;

/// Starts all of it, on the runtime it is called in.
///
/// # Errors
/// See [`run()`](crate::run()).
pub(super) fn start(
    options: RunOptions,
    loaded: &Loaded,
    plane: Plane,
    commands: mpsc::Receiver<SignalCommand>,
) -> Result<EventLoop, RunError> {
    let RunOptions { config_path, grace, notify, version, lost_words, hangup: _, claims, listeners } =
        options;
    let Plane { workers, flow_secrets, ports, now, memory_bytes, renew, telemetry } = plane;
    let (meter, clock) = (Meter::of_this_thread(), EventClock::start(now));
    let Preparation { loaded, history, tokens, listeners, credentials, warnings } =
        prepare(loaded, listeners, &claims)?;
    let saver = Saver::start(loaded.config.machine.state_dir.clone()).map_err(RunError::Runtime)?;
    let (inbox, told, ends) = channels(commands, saver.written());
    let left_over = history.saved.announced.iter();
    let left_over = left_over.map(|vip| Vip { address: vip.address, length: vip.length }).collect();
    let (connections, listener_counts) = (Arc::default(), ListenerCounts::default());
    let program = ThisProgram {
        started_unix_ms: clock.now().unix_ms,
        figures: figures(&meter, lost_words, &connections, &listener_counts),
        stopping: false,
        leaving: None,
        config_path,
        version,
        memory_bytes,
        grace,
    };
    let cluster = Membership::new(&loaded, &program.version, workers.len(), clock.now());
    let (store, requests) = cluster.as_ref().map(|_| mpsc::channel(ASKED_MAX)).unzip();
    let (ports, links) = ports.into_iter().map(split).unzip();
    let gauges = workers.iter().map(gauges).collect();
    let parts = ControllerParts { program, workers: gauges, ports, flow_secrets, history, cluster };
    let controller = Controller::new(loaded, &tokens, parts, clock.now()).map_err(unfit)?;
    let config = Arc::clone(&controller.config);
    let mut shell = Shell::new(
        controller,
        ShellParts {
            on_loopback: inbox.on_loopback.clone(),
            events: ends.events.clone(),
            listener_counts: listener_counts.clone(),
            store: store.clone(),
            clock,
            workers,
            links,
            saver,
            renew,
            told,
        },
    );
    warnings.into_iter().for_each(|warning| shell.step(Event::Warning(warning)));
    shell.ask(Controller::save);
    let (credentials, presented) = watch::channel(credentials);
    let handle = ends.handle(&inbox, credentials, claims, store, meter.clone());
    let tasks = Tasks { config, presented, connections, listener_counts, left_over, handle: handle.clone() };
    let (store, agents, socket) = tasks.spawn(listeners, requests, ends)?;
    let (notify, reload) = (notify.unwrap_or_else(|| Box::new(|_| {})), Reload::default());
    Ok(EventLoop {
        shell,
        inbox,
        handle,
        meter,
        notify,
        telemetry,
        grace,
        reload,
        store,
        agents,
        _socket: socket,
    })
}

/// What is chosen, read and bound before anything runs.
struct Preparation {
    loaded: Loaded,
    history: BeforeStart,
    tokens: AgentTokens,
    listeners: Listeners,
    credentials: Credentials,
    warnings: Vec<String>,
}

fn prepare(file: &Loaded, bound: Option<Listeners>, claims: &Claims) -> Result<Preparation, RunError> {
    let (revisions, unreadable) = match file.config.cluster {
        // The store keeps what is wanted.
        Some(_) => (Ledger::default(), None),
        None => state::load_revisions(&file.config.machine.state_dir),
    };
    let fits = |wanted: &Loaded| usable(wanted, claims).map_err(|refusal| explain(&refusal));
    let StartConfig { loaded, content, told } = start_config(file, &revisions, &fits);
    // Listeners before anything else: what cannot be reached should not start.
    let listeners = bound.map_or_else(|| Listeners::bind(&loaded.config), Ok)?;
    let credentials = Credentials::read(&loaded.config)?;
    let (saved, problem) = state::load(&loaded.config.machine.state_dir);
    let tokens = token_file::tokens(&loaded.config).map_err(unfit)?;
    claims.claim_vips(&loaded.config).map_err(|error| unfit(Refusal::Claimed(error)))?;
    let warnings = [problem, unreadable].into_iter().flatten().chain(told).collect();
    let history = BeforeStart { saved, revisions, content, file_text: file.text.clone() };
    Ok(Preparation { loaded, history, tokens, listeners, credentials, warnings })
}

/// Whether a configuration can be in force on this machine: what it names is there, and nobody else has its VIPs.
fn usable(wanted: &Loaded, claims: &Claims) -> Result<(), Refusal> {
    compile::check(&wanted.config).map_err(Refusal::Compile)?;
    token_file::tokens(&wanted.config)?;
    Credentials::of(&wanted.config)?;
    claims.claim_vips(&wanted.config).map_err(Refusal::Claimed)
}

fn explain(refusal: &Refusal) -> String {
    format!("{refusal}; {}", refusal.help())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unfit(refusal: Refusal) -> RunError {
    RunError::Config(explain(&refusal))
}

/// What tasks and handlers have of the channels between them and the management thread.
struct TaskEnds {
    questions: mpsc::Sender<ShellCall>,
    events: mpsc::Sender<Event>,
    said: mpsc::Sender<FromAgent>,
    on_loopback: watch::Sender<OnLoopback>,
    last_event: watch::Receiver<u64>,
    neighbours: watch::Receiver<neighbour::next_hop::WantedNextHops>,
    kernel: watch::Receiver<reconcile::WantedOfKernel>,
    gate: watch::Receiver<Gate>,
    progress: watch::Receiver<Progress>,
}

/// The channels' ends: the loop's, those that effects are told by, and those outside.
fn channels(
    commands: mpsc::Receiver<SignalCommand>,
    written: watch::Receiver<Written>,
) -> (LoopInbox, Watches, TaskEnds) {
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let (events, received) = mpsc::channel(EVENTS_MAX);
    let (say, said) = mpsc::channel(agents::SAID_MAX);
    let (tell_loopback, on_loopback) = watch::channel(OnLoopback::default());
    let (acknowledged, acknowledged_seen) = watch::channel(0);
    let (last_event, last_event_seen) = watch::channel(0);
    let (progress, progress_seen) = watch::channel(Progress::default());
    let (wanted_neighbours, neighbours) = watch::channel(neighbour::next_hop::WantedNextHops::default());
    let (wanted_of_kernel, kernel) = watch::channel(reconcile::WantedOfKernel::default());
    let (agent_gate, gate) = watch::channel(Gate::default());
    let inbox = LoopInbox {
        commands,
        events: received,
        questions: asked,
        said,
        written,
        acknowledged: acknowledged_seen,
        on_loopback,
    };
    let told =
        Watches { acknowledged, last_event, wanted_neighbours, wanted_of_kernel, agent_gate, progress };
    let ends = TaskEnds {
        questions,
        events,
        said: say,
        on_loopback: tell_loopback,
        last_event: last_event_seen,
        neighbours,
        kernel,
        gate,
        progress: progress_seen,
    };
    (inbox, told, ends)
}

impl TaskEnds {
    fn handle(
        &self,
        inbox: &LoopInbox,
        credentials: watch::Sender<Credentials>,
        claims: Claims,
        store: Option<mpsc::Sender<StoreRequest>>,
        meter: Meter,
    ) -> Handle {
        Handle {
            questions: self.questions.clone(),
            acknowledged: inbox.acknowledged.clone(),
            last_event: self.last_event.clone(),
            written: inbox.written.clone(),
            store: store.map(|asked| StoreHandle { asked, progress: self.progress.clone() }),
            applying: Arc::new(Semaphore::new(1)),
            preparing: Arc::new(Semaphore::new(PREPARING_MAX)),
            commanding: Arc::new(Semaphore::new(1)),
            pages: Pages::default(),
            credentials,
            claims,
            meter,
        }
    }
}

/// The tasks around the loop, before they run.
struct Tasks {
    config: Arc<Config>,
    handle: Handle,
    presented: watch::Receiver<Credentials>,
    connections: Arc<ConnectionCounters>,
    listener_counts: ListenerCounts,
    left_over: BTreeSet<Vip>,
}

/// The connection to the store, the listener for agents, the unix socket.
type Spawned = (Option<JoinHandle<()>>, Option<Listening>, Socket);

impl Tasks {
    /// Starts them. Returned are those that the loop ends itself: the connection to the store, and the listener for
    /// agents.
    fn spawn(
        self,
        listeners: Listeners,
        requests: Option<mpsc::Receiver<StoreRequest>>,
        ends: TaskEnds,
    ) -> Result<Spawned, RunError> {
        let Listeners { unix: (unix, socket), api, metrics, agents } = listeners;
        self.serve(unix, api, metrics).map_err(RunError::Runtime)?;
        let meter = &self.handle.meter;
        let TaskEnds { events, said, on_loopback, neighbours, kernel, gate, .. } = ends;
        let store = requests.and_then(|requests| {
            let cluster = self.config.cluster.clone()?;
            let own = (self.config.machine.name.clone(), own_address(&self.config)?);
            Some(tokio::spawn(
                meter.watch(ThreadJob::Store, keep_store(cluster, own, requests, events.clone())),
            ))
        });
        tokio::spawn(
            meter.watch(ThreadJob::Neighbours, neighbour::follow::follow(neighbours, events.clone())),
        );
        let (left_over, claims) = (self.left_over, self.handle.claims.clone());
        let setup = reconcile::keep::KeeperSetup { wanted: kernel, left_over, on_loopback, events, claims };
        tokio::spawn(meter.watch(ThreadJob::Reconcile, reconcile::keep::keep(setup)));
        let (machine, listener_counts) = (self.config.machine.name.clone(), self.listener_counts);
        let shared = agents::ListenerShared { machine, said, gate, listener_counts };
        let agents = agents.map(|listener| Listening::start(listener, self.presented, shared));
        Ok((store, agents.transpose().map_err(RunError::Runtime)?, socket))
    }

    fn serve(
        &self,
        unix: std::os::unix::net::UnixListener,
        api: Option<std::net::TcpListener>,
        metrics: Option<std::net::TcpListener>,
    ) -> io::Result<()> {
        let router = api::router(self.handle.clone());
        let serving = || Serving::new(self.connections.clone(), self.handle.meter.clone());
        tokio::spawn(listener::serve_unix(UnixListener::from_std(unix)?, router.clone(), serving()));
        if let Some(listener) = api {
            let (listener, presented) = (TcpListener::from_std(listener)?, self.presented.clone());
            let router = api::with_token(router, presented.clone());
            tokio::spawn(listener::serve_tcp(listener, Some(presented), router, serving()));
        }
        if let Some(listener) = metrics {
            let (listener, router) =
                (TcpListener::from_std(listener)?, api::metrics_router(self.handle.clone()));
            tokio::spawn(listener::serve_tcp(listener, None, router, serving()));
        }
        Ok(())
    }
}

#[cfg(feature = "etcd")]
use crate::cluster::store::etcd::keep as keep_store;

/// Not reached: without a client a configuration with a cluster is refused before anything starts.
#[cfg(not(feature = "etcd"))]
async fn keep_store<A, B, C, D>(_: A, _: B, _: C, _: D) {}

/// What the process counts of itself.
fn figures(
    meter: &Meter,
    lost_words: Box<dyn Fn() -> LostWords>,
    connections: &Arc<ConnectionCounters>,
    of_agents: &ListenerCounts,
) -> Box<dyn Fn() -> Figures> {
    let (meter, connections, of_agents) = (meter.clone(), connections.clone(), of_agents.clone());
    Box::new(move || Figures {
        management: meter.turns(),
        lost: lost_words(),
        connections: connections.now(),
        agents: ListenerFigures {
            open: of_agents.open(),
            paused: of_agents.paused(),
            closed: of_agents.closed().collect(),
        },
    })
}

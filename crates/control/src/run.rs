//! The management core's loop.

use crate::agents::counts::ListenerCounts;
use crate::agents::gate::Gate;
use crate::agents::token_file;
use crate::api;
use crate::api::connections::ConnectionCounts;
use crate::api::credentials::Credentials;
use crate::api::listener::{self, Serving};
use crate::apply;
use crate::claims::Claims;
use crate::cluster::desire::Progress;
use crate::cluster::desired::{ASKED_MAX, Store};
use crate::cluster::membership::{Part, own_address};
#[cfg(feature = "etcd")]
use crate::cluster::store::etcd;
use crate::compile;
use crate::controller::{self, Controller, Program};
use crate::event::Event;
use crate::gauges::{Figures, ListenerFigures, LostWords};
use crate::handle::{Handle, Question};
use crate::listeners::Listeners;
use crate::meter::{Job, Meter};
use crate::pages::Pages;
use crate::plane::{Notice, Options, Plane};
use crate::refusal::Refusal;
use crate::revision::Ledger;
use crate::revision::start::{StartConfig, start};
use crate::run_error::RunError;
use crate::shell::{self, Clock, Shell, Told, gauges, split};
use crate::status;
use crate::{agents, announce, balance, neighbour, reconcile, state, telemetry};
use model::Loaded;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

/// Questions that may wait; further askers wait for room.
const QUESTIONS_MAX: usize = 256;
/// Events that may wait; further ones wait for room.
const EVENTS_MAX: usize = 1024;
/// Configurations that are read, checked and compared at once.
const PREPARING_MAX: usize = 2;
/// Threads for what would hold the management thread up: those that prepare configurations, one that makes slot tables, some that
/// render answers.
const BLOCKING_MAX: usize = 8;
/// Words of agents that are heard in one go.
const WORDS_AT_ONCE: usize = 256;
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

/// Longest time that the store may take to hear that this machine goes; without it the lease ends by itself.
const FAREWELL_TO_STORE: Duration = Duration::from_millis(500);

/// Runs the management core on this thread until SIGTERM or SIGINT: configuration to views, health checks, next
/// hops, announcements, API. SIGHUP reads the file again.
///
/// On SIGTERM it is no longer ready at once, withdraws its announcements, lets `options.grace` pass in which traffic
/// turns elsewhere while the workers go on forwarding, and returns; the caller then stops workers and ports.
///
/// # Errors
/// A listener, a file it needs, or the configuration; all of them before the first view is published.
pub fn run(options: Options, config: Loaded, plane: Plane) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_MAX)
        .build()
        .map_err(RunError::Runtime)?;
    let result = runtime.block_on(async {
        let commands = listen_to_signals(options.hangup.as_deref())?;
        drive(options, config, plane, commands).await
    });
    // A hanging disk must not keep us from ending.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Command {
    Reload,
    Stop,
}

/// Turns signals into commands; `earlier` tells that a SIGHUP came before this.
fn listen_to_signals(earlier: Option<&AtomicBool>) -> Result<mpsc::Receiver<Command>, RunError> {
    let mut hangup = signal(SignalKind::hangup()).map_err(RunError::Runtime)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Runtime)?;
    let (tell, commands) = mpsc::channel(4);
    // Looked at when later ones are heard: none is lost between, and one that is heard twice asks for one reload more.
    if earlier.is_some_and(|hangup| hangup.swap(false, Relaxed)) {
        // There is room.
        let _ = tell.try_send(Command::Reload);
    }
    tokio::spawn(async move {
        loop {
            let command = tokio::select! {
                _ = hangup.recv() => Command::Reload,
                _ = terminate.recv() => Command::Stop,
                _ = interrupt.recv() => Command::Stop,
            };
            if tell.send(command).await.is_err() {
                return;
            }
        }
    });
    Ok(commands)
}

/// [`run`] without its runtime and signals.
async fn drive(
    options: Options,
    loaded: Loaded,
    plane: Plane,
    mut commands: mpsc::Receiver<Command>,
) -> Result<(), RunError> {
    let Options { config_path, grace, mut notify, version, lost_words, hangup: _, claims, listeners } =
        options;
    let meter = Meter::of_this_thread();
    let connections = Arc::<ConnectionCounts>::default();
    let mut notify = move |notice| {
        if let Some(notify) = &mut notify {
            notify(notice);
        }
    };
    let Plane { workers, flow_secrets, ports, now, memory_bytes, renew, mut telemetry } = plane;
    let clock = Clock::start(now);
    let (revisions, unreadable) = match loaded.config.cluster {
        // The store keeps what is wanted.
        Some(_) => (Ledger::default(), None),
        None => state::load_revisions(&loaded.config.machine.state_dir),
    };
    let file_text = loaded.text.clone();
    let StartConfig { loaded, content, told } =
        start(&loaded, &revisions, &|wanted| usable(wanted, &claims).map_err(|refusal| explain(&refusal)));

    // Listeners before anything else: what cannot be reached should not start.
    let listeners = listeners.map_or_else(|| Listeners::bind(&loaded.config), Ok)?;
    let (unix, _socket) = listeners.unix;
    let unix = tokio::net::UnixListener::from_std(unix).map_err(RunError::Runtime)?;
    let (credentials, presented) = watch::channel(Credentials::read(&loaded.config)?);
    let tcp = listeners.api.map(served).transpose()?;
    let metrics = listeners.metrics.map(served).transpose()?;

    let agent_listener = match listeners.agents {
        None => None,
        Some(listener) => Some((served(listener)?, loaded.config.machine.name.clone())),
    };

    let state_dir = loaded.config.machine.state_dir.clone();
    let (saved, problem) = state::load(&state_dir);
    let left_over: BTreeSet<_> = saved
        .announced
        .iter()
        .map(|saved| announce::Vip { address: saved.address, length: saved.length })
        .collect();
    let (questions, mut asked) = mpsc::channel::<Question>(QUESTIONS_MAX);
    let (events, mut received) = mpsc::channel(EVENTS_MAX);
    let (acknowledged, acknowledgements) = watch::channel(0);
    let (last_event, last_event_seen) = watch::channel(0);
    let (progress, progress_seen) = watch::channel(Progress::default());
    let (wanted_neighbours, neighbours) = watch::channel(neighbour::next_hop::Wanted::default());
    let (wanted_of_kernel, of_kernel) = watch::channel(reconcile::Wanted::default());
    let (tell_loopback, mut on_loopback) = watch::channel(reconcile::OnLoopback::default());
    let (agent_gate, gate) = watch::channel(Gate::default());
    let (say, mut said) = mpsc::channel(agents::listener::SAID_MAX);
    let listener_counts = agents::counts::ListenerCounts::default();
    let cluster = Part::new(&loaded, &version, workers.len(), clock.now());
    let (store, requests) = cluster.as_ref().map(|_| mpsc::channel(ASKED_MAX)).unzip();
    let own = own_address(&loaded.config).map(|address| (loaded.config.machine.name.clone(), address));
    let of_store = loaded.config.cluster.clone().zip(own);
    let refused = |refusal| RunError::Config(explain(&refusal));
    let tokens = token_file::tokens(&loaded.config).map_err(refused)?;
    claims.claim_vips(&loaded.config).map_err(|error| refused(Refusal::Claimed(error)))?;
    let (data_ports, links) = ports.into_iter().map(split).unzip();
    let saver = state::saver::Saver::start(state_dir).map_err(RunError::Runtime)?;
    let mut written = saver.written();
    let program = Program {
        config_path,
        version,
        started_unix_ms: clock.now().unix_ms,
        memory_bytes,
        figures: figures(&meter, lost_words, &connections, &listener_counts),
        grace,
        stopping: false,
        leaving: None,
    };
    let gauges = workers.iter().map(gauges).collect();
    let parts = controller::Parts {
        program,
        workers: gauges,
        ports: data_ports,
        saved,
        flow_secrets,
        revisions,
        content,
        file_text,
        cluster,
    };
    let controller = Controller::new(loaded, &tokens, parts, clock.now()).map_err(refused)?;
    let mut shell = Shell::new(
        controller,
        shell::Parts {
            clock,
            workers,
            links,
            on_loopback: on_loopback.clone(),
            events: events.clone(),
            listener_counts: listener_counts.clone(),
            store: store.clone(),
            saver,
            renew,
            told: Told {
                acknowledged,
                last_event,
                wanted_neighbours,
                wanted_of_kernel,
                agent_gate,
                progress,
            },
        },
    );
    for problem in [problem, unreadable].into_iter().flatten().chain(told) {
        shell.step(Event::Warning(problem));
    }
    shell.ask(Controller::save);

    #[cfg(feature = "etcd")]
    let keeper = of_store.zip(requests).map(|((config, own), requests)| {
        tokio::spawn(meter.watch(Job::Store, etcd::keep(config, own, requests, events.clone())))
    });
    // Not reached with a store: such a configuration is refused before anything starts.
    #[cfg(not(feature = "etcd"))]
    let keeper = of_store.zip(requests).map(|_| tokio::spawn(async {}));
    tokio::spawn(meter.watch(Job::Neighbours, neighbour::follow::follow(neighbours, events.clone())));
    let setup = reconcile::keep::Setup {
        wanted: of_kernel,
        left_over,
        on_loopback: tell_loopback,
        events,
        claims: claims.clone(),
    };
    tokio::spawn(meter.watch(Job::Reconcile, reconcile::keep::keep(setup)));
    let handle = Handle {
        questions,
        acknowledged: acknowledgements.clone(),
        last_event: last_event_seen,
        written: written.clone(),
        credentials,
        claims,
        store: store.map(|asked| Store { asked, progress: progress_seen }),
        meter: meter.clone(),
        applying: Arc::new(Semaphore::new(1)),
        preparing: Arc::new(Semaphore::new(PREPARING_MAX)),
        commanding: Arc::new(Semaphore::new(1)),
        pages: Pages::default(),
    };
    let router = api::router(handle.clone());
    let serving = || Serving::new(connections.clone(), meter.clone());
    tokio::spawn(listener::serve_unix(unix, router.clone(), serving()));
    if let Some(listener) = tcp {
        let router = api::with_token(router, presented.clone());
        tokio::spawn(listener::serve_tcp(listener, Some(presented.clone()), router, serving()));
    }
    if let Some(listener) = metrics {
        tokio::spawn(listener::serve_tcp(listener, None, api::metrics_router(handle.clone()), serving()));
    }

    let listening = match agent_listener {
        None => None,
        Some((listener, machine)) => {
            let shared = agents::listener::Shared { machine, said: say.clone(), gate, listener_counts };
            Some(agents::listener::Listening::start(listener, presented, shared).map_err(RunError::Runtime)?)
        }
    };

    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut weigh = tokio::time::interval(balance::PERIOD);
    weigh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut started = false;
    let mut failure = None;
    let (mut reloading, mut reload_again) = (None, false);
    loop {
        let tick = match shell.controller.is_acknowledged() {
            false => TICK_WAITING,
            true if shell.controller.is_cluster_busy() => TICK_WAITING,
            true if shell.controller.scanner.is_busy() => TICK_SCANNING,
            true => {
                shell.controller.publishes_in().map_or(TICK_IDLE, |wait| wait.clamp(TICK_WAITING, TICK_IDLE))
            }
        };
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Reload) if reloading.is_some() => reload_again = true,
                Some(Command::Reload) => {
                    notify(Notice::Reloading);
                    reloading = Some(tokio::spawn(meter.watch(Job::Configure, apply::reload(handle.clone()))));
                }
                Some(Command::Stop) | None => break,
            },
            () = ended(&mut reloading) => {
                reloading = None;
                notify(Notice::Reloaded);
                if std::mem::take(&mut reload_again) {
                    notify(Notice::Reloading);
                    reloading = Some(tokio::spawn(meter.watch(Job::Configure, apply::reload(handle.clone()))));
                }
            }
            _ = sweep.tick() => {
                if meter.time(Job::Sweep, || shell.sweep()) {
                    notify(Notice::Alive);
                }
                if let Some(publish) = &mut telemetry {
                    meter.time(Job::Telemetry, || {
                        for (command, answer) in telemetry::answers(&shell.ask(|controller| status::summary(controller))) {
                            publish(command, answer);
                        }
                    });
                }
            }
            _ = weigh.tick() => meter.time(Job::Weigh, || shell.step(Event::Weigh)),
            () = tokio::time::sleep(shell.controller.compares_in()) => {
                meter.time(Job::Sweep, || shell.step(Event::Compare));
            }
            Some(event) = received.recv() => meter.time(Job::Notes, || {
                shell.tell(event);
                // Mass failure arrives as many events: one view for all that are here.
                while let Ok(event) = received.try_recv() {
                    shell.tell(event);
                }
                shell.step(Event::Settle);
            }),
            Some(question) = asked.recv() => meter.time(Job::Question, || question(&mut shell)),
            Some(word) = said.recv() => meter.time(Job::Agents, || {
                shell.agent_said(word);
                // Many at once, but not so many that others wait.
                for _ in 0..WORDS_AT_ONCE {
                    let Ok(word) = said.try_recv() else { break };
                    shell.agent_said(word);
                }
            }),
            Ok(()) = written.changed() => {
                let error = written.borrow_and_update().error.clone();
                shell.step(Event::Saved(error.map_or(Ok(()), Err)));
            }
            () = tokio::time::sleep(tick) => {}
        }
        if shell.controller.publication.is_due() {
            // Making a view is a turn of its own.
            tokio::task::yield_now().await;
        }
        meter.time(Job::Housekeeping, || shell.tick());
        if shell.controller.has_left() {
            break;
        }
        if let Some(reason) = shell.controller.fatal() {
            failure = Some(RunError::Cluster(reason));
            break;
        }
        if !started && *acknowledgements.borrow() > 0 {
            started = true;
            notify(Notice::Started);
        }
    }

    notify(Notice::Stopping);
    let stopped = Instant::now();
    shell.step(Event::Stop);
    let number = shell.controller.saving.saves;
    let farewell = async {
        let _ = on_loopback.wait_for(|now| now.ours.is_empty()).await;
        let _ = written.wait_for(|written| written.saved >= number).await;
    };
    let farewell = async {
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        tokio::time::sleep_until(stopped + grace).await;
    };
    tokio::pin!(farewell);
    // Meanwhile the API goes on answering, so that health checks of routers see "not ready", not silence.
    loop {
        tokio::select! {
            biased;
            () = &mut farewell => break,
            Some(question) = asked.recv() => question(&mut shell),
            Some(event) = received.recv() => shell.tell(event),
            Some(word) = said.recv() => shell.agent_said(word),
            () = tokio::time::sleep(TICK_IDLE) => shell.tick(),
        }
    }
    if let Some(listening) = listening {
        listening.stop();
    }
    if let Some(keeper) = keeper {
        // Until now it forwarded, and so was one of them.
        shell.say_farewell();
        let _ = tokio::time::timeout(FAREWELL_TO_STORE, keeper).await;
    }
    failure.map_or(Ok(()), Err)
}

/// Whether a configuration can be in force on this machine: what it names is there, and nobody else has its VIPs.
fn usable(wanted: &Loaded, claims: &Claims) -> Result<(), Refusal> {
    compile::check(&wanted.config).map_err(Refusal::Compile)?;
    token_file::tokens(&wanted.config)?;
    Credentials::of(&wanted.config)?;
    claims.claim_vips(&wanted.config).map_err(Refusal::Claimed)
}

/// Ends when the task has, and never without one.
async fn ended(task: &mut Option<tokio::task::JoinHandle<()>>) {
    match task {
        // One that panicked has ended the process.
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

/// A bound listener on this runtime.
fn served(listener: std::net::TcpListener) -> Result<tokio::net::TcpListener, RunError> {
    tokio::net::TcpListener::from_std(listener).map_err(RunError::Runtime)
}

fn explain(refusal: &Refusal) -> String {
    format!("{refusal}; {}", refusal.help())
}

/// What the process counts of itself.
fn figures(
    meter: &Meter,
    lost_words: Box<dyn Fn() -> LostWords>,
    connections: &Arc<ConnectionCounts>,
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

#[cfg(test)]
mod tests;

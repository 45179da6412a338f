//! The management core's loop.

use crate::api;
use crate::api::connections::ConnectionCounts;
use crate::api::credentials::Credentials;
use crate::api::listener::{self, Serving};
use crate::apply;
use crate::cluster::adopt::{Part, own_address};
#[cfg(feature = "etcd")]
use crate::cluster::store;
use crate::listeners::Listeners;
use crate::meter::{Job, Meter};
use crate::plane::{Notice, Options, Plane};
use crate::revision::Ledger;
use crate::revision::start::{StartConfig, start};
use crate::truth::{Door, Parts, Question, Refusal, Truth};
use crate::{agents, announce, balance, neighbour, reconcile, state, telemetry};
use model::Loaded;
use model::api::EventKind;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

/// Questions that may wait; further askers wait for room.
const QUESTIONS_MAX: usize = 256;
/// Notes that may wait; further ones wait for room.
const NOTES_MAX: usize = 1024;
/// Configurations that are read, checked and compared at once.
const PREPARING_MAX: usize = 2;
/// Threads for what would hold the management thread up: those that prepare configurations, one that makes slot tables, some that
/// render answers.
const BLOCKING_MAX: usize = 8;
/// Overrides of agents that are heard in one go.
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

/// Why the management core could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No runtime.
    #[error("cannot start the management core: {0}")]
    Runtime(#[source] io::Error),
    /// The unix socket.
    #[error("cannot listen on {}: {source}; check that its directory can be written, or set api.socket", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Somebody answers on the unix socket.
    #[error("{holder} answers on {}; stop it, or set another api.socket or machine.name", path.display())]
    SocketInUse {
        /// The socket.
        path: PathBuf,
        /// Who.
        holder: String,
    },
    /// A TCP listener.
    #[error("cannot listen on {address}: {source}; set another api.listen or metrics.listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// A token, certificate or key file.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The configuration cannot be turned into a view.
    #[error("{0}")]
    Config(String),
    /// This machine cannot be a member of its cluster (any more).
    #[error("cluster: {0}")]
    Cluster(String),
}

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
    let Plane { workers, ports, now, memory_bytes, renew, mut telemetry } = plane;
    let (revisions, unreadable) = match loaded.config.cluster {
        // The store keeps what is wanted.
        Some(_) => (Ledger::default(), None),
        None => state::load_revisions(&loaded.config.machine.state_dir),
    };
    let file_text = loaded.text.clone();
    let StartConfig { loaded, content, told } = start(loaded, &revisions);

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
    let (notes, mut noted) = mpsc::channel(NOTES_MAX);
    let (acknowledged, acknowledgements) = watch::channel(0);
    let (wanted_neighbours, neighbour_wishes) = watch::channel(neighbour::Wanted::default());
    let (wanted_of_kernel, kernel_wishes) = watch::channel(reconcile::Wanted::default());
    let (tell_loopback, mut on_loopback) = watch::channel(reconcile::OnLoopback::default());
    let claims_of_keeper = claims.clone();
    let (agent_gate, gate) = watch::channel(agents::listener::Gate::default());
    let (say, mut said) = mpsc::channel(agents::listener::SAID_MAX);
    let doors = agents::counts::Doors::default();
    let (cluster, requests) = Part::new(&loaded, &version, workers.len()).unzip();
    let own = own_address(&loaded.config).map(|address| (loaded.config.machine.name.clone(), address));
    let store = loaded.config.cluster.clone().zip(own);
    let mut truth = Truth::new(
        loaded,
        Parts {
            config_path,
            version,
            workers,
            ports,
            now,
            memory_bytes,
            lost_words,
            meter: meter.clone(),
            credentials,
            connections: connections.clone(),
            saved,
            revisions,
            content,
            file_text,
            saver: state::saver::Saver::start(state_dir).map_err(RunError::Runtime)?,
            notes: notes.clone(),
            acknowledged,
            wanted_neighbours,
            wanted_of_kernel,
            on_loopback: on_loopback.clone(),
            renew,
            cluster,
            grace,
            doors: doors.clone(),
            claims,
            agent_gate,
        },
    )
    .map_err(|refusal| RunError::Config(explain(&refusal)))?;
    for problem in [problem, unreadable].into_iter().flatten().chain(told) {
        truth.events.push(EventKind::Warning, None, None, problem);
    }
    truth.save();

    #[cfg(feature = "etcd")]
    let keeper = store.zip(requests).map(|((config, own), requests)| {
        tokio::spawn(meter.watch(Job::Store, store::keep(config, own, requests, notes.clone())))
    });
    // Not reached with a store: such a configuration is refused before anything starts.
    #[cfg(not(feature = "etcd"))]
    let keeper = store.zip(requests).map(|_| tokio::spawn(async {}));
    tokio::spawn(meter.watch(Job::Neighbours, neighbour::follow::follow(neighbour_wishes, notes.clone())));
    let setup = reconcile::keep::Setup {
        wanted: kernel_wishes,
        left_over,
        on_loopback: tell_loopback,
        notes,
        claims: claims_of_keeper,
    };
    tokio::spawn(meter.watch(Job::Reconcile, reconcile::keep::keep(setup)));
    let door = Door {
        questions,
        acknowledged: acknowledgements.clone(),
        applying: Arc::new(Semaphore::new(1)),
        preparing: Arc::new(Semaphore::new(PREPARING_MAX)),
        commanding: Arc::new(Semaphore::new(1)),
        pages: api::Pages::default(),
    };
    let router = api::router(door.clone());
    let serving = || Serving::new(connections.clone(), meter.clone());
    tokio::spawn(listener::serve_unix(unix, router.clone(), serving()));
    if let Some(listener) = tcp {
        let router = api::with_token(router, presented.clone());
        tokio::spawn(listener::serve_tcp(listener, Some(presented.clone()), router, serving()));
    }
    if let Some(listener) = metrics {
        tokio::spawn(listener::serve_tcp(listener, None, api::metrics_router(door.clone()), serving()));
    }

    let listening = match agent_listener {
        None => None,
        Some((listener, machine)) => {
            let shared = agents::listener::Shared { machine, said: say.clone(), gate, doors };
            Some(agents::listener::Listening::start(listener, presented, shared).map_err(RunError::Runtime)?)
        }
    };

    let mut written = truth.written();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut weigh = tokio::time::interval(balance::PERIOD);
    weigh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rates = Rates::new(&truth);
    let mut started = false;
    let mut failure = None;
    let (mut reloading, mut reload_again) = (None, false);
    let mut is_unsaved = false;
    loop {
        let tick = match truth.is_acknowledged() {
            false => TICK_WAITING,
            true if truth.is_cluster_busy() => TICK_WAITING,
            true if truth.scanner.is_busy() => TICK_SCANNING,
            true => truth.publishes_in().map_or(TICK_IDLE, |wait| wait.clamp(TICK_WAITING, TICK_IDLE)),
        };
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Reload) if reloading.is_some() => reload_again = true,
                Some(Command::Reload) => {
                    notify(Notice::Reloading);
                    reloading = Some(tokio::spawn(meter.watch(Job::Configure, apply::reload(door.clone()))));
                }
                Some(Command::Stop) | None => break,
            },
            () = ended(&mut reloading) => {
                reloading = None;
                notify(Notice::Reloaded);
                if std::mem::take(&mut reload_again) {
                    notify(Notice::Reloading);
                    reloading = Some(tokio::spawn(meter.watch(Job::Configure, apply::reload(door.clone()))));
                }
            }
            _ = sweep.tick() => {
                let alive = meter.time(Job::Sweep, || {
                    truth.sweep();
                    truth.compare_clients();
                    truth.settle();
                    rates.measure(&mut truth)
                });
                if alive {
                    notify(Notice::Alive);
                }
                if let Some(publish) = &mut telemetry {
                    meter.time(Job::Telemetry, || {
                        for (command, answer) in telemetry::answers(&truth.summary()) {
                            publish(command, answer);
                        }
                    });
                }
            }
            _ = weigh.tick() => meter.time(Job::Weigh, || {
                truth.weigh();
                truth.settle();
            }),
            () = tokio::time::sleep(truth.compares_in()) => meter.time(Job::Sweep, || {
                truth.compare_clients();
                truth.settle();
            }),
            Some(note) = noted.recv() => meter.time(Job::Notes, || {
                truth.note(note);
                // Mass failure arrives as many notes: one view for all that are here.
                while let Ok(note) = noted.try_recv() {
                    truth.note(note);
                }
                truth.settle();
            }),
            Some(question) = asked.recv() => meter.time(Job::Question, || question(&mut truth)),
            Some(word) = said.recv() => meter.time(Job::Agents, || {
                truth.agent_said(word);
                // Many at once, but not so many that others wait.
                for _ in 0..WORDS_AT_ONCE {
                    let Ok(word) = said.try_recv() else { break };
                    truth.agent_said(word);
                }
            }),
            Ok(()) = written.changed() => {
                let error = written.borrow_and_update().error.clone();
                match (&error, is_unsaved) {
                    (Some(error), false) => {
                        let message = format!(
                            "the state was not saved ({error}); until it is, drains set by hand would not survive a restart"
                        );
                        truth.events.push(EventKind::StateUnsaved, None, None, message);
                    }
                    (None, true) => {
                        truth.events.push(EventKind::StateSaved, None, None, "the state is on the disk again");
                    }
                    _ => {}
                }
                is_unsaved = error.is_some();
            }
            () = tokio::time::sleep(tick) => {}
        }
        if truth.is_dirty() {
            // Making a view is a turn of its own.
            tokio::task::yield_now().await;
        }
        meter.time(Job::Housekeeping, || truth.tick());
        if truth.has_left() {
            break;
        }
        if let Some(reason) = truth.cluster.as_mut().and_then(|part| part.fatal.take()) {
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
    truth.stop();
    let number = truth.save();
    let mut saved = truth.written();
    let farewell = async {
        let _ = on_loopback.wait_for(|now| now.ours.is_empty()).await;
        let _ = saved.wait_for(|written| written.saved >= number).await;
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
            Some(question) = asked.recv() => question(&mut truth),
            Some(note) = noted.recv() => truth.note(note),
            Some(word) = said.recv() => truth.agent_said(word),
            () = tokio::time::sleep(TICK_IDLE) => truth.tick(),
        }
    }
    if let Some(listening) = listening {
        listening.stop();
    }
    if let (Some(part), Some(keeper)) = (&mut truth.cluster, keeper) {
        // Until now it forwarded, and so was one of them.
        part.say_farewell();
        let _ = tokio::time::timeout(FAREWELL_TO_STORE, keeper).await;
    }
    failure.map_or(Ok(()), Err)
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

/// Share of turns that found work, and whether every worker turns at all.
struct Rates {
    last: Vec<(u64, u64)>,
}

impl Rates {
    fn new(truth: &Truth) -> Rates {
        Rates { last: vec![(0, 0); truth.workers.len()] }
    }

    /// Updates the ratios; tells whether every worker has taken a turn since the last time.
    fn measure(&mut self, truth: &mut Truth) -> bool {
        let mut alive = true;
        let workers = truth.workers.iter().zip(&mut truth.busy_ratio).zip(&mut self.last);
        for ((worker, ratio), last) in workers {
            let totals = &worker.counters.totals;
            let now = (totals.turns.get(), totals.empty_turns.get());
            let (turns, empty) = (now.0.wrapping_sub(last.0), now.1.wrapping_sub(last.1));
            alive &= turns > 0;
            *ratio = crate::status::ratio(turns.saturating_sub(empty), turns);
            *last = now;
        }
        alive
    }
}

#[cfg(test)]
mod tests;

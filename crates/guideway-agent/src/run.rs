//! The agent at work: carries messages, results and signals to [`Host`], and does what it says.

use crate::arguments::Run;
use crate::backend::{Backend, Origin};
use crate::config::{self, AgentConfig, LoadedAgentConfig};
use crate::connection::{Connection, FINISH, Finishing};
use crate::event::Event;
use crate::host::{Action, DetectorId, Host, Link};
use crate::load::Sampler;
use crate::local_socket::LocalSocket;
use crate::random::Random;
use crate::request::{Reply, Request};
use crate::state_file::{Life, State};
use crate::{addresses, detect, tls};
use health::unix_ms;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

#[cfg(test)]
mod tests;

/// Events that wait, at most; who has more waits.
const EVENTS_MAX: usize = 4096;
/// Events that are taken in one turn, at most.
const TURN_MAX: usize = 256;
/// Time between two looks at the host's addresses.
const INTERFACES_EVERY: Duration = Duration::from_secs(5);
/// Time between two writes of the state file.
const SAVE_EVERY: Duration = Duration::from_millis(200);
/// Time between two looks at the load: half a heartbeat, within these.
const LOOK: std::ops::RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(1);
/// A connection that does not close although all is said is cut after so long.
const FINISHING_MAX: Duration = Duration::from_secs(10);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The runtime, or signals.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// A socket or a file.
    #[error("{0}")]
    Words(String),
}

/// From start to SIGTERM.
/// `hangup` tells that a reload was asked for before this could hear of it.
pub(crate) fn run(arguments: &Run, loaded: LoadedAgentConfig, hangup: &AtomicBool) -> Result<(), RunError> {
    for warning in &loaded.warnings {
        tracing::warn!(line = warning.line, column = warning.column, help = warning.help, "{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        let mut reload = signal(SignalKind::hangup())?;
        let mut agent = Agent::start(&arguments.config, loaded.config).await?;
        if hangup.swap(false, Relaxed) {
            agent.reload();
        }
        loop {
            let [terminate, interrupt] = &mut stop;
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = reload.recv() => agent.reload(),
                () = agent.turn() => {}
            }
        }
        agent.stop(arguments.keep).await;
        tracing::info!("stopped");
        Ok(())
    })
}

struct Agent {
    file: PathBuf,
    config: AgentConfig,
    host: Host,
    tls: Option<tls::Client>,
    begun: Instant,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    connections: BTreeMap<Link, Connection>,
    finishing: Vec<(Instant, Finishing)>,
    detectors: BTreeMap<DetectorId, AbortHandle>,
    random: Random,
    /// `None` while it looks.
    sampler: Option<Box<Sampler>>,
    look_at: Instant,
    interfaces_at: Instant,
    unsaved: bool,
    save_at: Instant,
    states: watch::Sender<State>,
    tasks: Vec<AbortHandle>,
}

impl Agent {
    async fn start(file: &Path, config: AgentConfig) -> Result<Agent, RunError> {
        let now = unix_ms();
        for path in [&config.socket, &config.state_file] {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)
                    .map_err(|e| RunError::Words(format!("{}: {e}", directory.display())))?;
            }
        }
        let tls = config.tls.as_ref().map(tls::client).transpose().map_err(RunError::Words)?;
        // First: it also finds out whether another agent runs with this file.
        let socket = LocalSocket::bind(&config.socket).map_err(RunError::Words)?;
        let state = state(&config.state_file, now);
        let interfaces = addresses::of_interfaces().await.unwrap_or_else(|error| {
            tracing::warn!("addresses of the interfaces: {error}");
            Vec::new()
        });
        let mut random = Random::of_this_process();
        let incarnation = now.max(state.incarnation.saturating_add(1));
        let own = Random::new(random.up_to(u64::MAX));
        let mut host = Host::new(config.clone(), incarnation, interfaces, own);
        for backend in config.backends.clone() {
            let life = state.life(&backend.service, &backend.name, backend.address);
            register(&mut host, backend, life, Origin::File, now);
        }
        for of in state.socket {
            register(&mut host, of.backend, Some(of.incarnation), Origin::Socket, now);
        }
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (states, saved) = watch::channel(held(&host));
        let save = tokio::spawn(save(config.state_file.clone(), saved)).abort_handle();
        let serve = tokio::spawn(socket.serve(sender.clone())).abort_handle();
        let begun = Instant::now();
        tracing::info!(
            version = env!("GUIDEWAY_VERSION"),
            agent = config.name,
            incarnation,
            config = %file.display(),
            "started"
        );
        Ok(Agent {
            file: file.to_owned(),
            config,
            host,
            tls,
            begun,
            events,
            sender,
            connections: BTreeMap::new(),
            finishing: Vec::new(),
            detectors: BTreeMap::new(),
            random,
            sampler: Some(Box::default()),
            look_at: begun,
            interfaces_at: begun + INTERFACES_EVERY,
            unsaved: true,
            save_at: begun,
            states,
            tasks: vec![save, serve],
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Does what is due, and waits for the next thing to happen. May be given up while it waits.
    async fn turn(&mut self) {
        let now = Instant::now();
        self.host.tick(self.now_ms());
        if now >= self.interfaces_at {
            self.interfaces_at = now + INTERFACES_EVERY;
            let sender = self.sender.clone();
            tokio::spawn(async move {
                let found = addresses::of_interfaces().await;
                // Nobody waits for it when the program ends.
                let _ = sender.send(Event::Interfaces(found)).await;
            });
        }
        self.look(now);
        self.act();
        if self.unsaved && now >= self.save_at {
            (self.unsaved, self.save_at) = (false, now + SAVE_EVERY);
            self.states.send_replace(held(&self.host));
        }
        self.finishing.retain(|(begun, finishing)| !finishing.is_done() && begun.elapsed() < FINISHING_MAX);
        let due = self.host.deadline_ms().map(|ms| self.begun + Duration::from_millis(ms));
        let look = self.host.heartbeat_ms().and(self.sampler.as_ref()).map(|_| self.look_at);
        let save = self.unsaved.then_some(self.save_at);
        let wake = [due, look, save, Some(self.interfaces_at)].into_iter().flatten().min().unwrap_or(now);
        let mut events = Vec::with_capacity(16);
        tokio::select! {
            biased;
            _ = self.events.recv_many(&mut events, TURN_MAX) => {}
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        for event in events {
            self.take(event);
        }
        self.act();
    }

    /// Looks at the load beside this thread, when it is time to.
    fn look(&mut self, now: Instant) {
        let Some(heartbeat_ms) = self.host.heartbeat_ms() else { return };
        if now < self.look_at {
            return;
        }
        let Some(mut sampler) = self.sampler.take() else { return };
        let heartbeat = Duration::from_millis(u64::from(heartbeat_ms));
        self.look_at = now + (heartbeat / 2).clamp(*LOOK.start(), *LOOK.end());
        let (samples, sender) = (self.host.samples(), self.sender.clone());
        tokio::task::spawn_blocking(move || {
            let loads = sampler.sample(&samples, heartbeat);
            // Nobody waits for it when the program ends.
            let _ = sender.blocking_send(Event::Loaded(sampler, loads));
        });
    }

    fn take(&mut self, event: Event) {
        let now_ms = self.now_ms();
        match event {
            Event::Heard(link, message) => self.host.heard(link, *message, now_ms),
            Event::Closed(link, problem) => {
                self.connections.remove(&link);
                self.host.closed(link, &problem, now_ms);
            }
            Event::Checked(id, result) => self.host.checked(id, result, now_ms),
            Event::Loaded(sampler, loads) => {
                self.sampler = Some(sampler);
                self.host.set_loads(loads, now_ms);
            }
            Event::Interfaces(Ok(found)) => self.host.set_interfaces(found, unix_ms(), now_ms),
            Event::Interfaces(Err(error)) => tracing::warn!("addresses of the interfaces: {error}"),
            Event::Asked(request, answer) => self.look_and_answer(*request, answer),
            Event::Looked(request, found, answer) => {
                if let Ok(found) = found {
                    self.host.set_interfaces(found, unix_ms(), now_ms);
                }
                self.answer(*request, answer);
            }
        }
    }

    /// A container's address may be new: looks at the interfaces before it says that there is none.
    fn look_and_answer(&mut self, request: Request, answer: oneshot::Sender<Reply>) {
        match &request {
            Request::Register { address, .. } if !self.host.is_local(address.to_canonical()) => {
                let sender = self.sender.clone();
                tokio::spawn(async move {
                    let found = addresses::of_interfaces().await;
                    // Nobody waits for it when the program ends.
                    let _ = sender.send(Event::Looked(Box::new(request), found, answer)).await;
                });
            }
            _ => self.answer(request, answer),
        }
    }

    fn answer(&mut self, request: Request, answer: oneshot::Sender<Reply>) {
        // Whoever went away needs no answer.
        let _ = answer.send(self.asked(request));
    }

    fn asked(&mut self, request: Request) -> Reply {
        match request {
            Request::Register { service, name, address, weight, port, capacity, incarnation, load_file } => {
                let address = address.to_canonical();
                let backend = Backend { service, name, address, weight, port, capacity, load_file };
                // Whoever may write to the socket may write anything.
                let words = model::visible(&format!("{}/{}", backend.service, backend.name)).into_owned();
                let done = self.host.register(backend, incarnation, Origin::Socket, unix_ms(), self.now_ms());
                match &done {
                    Ok(outcome) => tracing::info!(backend = words, "{outcome:?}"),
                    Err(unfit) => tracing::warn!(backend = words, "not registered: {}", unfit.error),
                }
                done.into()
            }
            Request::Deregister { service, name } => {
                let done = self.host.deregister(&service, &name, self.now_ms());
                if done.is_ok() {
                    tracing::info!(backend = format!("{service}/{name}"), "deregistered");
                }
                done.into()
            }
            Request::Status {} => self.host.status(self.now_ms()).into(),
        }
    }

    /// Does what the host says, until it says nothing more.
    fn act(&mut self) {
        loop {
            let actions = self.host.actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Dial { link, peer } => {
                        let connection = Connection::start(link, peer, self.tls.clone(), self.sender.clone());
                        self.connections.insert(link, connection);
                    }
                    Action::Greet { link, hello, shares } => {
                        self.say(link, |connection| connection.greet(&hello, shares));
                    }
                    Action::Send { link, message } => {
                        self.say(link, |connection| connection.send(&message));
                    }
                    Action::Finish(link) => {
                        if let Some(connection) = self.connections.remove(&link) {
                            self.finishing.push((Instant::now(), connection.finish()));
                        }
                    }
                    Action::Cut(link) => {
                        self.connections.remove(&link);
                    }
                    Action::Start(id, job) => {
                        let random = Random::new(self.random.up_to(u64::MAX));
                        let task = tokio::spawn(detect::run(id, job, random, self.sender.clone()));
                        self.detectors.insert(id, task.abort_handle());
                    }
                    Action::Stop(id) => {
                        if let Some(task) = self.detectors.remove(&id) {
                            task.abort();
                        }
                    }
                    Action::Save => self.unsaved = true,
                }
            }
        }
    }

    fn say(&mut self, link: Link, what: impl FnOnce(&Connection) -> Result<(), String>) {
        let Some(connection) = self.connections.get(&link) else { return };
        if let Err(problem) = what(connection) {
            self.connections.remove(&link);
            self.host.closed(link, &problem, self.now_ms());
        }
    }

    /// Reads the file again. A bad one changes nothing.
    fn reload(&mut self) {
        let loaded = match config::read(&self.file) {
            Ok(loaded) => loaded,
            Err(report) => {
                tracing::error!("the file is not taken over: {report:?}");
                return;
            }
        };
        for warning in &loaded.warnings {
            tracing::warn!(line = warning.line, column = warning.column, help = warning.help, "{warning}");
        }
        let mut config = loaded.config;
        let tls = match config.tls.as_ref().map(tls::client).transpose() {
            Ok(tls) => tls,
            Err(error) => {
                tracing::error!("the file is not taken over: {error}");
                return;
            }
        };
        let fixed = (&config.name, &config.socket, &config.state_file);
        if fixed != (&self.config.name, &self.config.socket, &self.config.state_file) {
            tracing::warn!("agent.name, agent.socket and agent.state_file change with a restart only");
            config.name.clone_from(&self.config.name);
            config.socket.clone_from(&self.config.socket);
            config.state_file.clone_from(&self.config.state_file);
        }
        // Certificates are read anew, even if their names are the same.
        self.tls = tls;
        self.config = config.clone();
        self.host.reload(config, unix_ms(), self.now_ms());
        self.act();
        tracing::info!("file read again");
    }

    /// Says goodbye; at most [`FINISH`].
    async fn stop(mut self, keep: bool) {
        self.host.stop(keep);
        self.act();
        for task in &self.tasks {
            task.abort();
        }
        if let Err(error) = held(&self.host).write(&self.config.state_file) {
            tracing::error!("state not saved: {error}");
        }
        // What machines say now is not waited for.
        self.events.close();
        let finishing = std::mem::take(&mut self.finishing);
        let all = async {
            for (_, each) in finishing {
                each.done().await;
            }
        };
        if tokio::time::timeout(FINISH, all).await.is_err() {
            tracing::warn!("not every machine has closed its connection");
        }
    }
}

fn register(host: &mut Host, backend: Backend, incarnation: Option<u64>, origin: Origin, unix_ms: u64) {
    let words = format!("{}/{}", backend.service, backend.name);
    if let Err(unfit) = host.register(backend, incarnation, origin, unix_ms, 0) {
        tracing::error!(backend = words, help = unfit.help, "not registered: {}", unfit.error);
    }
}

/// What is saved.
fn held(host: &Host) -> State {
    let (mut file, mut socket) = (Vec::new(), Vec::new());
    for (of, origin) in host.registrations() {
        match origin {
            Origin::File => file.push(Life {
                service: of.backend.service.clone(),
                name: of.backend.name.clone(),
                address: of.backend.address,
                incarnation: of.incarnation,
            }),
            Origin::Socket => socket.push(of.clone()),
        }
    }
    State::new(host.incarnation(), file, socket)
}

/// What was saved. A file that is not ours is put aside.
fn state(path: &Path, unix_ms: u64) -> State {
    State::read(path, unix_ms).unwrap_or_else(|error| {
        let aside = path.with_extension("unreadable");
        let moved = std::fs::rename(path, &aside);
        tracing::error!(
            "{error}; {}",
            match moved {
                Ok(()) => format!("moved to {}", aside.display()),
                Err(error) => format!("and it cannot be moved: {error}"),
            }
        );
        State::new(0, Vec::new(), Vec::new())
    })
}

/// Writes each state, or a later one.
async fn save(path: PathBuf, mut states: watch::Receiver<State>) {
    while states.changed().await.is_ok() {
        let (state, path) = (states.borrow_and_update().clone(), path.clone());
        let written = tokio::task::spawn_blocking(move || state.write(&path)).await;
        if let Ok(Err(error)) = written {
            tracing::error!("state not saved: {error}");
        }
    }
}

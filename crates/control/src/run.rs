//! Runs the management core until a signal ends it.

use self::event_loop::SignalCommand;
use crate::plane::{Plane, RunOptions};
use crate::run_error::RunError;
use model::Loaded;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

mod event_loop;
mod start;

/// Threads for what would hold the management thread up: those that prepare configurations, one that makes slot tables,
/// some that render answers.
const BLOCKING_MAX: usize = 8;

/// Runs the management core on this thread until SIGTERM or SIGINT: configuration to views, health checks, next
/// hops, announcements, API. SIGHUP reads the file again.
///
/// On SIGTERM it is no longer ready at once, withdraws its announcements, lets `options.grace` pass in which traffic
/// turns elsewhere while the workers go on forwarding, and returns; the caller then stops workers and ports.
///
/// # Errors
/// A listener, a file it needs, or the configuration; all of them before the first view is published.
#[expect(clippy::needless_pass_by_value, reason = "the start takes it over")]
pub fn run(options: RunOptions, config: Loaded, plane: Plane) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_MAX)
        .build()
        .map_err(RunError::Runtime)?;
    let result = runtime.block_on(async {
        let commands = listen_to_signals(options.hangup.as_deref())?;
        start::start(options, &config, plane, commands)?.run().await
    });
    // A hanging disk must not keep us from ending.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Turns signals into commands; `earlier` tells that a SIGHUP came before this.
fn listen_to_signals(earlier: Option<&AtomicBool>) -> Result<mpsc::Receiver<SignalCommand>, RunError> {
    let mut hangup = signal(SignalKind::hangup()).map_err(RunError::Runtime)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Runtime)?;
    let (tell, commands) = mpsc::channel(4);
    // Looked at when later ones are heard: none is lost between, and one that is heard twice asks for one reload more.
    if earlier.is_some_and(|hangup| hangup.swap(false, Relaxed)) {
        // There is room.
        let _ = tell.try_send(SignalCommand::Reload);
    }
    tokio::spawn(async move {
        loop {
            let command = tokio::select! {
                _ = hangup.recv() => SignalCommand::Reload,
                _ = terminate.recv() => SignalCommand::Stop,
                _ = interrupt.recv() => SignalCommand::Stop,
            };
            if tell.send(command).await.is_err() {
                return;
            }
        }
    });
    Ok(commands)
}

#[cfg(test)]
mod tests;

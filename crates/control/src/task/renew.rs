//! Exception devices are made anew on a thread of its own each, because that blocks.

use crate::event::Event;
use crate::plane::Renew;
use tokio::sync::mpsc;
use wire::PortId;

/// Starts making a device.
///
/// # Errors
/// No thread, in words.
pub(crate) fn start(renew: Renew, port: PortId, events: mpsc::Sender<Event>) -> Result<(), String> {
    #[expect(clippy::disallowed_methods, reason = "on the new thread")]
    let job = move || {
        let result = renew(port);
        let _ = events.blocking_send(Event::Renewed { port, result });
    };
    let started = std::thread::Builder::new().name("renew".to_owned()).spawn(job);
    started.map(drop).map_err(|error| error.to_string())
}

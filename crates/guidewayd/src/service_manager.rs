//! What systemd is told (`Type=notify`). Without it, nothing happens.

use control::Notice;
use sd_notify::NotifyState;

/// Passes a notice on. The watchdog is fed by the workers' turns: control tells `Alive` only when all of them moved.
pub(crate) fn tell(notice: Notice) {
    let result = match notice {
        Notice::Started => {
            tracing::info!("serving");
            sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("serving")])
        }
        Notice::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        Notice::Reloading => {
            tracing::info!("reading the configuration again");
            let now = NotifyState::monotonic_usec_now();
            now.and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]))
        }
        Notice::Reloaded => sd_notify::notify(&[NotifyState::Ready]),
        Notice::Stopping => {
            tracing::info!("stopping: no longer ready, announcements withdrawn");
            sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status("draining")])
        }
    };
    if let Err(error) = result {
        tracing::debug!("cannot tell the service manager: {error}");
    }
}

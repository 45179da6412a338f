//! `guideway top`.

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::outcome::EXIT_CODES;
use crate::screen::{Sample, Screen};
use crate::{CommandResult, Done};
use clap::Args;
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Live screen of traffic, services, workers, backends and drops
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Time between two looks, milliseconds
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(100..=60_000),
    )]
    interval_ms: u64,
    #[command(flatten)]
    connection: Connection,
}

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum KeyAction {
    Quit,
    Scroll(isize),
    Redraw,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let daemon = Daemon::new(&arguments.connection)?;
    if !std::io::stdout().is_terminal() {
        return Err(Failure::usage("top needs a terminal").help("for a pipe: guideway show services --watch"));
    }
    // The first look before the screen is taken: a failure is then an ordinary message.
    let start = Instant::now();
    let mut screen = Screen::default();
    screen.feed(look(&daemon, start)?);
    let interval = Duration::from_millis(arguments.interval_ms);
    let mut terminal =
        ratatui::try_init().map_err(|e| Failure::failed(format!("cannot use the terminal: {e}")))?;
    let ended = live(&mut terminal, &daemon, &mut screen, start, interval);
    ratatui::restore();
    ended.map_err(|e| Failure::failed(format!("cannot use the terminal: {e}")))?;
    Ok(Done::Well)
}

fn live(
    terminal: &mut DefaultTerminal,
    daemon: &Daemon,
    screen: &mut Screen,
    start: Instant,
    interval: Duration,
) -> std::io::Result<()> {
    let mut next = Instant::now() + interval;
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            match key_action(&event::read()?) {
                KeyAction::Quit => return Ok(()),
                KeyAction::Scroll(rows) => screen.scroll(rows),
                KeyAction::Redraw => {}
            }
        } else {
            match look(daemon, start) {
                Ok(sample) => screen.feed(sample),
                Err(e) => screen.trouble(e.to_string()),
            }
            next = Instant::now() + interval;
        }
    }
}

fn key_action(event: &Event) -> KeyAction {
    let Event::Key(key) = event else { return KeyAction::Redraw };
    if key.kind == KeyEventKind::Release {
        return KeyAction::Redraw;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => KeyAction::Quit,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => KeyAction::Quit,
        KeyCode::Up | KeyCode::Char('k') => KeyAction::Scroll(-1),
        KeyCode::Down | KeyCode::Char('j') => KeyAction::Scroll(1),
        KeyCode::PageUp => KeyAction::Scroll(-10),
        KeyCode::PageDown => KeyAction::Scroll(10),
        _ => KeyAction::Redraw,
    }
}

fn look(daemon: &Daemon, start: Instant) -> Result<Sample, Failure> {
    Ok(Sample {
        status: daemon.get("/v1/status")?,
        services: daemon.get("/v1/services")?,
        backends: daemon.get("/v1/backends")?,
        workers: daemon.get("/v1/workers")?,
        drops: daemon.get("/v1/drops")?,
        // An older daemon does not know who.
        sources: daemon.get("/v1/sources").unwrap_or_default(),
        at_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::KeyEvent;

    #[test]
    fn keys() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        assert_eq!(key_action(&key(KeyCode::Char('q'), KeyModifiers::NONE)), KeyAction::Quit);
        assert_eq!(key_action(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)), KeyAction::Quit);
        assert_eq!(key_action(&key(KeyCode::Char('c'), KeyModifiers::NONE)), KeyAction::Redraw);
        assert_eq!(key_action(&key(KeyCode::Down, KeyModifiers::NONE)), KeyAction::Scroll(1));
        assert_eq!(key_action(&Event::Resize(1, 1)), KeyAction::Redraw);
    }
}

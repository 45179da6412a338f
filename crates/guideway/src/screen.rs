//! What `guideway top` draws: two samples of the daemon's counters make rates, rates make a screen. No clock and no
//! terminal here.

use crate::command::show::{backend_state, service_state};
use crate::table::{duration, short};
use model::api::{
    BackendState, BackendStatus, DropCount, ManagementTurns, ServiceState, ServiceStatus, SourceRate, Status,
    WorkerStatus,
};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};
use std::collections::HashMap;

/// What the daemon said at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Milliseconds on any clock that only goes forward.
    pub(crate) at_ms: u64,
    pub(crate) status: Status,
    pub(crate) services: Vec<ServiceStatus>,
    pub(crate) backends: Vec<BackendStatus>,
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) drops: Vec<DropCount>,
    pub(crate) sources: Vec<SourceRate>,
}

/// The screen's state.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    before: Option<Sample>,
    now: Option<Sample>,
    /// Why the last attempt to ask failed.
    trouble: Option<String>,
    /// First backend shown.
    scroll: usize,
}

impl Screen {
    /// Takes a new sample; after a restart of the daemon rates begin anew.
    pub(crate) fn feed(&mut self, sample: Sample) {
        self.trouble = None;
        let same_run = |old: &Sample| old.status.pid == sample.status.pid && old.at_ms < sample.at_ms;
        self.before = self.now.take().filter(same_run);
        self.now = Some(sample);
    }

    /// The daemon could not be asked; what was known stays on the screen.
    pub(crate) fn trouble(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// Moves the list of backends.
    pub(crate) fn scroll(&mut self, rows: isize) {
        let last = self.now.as_ref().map_or(0, |s| s.backends.len().saturating_sub(1));
        self.scroll = self.scroll.saturating_add_signed(rows).min(last);
    }

    /// Change a second of a counter, both of whose values come from `of`.
    fn rate(&self, of: impl Fn(&Sample) -> Option<u64>) -> f64 {
        let (Some(before), Some(now)) = (&self.before, &self.now) else { return 0.0 };
        let elapsed_s = now.at_ms.saturating_sub(before.at_ms) as f64 / 1000.0;
        let change = of(now).unwrap_or(0).saturating_sub(of(before).unwrap_or(0));
        if elapsed_s > 0.0 { change as f64 / elapsed_s } else { 0.0 }
    }

    /// Draws everything.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        let Some(now) = &self.now else {
            let text = self.trouble.clone().unwrap_or_else(|| "waiting for the daemon …".into());
            frame.render_widget(Paragraph::new(text), frame.area());
            return;
        };
        let drops = now.drops.iter().filter(|d| d.count > 0).count();
        let rows = |n: usize, most: u16| u16::try_from(n).unwrap_or(u16::MAX).min(most) + 2;
        let [head, services, workers, backends, bottom, foot] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Length(rows(now.services.len(), 8)),
            Constraint::Length(rows(now.workers.len(), 8)),
            Constraint::Min(3),
            Constraint::Length(rows(drops.max(now.sources.len()), 6)),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_head(frame, head, now);
        self.draw_services(frame, services, now);
        self.draw_workers(frame, workers, now);
        self.draw_backends(frame, backends, now);
        if now.sources.is_empty() {
            self.draw_drops(frame, bottom, now);
        } else {
            let [left, right] =
                Layout::horizontal([Constraint::Min(40), Constraint::Length(34)]).areas(bottom);
            self.draw_drops(frame, left, now);
            draw_sources(frame, right, &now.sources);
        }
        let foot_text = match &self.trouble {
            Some(why) => Line::styled(why.clone(), Style::new().fg(Color::Red)),
            None => Line::styled("q quit   up/down backends", Style::new().add_modifier(Modifier::DIM)),
        };
        frame.render_widget(Paragraph::new(foot_text), foot);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect, now: &Sample) {
        let s = &now.status;
        let ready = if s.ready {
            Span::styled("ready", Style::new().fg(Color::Green))
        } else {
            Span::styled(format!("not ready: {}", s.reason), Style::new().fg(Color::Red))
        };
        let used = s.flows as f64 * 100.0 / s.flows_capacity.max(1) as f64;
        let rate = |of: fn(&Status) -> u64| short(self.rate(|x| Some(of(&x.status))));
        let lines = vec![
            Line::from(vec![
                Span::raw(format!(
                    "{}  guidewayd {}  up {}  generation {}  ",
                    s.machine,
                    s.version,
                    duration(s.uptime_ms),
                    s.generation
                )),
                ready,
            ]),
            Line::raw(format!(
                "rx {}/s  tx {}/s  punted {}/s  dropped {}/s  originated {}/s",
                rate(|s| s.rx),
                rate(|s| s.tx),
                rate(|s| s.punted),
                rate(|s| s.dropped),
                rate(|s| s.originated),
            )),
            Line::raw(format!(
                "flows {} of {} ({used:.1}%)  backends {} of {} up  services {} of {} ready{}",
                short(s.flows as f64),
                short(s.flows_capacity as f64),
                s.backends_up,
                s.backends,
                s.services_ready,
                s.services,
                longest_turn(s).map_or_else(String::new, |of| format!(
                    "  longest management turn {:.1} ms ({})",
                    of.longest_us as f64 / 1000.0,
                    of.job
                ))
            )),
        ];
        frame.render_widget(Paragraph::new(lines), area);
    }

    fn draw_services(&self, frame: &mut Frame<'_>, area: Rect, now: &Sample) {
        let before = self.before.iter().flat_map(|s| &s.services).map(|s| (s.name.as_str(), s));
        let before: HashMap<&str, &ServiceStatus> = before.collect();
        let rows = now.services.iter().map(|s| {
            let old = before.get(s.name.as_str());
            let colour = match s.state {
                ServiceState::Ready => Color::Green,
                ServiceState::Panic => Color::Yellow,
                ServiceState::Empty => Color::Red,
            };
            Row::new([
                Cell::from(s.name.clone()),
                Cell::from(format!("{}/{}", endpoint(&s.vip, s.port), s.protocol)),
                Cell::from(Span::styled(service_state(s.state), Style::new().fg(colour))),
                Cell::from(format!("{}/{}", s.backends_up, s.backends_total)),
                Cell::from(short(s.flows as f64)),
                Cell::from(short(self.step(s.flows_new, old.map(|o| o.flows_new)))),
                Cell::from(short(self.step(s.packets, old.map(|o| o.packets)))),
                Cell::from(short(8.0 * self.step(s.bytes, old.map(|o| o.bytes)))),
            ])
        });
        let widths = [16, 30, 6, 8, 7, 7, 9, 7].map(Constraint::Length);
        let head = ["service", "vip", "state", "backends", "flows", "new/s", "packets/s", "bit/s"];
        frame.render_widget(boxed(Table::new(rows, widths), &head), area);
    }

    fn draw_workers(&self, frame: &mut Frame<'_>, area: Rect, now: &Sample) {
        let before = self.before.iter().flat_map(|s| &s.workers).map(|w| (w.core, w));
        let before: HashMap<u8, &WorkerStatus> = before.collect();
        let rows = now.workers.iter().map(|w| {
            let old = before.get(&w.core);
            let busy = w.busy_ratio.clamp(0.0, 1.0);
            // Ten marks at most: the ratio was clamped.
            let bar = "#".repeat((busy * 10.0).round() as usize);
            Row::new([
                Cell::from(format!("worker {}", w.core)),
                Cell::from(format!("cpu {}", w.cpu)),
                Cell::from(format!("{bar:<10} {:>3.0}%", busy * 100.0)),
                Cell::from(short(self.step(w.rx, old.map(|o| o.rx)))),
                Cell::from(short(self.step(w.tx, old.map(|o| o.tx)))),
                Cell::from(short(self.step(w.dropped, old.map(|o| o.dropped)))),
                Cell::from(short(w.flows as f64)),
                Cell::from(format!("{:.1}", w.packets_per_burst)),
            ])
        });
        let widths = [16, 8, 16, 7, 7, 7, 7, 9].map(Constraint::Length);
        let head = ["worker", "cpu", "busy", "rx/s", "tx/s", "drop/s", "flows", "per burst"];
        frame.render_widget(boxed(Table::new(rows, widths), &head), area);
    }

    fn draw_backends(&self, frame: &mut Frame<'_>, area: Rect, now: &Sample) {
        let before = self.before.iter().flat_map(|s| &s.backends).map(|b| (b.id, b));
        let before: HashMap<u32, &BackendStatus> = before.collect();
        let rows = now.backends.iter().skip(self.scroll).map(|b| {
            let old = before.get(&b.id);
            let colour = match b.state {
                BackendState::Up => Color::Green,
                BackendState::Drain | BackendState::Removed => Color::Yellow,
                BackendState::Down => Color::Red,
            };
            let last = b.health.as_ref().and_then(|h| h.last.as_ref()).map_or("-", |c| c.reason.as_str());
            Row::new([
                Cell::from(format!("{}/{}", b.service, b.name)),
                Cell::from(b.address.to_string()),
                Cell::from(Span::styled(backend_state(b.state), Style::new().fg(colour))),
                Cell::from(b.weight.to_string()),
                Cell::from(short(b.flows as f64)),
                Cell::from(short(self.step(b.flows_new, old.map(|o| o.flows_new)))),
                Cell::from(short(self.step(b.packets, old.map(|o| o.packets)))),
                Cell::from(last.to_owned()),
            ])
        });
        let widths = [
            Constraint::Length(22),
            Constraint::Length(24),
            Constraint::Length(7),
            Constraint::Length(6),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(9),
            Constraint::Min(8),
        ];
        let head = ["backend", "address", "state", "weight", "flows", "new/s", "packets/s", "last check"];
        frame.render_widget(boxed(Table::new(rows, widths), &head), area);
    }

    fn draw_drops(&self, frame: &mut Frame<'_>, area: Rect, now: &Sample) {
        let before = self.before.iter().flat_map(|s| &s.drops).map(|d| (d.reason.as_str(), d.count));
        let before: HashMap<&str, u64> = before.collect();
        let mut drops: Vec<&DropCount> = now.drops.iter().filter(|d| d.count > 0).collect();
        drops.sort_by_key(|d| std::cmp::Reverse(d.count));
        let rows = drops.into_iter().map(|d| {
            let rate = self.step(d.count, before.get(d.reason.as_str()).copied());
            let cells = [d.reason.clone(), short(d.count as f64), short(rate), d.help.clone()];
            Row::new(cells.map(Cell::from))
        });
        let widths =
            [Constraint::Length(22), Constraint::Length(7), Constraint::Length(7), Constraint::Min(20)];
        let head = ["dropped", "frames", "per s", "meaning"];
        frame.render_widget(boxed(Table::new(rows, widths), &head), area);
    }

    /// Change a second of a counter that may not have been there before.
    fn step(&self, now: u64, before: Option<u64>) -> f64 {
        let (Some(a), Some(b), Some(before)) = (&self.before, &self.now, before) else { return 0.0 };
        let elapsed_s = b.at_ms.saturating_sub(a.at_ms) as f64 / 1000.0;
        if elapsed_s > 0.0 { now.saturating_sub(before) as f64 / elapsed_s } else { 0.0 }
    }
}

/// Who sends most of what is dropped.
fn draw_sources(frame: &mut Frame<'_>, area: Rect, sources: &[SourceRate]) {
    let rows =
        sources.iter().map(|of| Row::new([of.source.clone(), short(of.per_second as f64)].map(Cell::from)));
    let widths = [Constraint::Min(20), Constraint::Length(7)];
    frame.render_widget(boxed(Table::new(rows, widths), &["dropped from", "per s"]), area);
}

/// VIP and port as people write them.
/// The longest turn of the management thread since the start.
fn longest_turn(status: &Status) -> Option<&ManagementTurns> {
    status.management.iter().max_by_key(|of| of.longest_us)
}

fn endpoint(vip: &str, port: u16) -> String {
    let port = if port == 0 { "any".into() } else { port.to_string() };
    if vip.contains(':') { format!("[{vip}]:{port}") } else { format!("{vip}:{port}") }
}

/// A table under its heading; a line above tells it from what stands before.
fn boxed<'a>(table: Table<'a>, head: &[&'static str]) -> Table<'a> {
    let head = Row::new(head.iter().copied()).style(Style::new().add_modifier(Modifier::BOLD));
    table.header(head).column_spacing(1).block(Block::new().borders(Borders::TOP))
}

#[cfg(test)]
mod tests;

//! The demo: every mode with real clients and servers, then the same with backends that die, drain and join.

use crate::binaries::Binaries;
use crate::command::{LabError, Result};
use crate::config::Mode;
use crate::load::http::HttpReport;
use crate::scenario::{Churn, Variant, check_conservation, churn, even_load, wait_up};
use crate::topology::{Lab, Shape};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How to call it.
pub const USAGE: &str = "\
usage: ./run demo [--requests N] [--modes ipip,gre,gue,vxlan,geneve,l2] [--no-ipv6]

Starts guidewayd on AF_XDP between real clients and nginx servers in network namespaces, and for each mode \
sends N
requests (default 20000), each on a new connection, from 101 client addresses; then kills, drains and adds \
backends
while requests arrive. IPv6 follows with a tenth of the requests. Needs root. The programs are built to be \
there soon,
not to be fast: docs/performance says what a release build reaches.";

/// What the demo does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Requests for each IPv4 mode.
    pub requests: u64,
    /// Modes.
    pub modes: Vec<Mode>,
    /// Whether IPv6 follows.
    pub ipv6: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { requests: 20_000, modes: Mode::ALL.to_vec(), ipv6: true }
    }
}

impl Options {
    /// Reads the command line; the error is for the user, and is [`USAGE`] when that was asked for.
    pub fn parse(arguments: &[String]) -> std::result::Result<Options, String> {
        let mut options = Options::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let (flag, attached) = match argument.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let mut value = || {
                attached
                    .clone()
                    .or_else(|| arguments.next().cloned())
                    .ok_or_else(|| format!("{flag} needs a value"))
            };
            match flag {
                "--requests" => {
                    let text = value()?;
                    options.requests = text
                        .parse()
                        .ok()
                        .filter(|count| (1000..=10_000_000).contains(count))
                        .ok_or_else(|| format!("--requests takes 1000 to 10000000, not {text:?}"))?;
                }
                "--modes" => {
                    options.modes = value()?
                        .split(',')
                        .map(|word| {
                            Mode::from_word(word).ok_or_else(|| {
                                format!("no mode {word:?}; there are ipip, gre, gue, vxlan, geneve, l2")
                            })
                        })
                        .collect::<std::result::Result<_, _>>()?;
                }
                "--no-ipv6" => options.ipv6 = false,
                "-h" | "--help" => return Err(USAGE.to_owned()),
                _ => return Err(format!("unknown argument {argument:?}\n{USAGE}")),
            }
        }
        Ok(options)
    }

    /// What is shown, with the number of requests.
    fn variants(&self) -> Vec<(Variant, u64)> {
        let mut all: Vec<_> = self.modes.iter().map(|&mode| (Variant::v4(mode), self.requests)).collect();
        if self.ipv6 {
            let few = (self.requests / 10).max(1000);
            all.extend(self.modes.iter().map(|&mode| (Variant::v6(mode), few)));
            // l2 has no outer header, so both sides are of one family.
            let mixed: Vec<Mode> = self.modes.iter().copied().filter(|&mode| mode != Mode::L2).collect();
            all.extend(mixed.iter().map(|&mode| (Variant::v6_in_v4(mode), few)));
        }
        all
    }
}

const WEIGHTS: [u32; 3] = [1, 1, 2];
const NAMED_WEIGHTS: [(&str, u32); 3] = [("b1", 1), ("b2", 1), ("b3", 2)];

struct Row {
    variant: Variant,
    load: HttpReport,
    churn: Option<Churn>,
}

/// Runs the demo, with progress and a table on standard output.
pub fn run(options: &Options, binaries: Binaries) -> Result<()> {
    let begun = Instant::now();
    let shape = Shape { balancers: 1, backends: 4, ..Shape::default() };
    let lab = Lab::with_binaries("demo", &shape, binaries)?;
    let mut rows = Vec::new();
    for (variant, requests) in options.variants() {
        // Every IPv4 mode goes through churn; of IPv6, one variant with IPv6 and one with IPv4 backends.
        let with_churn = !variant.vip6 || variant.mode == options.modes[0];
        let row = show(&lab, variant, requests, with_churn)
            .map_err(|error| LabError::Wrong(format!("{}: {error}", variant.name())));
        match row {
            Ok(row) => rows.push(row),
            Err(error) => {
                say(&table(&rows));
                return Err(error);
            }
        }
    }
    drop(lab);
    say(&table(&rows));
    say(&format!("All as it should be, in {} s.", begun.elapsed().as_secs()));
    Ok(())
}

fn show(lab: &Lab, variant: Variant, requests: u64, with_churn: bool) -> Result<Row> {
    let name = variant.name();
    let progress = Display::new();
    progress.line(&format!("{name}: starting guidewayd"));
    lab.forget_path_mtus()?;
    let config = variant.config(lab, 1, &[(1, WEIGHTS[0]), (2, WEIGHTS[1]), (3, WEIGHTS[2])]);
    let balancer = lab.start_balancer(1, &config)?;
    wait_up(&balancer, "web", &["b1", "b2", "b3"])?;
    let mut shown = Instant::now();
    let load = even_load(lab, variant, &NAMED_WEIGHTS, requests, |now| {
        if shown.elapsed() > progress.pace {
            shown = Instant::now();
            progress.line(&format!(
                "{name}: {} of {requests} requests answered, {} failed",
                now.done, now.failed
            ));
        }
    })?;
    progress.line(&format!("{name}: {requests} requests answered, 0 failed"));
    let churn = if with_churn {
        Some(churn(lab, &balancer, variant, WEIGHTS, |step| {
            progress.line(&format!("{name}: while requests arrive, {step}"));
        })?)
    } else {
        None
    };
    check_conservation(&balancer)?;
    balancer.stop()?;
    progress.end();
    Ok(Row { variant, load, churn })
}

/// Progress: one line that is written over on a terminal, else a line now and then.
struct Display {
    over: bool,
    pace: Duration,
}

impl Display {
    fn new() -> Display {
        let over = std::io::stdout().is_terminal();
        Display { over, pace: Duration::from_millis(if over { 200 } else { 2000 }) }
    }

    fn line(&self, text: &str) {
        if self.over {
            print(&format!("\r\x1b[K{text}"));
        } else {
            say(text);
        }
    }

    fn end(&self) {
        if self.over {
            say("");
        }
    }
}

fn say(text: &str) {
    print(&format!("{text}\n"));
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: the result is the exit status.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

fn table(rows: &[Row]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_table(rows, &mut out);
    out
}

fn write_table(rows: &[Row], out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "\n{:<12} {:>8} {:>6} {:>7} {:>7} {:>6} {:>7} {:>7} | {:>22} | {:>7} | {:>18}",
        "mode",
        "requests",
        "failed",
        "clients",
        "req/s",
        "p99 ms",
        "max ms",
        "split",
        "killed: failed, window",
        "drained",
        "added: failed, got"
    )?;
    for row in rows {
        let load = &row.load;
        let (killed, drained, added) = match &row.churn {
            Some(churn) => (
                format!("{} in {} ms", churn.kill_failures, churn.kill_window_ms),
                format!("{}", churn.drain_failures),
                format!("{}, {}", churn.add_failures, churn.added_answers),
            ),
            None => Default::default(),
        };
        writeln!(
            out,
            "{:<12} {:>8} {:>6} {:>7} {:>7} {:>6.1} {:>7.1} {:>5.1} % | {killed:>22} | {drained:>7} | \
             {added:>18}",
            row.variant.name(),
            load.ok,
            load.failed,
            load.sources,
            load.ok * 1000 / load.elapsed_ms.max(1),
            load.latency_p99_us as f64 / 1000.0,
            load.latency_max_us as f64 / 1000.0,
            load.deviation(&NAMED_WEIGHTS) * 100.0,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let parse =
            |line: &str| Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parse(""), Ok(Options::default()));
        let some = parse("--requests 2000 --modes=ipip,l2 --no-ipv6").unwrap();
        assert_eq!(some, Options { requests: 2000, modes: vec![Mode::Ipip, Mode::L2], ipv6: false });
        for bad in ["--requests", "--requests 1", "--modes foo", "--modes", "x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_variants_are_shown() {
        let names: Vec<String> =
            Options::default().variants().iter().map(|(variant, _)| variant.name()).collect();
        assert_eq!(names.len(), 17);
        assert!(
            names.contains(&"ipip 6in6".to_owned()) && names.contains(&"vxlan 6in4".to_owned()),
            "{names:?}"
        );
    }
}

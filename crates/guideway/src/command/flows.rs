//! `guideway flows`.

mod lines;

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::input::is_stdin;
use crate::name::escaped;
use crate::outcome::EXIT_CODES;
use crate::table::{TextTable, duration, grouped};
use crate::{CommandResult, Done, output};
use clap::{Args, Subcommand};
use lines::{Batch, Lines};
use model::api::{
    DescribedFlow, FlowDump, ForgottenFlow, HeldFlow, REFUSED_LINES_MAX, RefusedLine, RestoredFlows,
};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pieces of a dump, at most: more than the largest tables have.
const PIECES_MAX: u32 = 1 << 22;
/// How long the daemon may take for a batch of lines, beyond what it may take for anything else.
const BATCH_WITHIN: Duration = Duration::from_secs(10);

/// Describe or forget one flow; dump flow tables and restore them
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: FlowsTask,
}

#[derive(Subcommand, Debug)]
enum FlowsTask {
    /// Say what the workers know of one flow: its entry, its slot, whether that is tainted, its owner's record
    Describe(OneFlow),
    /// Remove a flow's entry: its next packet is steered as one of a flow that nobody tracks
    ///
    /// A flow in a tainted slot then goes to the slot's base, and in a cluster where its owner remembers it.
    Forget(OneFlow),
    /// Write the tracked flows as lines of JSON
    Dump(DumpTo),
    /// Give flows of a dump their entries again, with state and age as they were
    ///
    /// A line that does not fit (another backend, a flow that has an entry, no room …) is refused with its number, and costs the others
    /// nothing; then the exit code is 1.
    Restore(RestoreFrom),
}

#[derive(Args, Debug)]
struct OneFlow {
    /// The service
    service: String,
    // No link, as the brackets would be in a comment.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        help = "Source address and port; IPv6 in brackets: [2001:db8::7]:4000"
    )]
    client: SocketAddr,
    /// Destination address and port; needed where the service has more than one
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: Option<SocketAddr>,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct DumpTo {
    /// Only flows of this service
    #[arg(long)]
    service: Option<String>,
    /// Where to write them; - is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
struct RestoreFrom {
    /// What guideway flows dump has written; - is standard input
    file: PathBuf,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    match &arguments.what {
        FlowsTask::Describe(of) => describe(of),
        FlowsTask::Forget(of) => forget(of),
        FlowsTask::Dump(to) => dump(to),
        FlowsTask::Restore(from) => restore(from),
    }
}

impl OneFlow {
    fn target(&self, verb: &str) -> String {
        let (service, client) = (escaped(&self.service), escaped(&self.client.to_string()));
        let to = self.to.map_or_else(String::new, |to| format!("&to={}", escaped(&to.to_string())));
        format!("/v1/flows/{verb}?service={service}&client={client}{to}")
    }
}

fn describe(of: &OneFlow) -> CommandResult {
    let described: DescribedFlow = Daemon::new(&of.connection)?.get(&of.target("describe"))?;
    if of.json {
        output::json(&described)?;
    } else {
        output::print(&described_text(&described))?;
    }
    Ok(Done::Well)
}

fn described_text(of: &DescribedFlow) -> String {
    let mut text =
        format!("{} ({}): {} to {}\nslot {}: ", of.service, of.protocol, of.client, of.to, of.slot);
    text += &match &of.slot_backend {
        Some(backend) => format!("new flows go to {backend}\n"),
        None => "nobody takes new flows\n".to_owned(),
    };
    if !of.tracked {
        text += "the slot decides alone: its packets need no entry\n";
    } else if of.tainted {
        text += &match &of.base {
            Some(base) => format!("the slot is tainted: flows without an entry belong to {base}\n"),
            None => "the slot is tainted\n".to_owned(),
        };
    }
    if of.entries.is_empty() {
        text += "no worker has an entry\n";
    } else {
        text += &held(&of.entries);
    }
    if !of.records.is_empty() {
        let mut t = TextTable::new(&[">owner's record: worker", "backend", "begin", ">idle"]);
        for record in &of.records {
            let begin = if record.guess { "not seen" } else { "seen" };
            let idle = duration(record.idle_ms);
            t.row([record.core.to_string(), record.backend.clone(), begin.to_owned(), idle]);
        }
        text += &t.render();
    }
    text
}

fn held(entries: &[HeldFlow]) -> String {
    let mut t = TextTable::new(&[">worker", "backend", "address", "state", ">idle"]);
    for entry in entries {
        t.row([
            entry.core.to_string(),
            entry.backend.clone(),
            entry.backend_address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
            entry.state.clone(),
            duration(entry.idle_ms),
        ]);
    }
    t.render()
}

fn forget(of: &OneFlow) -> CommandResult {
    let daemon = Daemon::new(&of.connection)?;
    let gone: ForgottenFlow = daemon.post(&of.target("forget"), Vec::new(), Duration::ZERO)?;
    if of.json {
        output::json(&gone)?;
        return Ok(Done::Well);
    }
    let flow = format!("the flow of {} to {}", gone.client, gone.to);
    output::print(&match &gone.forgotten[..] {
        [] => format!("no worker had an entry for {flow}\n"),
        entries => format!("{flow} is forgotten:\n{}", held(entries)),
    })?;
    Ok(Done::Well)
}

fn dump(to: &DumpTo) -> CommandResult {
    let daemon = Daemon::new(&to.connection)?;
    let service =
        to.service.as_deref().map_or_else(String::new, |name| format!("&service={}", escaped(name)));
    let cannot = |e: std::io::Error| Failure::failed(format!("cannot write {}: {e}", to.write.display()));
    let (mut file, mut count, mut cursor) = (None, 0, String::new());
    for _ in 0..PIECES_MAX {
        let piece: FlowDump = daemon.get(&format!("/v1/flows/dump?cursor={}{service}", escaped(&cursor)))?;
        let mut text = String::new();
        for flow in &piece.flows {
            let line = serde_json::to_string(flow);
            text += &line.map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))?;
            text.push('\n');
        }
        count += piece.flows.len() as u64;
        if is_stdin(&to.write) {
            output::print(&text)?;
        } else {
            // Not before there is an answer: an earlier dump is not lost because nobody answers.
            if file.is_none() {
                file = Some(File::create(&to.write).map_err(cannot)?);
            }
            if let Some(file) = &mut file {
                file.write_all(text.as_bytes()).map_err(cannot)?;
            }
        }
        match piece.next {
            Some(next) => cursor = next,
            None => {
                if let Some(file) = file {
                    file.sync_all().map_err(cannot)?;
                    output::line(&format!("{} flows written to {}", grouped(count), to.write.display()))?;
                }
                return Ok(Done::Well);
            }
        }
    }
    Err(Failure::failed("the daemon's dump does not end"))
}

fn restore(from: &RestoreFrom) -> CommandResult {
    let daemon = Daemon::new(&from.connection)?;
    let mut lines = Lines::new(opened(&from.file)?);
    let mut sum = RestoredFlows::default();
    loop {
        let batch = lines.next_batch().map_err(|e| cannot_read(&from.file, &e))?;
        let Some(Batch { first, text, refused }) = batch else { break };
        let answer: Result<RestoredFlows, Failure> =
            daemon.post_lines("/v1/flows/restore", text.into_bytes(), BATCH_WITHIN);
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                if first > 1 {
                    let done = grouped(sum.restored);
                    output::note(&format!("{done} flows of the lines before line {first} are restored"));
                }
                return Err(failure);
            }
        };
        sum.restored += answer.restored;
        sum.refused += answer.refused + refused.len() as u64;
        let in_file = answer.refusals.into_iter().map(|of| RefusedLine { line: first + of.line - 1, ..of });
        let mut refusals: Vec<RefusedLine> = refused.into_iter().chain(in_file).collect();
        refusals.sort_by_key(|of| of.line);
        let room = REFUSED_LINES_MAX.saturating_sub(sum.refusals.len());
        sum.refusals.extend(refusals.into_iter().take(room));
    }
    report(&sum, from.json)
}

fn report(sum: &RestoredFlows, json: bool) -> CommandResult {
    if json {
        output::json(sum)?;
    } else {
        for RefusedLine { line, reason } in &sum.refusals {
            output::warning(&format!("line {line}: {reason}"));
        }
        let unnamed = sum.refused.saturating_sub(sum.refusals.len() as u64);
        if unnamed > 0 {
            output::warning(&format!("and {} more lines", grouped(unnamed)));
        }
        let (restored, refused) = (grouped(sum.restored), grouped(sum.refused));
        output::line(&format!("{restored} flows restored, {refused} lines refused"))?;
    }
    Ok(if sum.refused == 0 { Done::Well } else { Done::BadNews })
}

fn opened(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if is_stdin(path) {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = File::open(path).map_err(|e| cannot_read(path, &e))?;
    Ok(Box::new(BufReader::new(file)))
}

fn cannot_read(path: &Path, e: &std::io::Error) -> Failure {
    let name = if is_stdin(path) { "standard input".to_owned() } else { path.display().to_string() };
    Failure::failed(format!("cannot read {name}: {e}"))
}

#[cfg(test)]
mod tests;

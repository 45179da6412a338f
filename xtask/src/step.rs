//! One step of a longer run: a command with a time limit, a log file, and the number of tests it passed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How a step ended.
#[derive(Clone, Debug)]
struct Outcome {
    /// Name of the step.
    name: String,
    /// Whether it is good.
    verdict: Verdict,
    /// Tests that passed in it.
    passed: u64,
    /// Tests that failed in it; a step without tests that fails counts as one.
    failed: u64,
}

/// Good or bad. There is no third: a tool that is missing or a test that was left out is bad.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    /// Good.
    Passed,
    /// Bad.
    Failed(String),
}

/// Runs steps one after another and remembers how they ended.
#[derive(Debug)]
pub(crate) struct Runner {
    logs: PathBuf,
    verbose: bool,
    /// Marks every process started here, so that one left behind can be found.
    pub(crate) mark: String,
    outcomes: Vec<Outcome>,
    /// Tests that this machine's CPU cannot run, in their own words.
    not_run: BTreeSet<String>,
    started: Instant,
}

impl Runner {
    /// A runner that writes its logs below `logs`.
    pub(crate) fn new(logs: PathBuf, verbose: bool) -> std::io::Result<Runner> {
        std::fs::create_dir_all(&logs)?;
        let mark = format!("{}", std::process::id());
        Ok(Runner {
            logs,
            verbose,
            mark,
            outcomes: Vec::new(),
            not_run: BTreeSet::new(),
            started: Instant::now(),
        })
    }

    /// Runs all commands of a step, also behind one that fails; all must end within `limit`.
    pub(crate) fn step(&mut self, name: &str, limit: Duration, commands: Vec<Command>) {
        let begun = Instant::now();
        print!("{name:.<34} ");
        // A closed terminal is no reason to stop testing.
        let _ = std::io::stdout().flush();
        let log = self.logs.join(format!("{}.log", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")));
        let mut counts = Counts::default();
        let mut verdict = Verdict::Passed;
        match File::create(&log) {
            Err(e) => verdict = Verdict::Failed(format!("{}: {e}", log.display())),
            Ok(mut file) => {
                for command in commands {
                    let left = limit.saturating_sub(begun.elapsed());
                    match self.one(&command, left, &mut file, &mut counts) {
                        Ok(status) if status.success() => {}
                        Ok(status) if status.code() == Some(124) => {
                            verdict = Verdict::Failed(format!("not finished after {} s", limit.as_secs()));
                            break;
                        }
                        // What a shell and `timeout` say of a program that is not there.
                        Ok(status) if status.code() == Some(127) => {
                            verdict = Verdict::Failed(missing(&command));
                        }
                        Ok(status) => verdict = Verdict::Failed(format!("{status}")),
                        Err(e) => verdict = Verdict::Failed(e.to_string()),
                    }
                }
            }
        }
        if !counts.failing.is_empty() {
            verdict = Verdict::Failed(counts.failing.join(", "));
        }
        if !counts.ignored.is_empty() {
            verdict = Verdict::Failed(format!("left out: {}", counts.ignored.join(", ")));
            counts.failed += counts.ignored.len() as u64;
        }
        if matches!(verdict, Verdict::Failed(_)) && counts.failed == 0 {
            counts.failed = 1;
        }
        self.finish(name, verdict, begun.elapsed(), counts, Some(&log));
    }

    /// Records a check made by us.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<(), String>) {
        let begun = Instant::now();
        print!("{name:.<34} ");
        let (verdict, counts) = match check() {
            Ok(()) => (Verdict::Passed, Counts { passed: 1, ..Counts::default() }),
            Err(e) => (Verdict::Failed(e), Counts { failed: 1, ..Counts::default() }),
        };
        self.finish(name, verdict, begun.elapsed(), counts, None);
    }

    /// Records a step that cannot be done: it counts as failed.
    pub(crate) fn cannot(&mut self, name: &str, why: &str) {
        self.check(name, || Err(why.to_owned()));
    }

    /// Prints the table and the last line; true if nothing failed.
    pub(crate) fn summary(&self) -> bool {
        println!();
        for o in &self.outcomes {
            if let Verdict::Failed(why) = &o.verdict {
                println!("failed:  {} ({why})", o.name);
            }
        }
        for what in &self.not_run {
            println!("not run: {what}");
        }
        let passed: u64 = self.outcomes.iter().map(|o| o.passed).sum();
        let failed: u64 = self.outcomes.iter().map(|o| o.failed).sum();
        println!(
            "{} steps in {} s; logs in {}",
            self.outcomes.len(),
            seconds(self.started.elapsed()),
            self.logs.display()
        );
        println!("{passed} passed, {failed} failed");
        failed == 0
    }

    fn finish(&mut self, name: &str, verdict: Verdict, took: Duration, counts: Counts, log: Option<&Path>) {
        let tests = if counts.passed + counts.failed > 0 {
            format!("  {} passed, {} failed", counts.passed, counts.failed)
        } else {
            String::new()
        };
        match &verdict {
            Verdict::Passed => println!("ok      {:>6} s{tests}", seconds(took)),
            Verdict::Failed(why) => {
                println!("FAILED  {:>6} s{tests}: {why}", seconds(took));
                if let Some(text) = log.and_then(|log| std::fs::read(log).ok()) {
                    let text = String::from_utf8_lossy(&text);
                    for line in telling(&text, &counts.failing) {
                        println!("    {line}");
                    }
                }
            }
        }
        self.not_run.extend(counts.not_run);
        let (passed, failed) = (counts.passed, counts.failed);
        self.outcomes.push(Outcome { name: name.to_owned(), verdict, passed, failed });
    }

    /// Runs one command under coreutils' `timeout`, its two outputs merged into the log.
    fn one(
        &self,
        command: &Command,
        limit: Duration,
        log: &mut File,
        counts: &mut Counts,
    ) -> std::io::Result<ExitStatus> {
        let mut limited = Command::new("timeout");
        limited.args(["--foreground", "--signal=INT", "--kill-after=30"]);
        limited.arg(format!("{}", limit.as_secs().max(1)));
        limited.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(key, value),
                None => limited.env_remove(key),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            limited.current_dir(directory);
        }
        limited.env(guideway_lab::cleanup::RUN, &self.mark).env("CARGO_TERM_COLOR", "never");
        writeln!(log, "+ {command:?}")?;
        let (reader, writer) = std::io::pipe()?;
        limited.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = limited.spawn()?;
        // The command keeps the write ends; ours must go, or the reader would wait for ever.
        drop(limited);
        let (lines, received) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let mut exited: Option<(ExitStatus, Instant)> = None;
        loop {
            match received.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    log.write_all(&line)?;
                    log.write_all(b"\n")?;
                    let line = String::from_utf8_lossy(&line);
                    counts.read(&line);
                    if self.verbose {
                        println!("    {line}");
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return child.wait(),
                // A daemon left behind may hold the pipe open for ever: it is found at the end, not waited for.
                Err(mpsc::RecvTimeoutError::Timeout) => match exited {
                    Some((status, at)) if at.elapsed() > Duration::from_secs(2) => return Ok(status),
                    Some(_) => {}
                    None => exited = child.try_wait()?.map(|status| (status, Instant::now())),
                },
            }
        }
    }
}

/// Lines of a failed step's log that are shown, of each failed test and in all where none is named.
const SHOWN_OF_A_TEST: usize = 40;
const SHOWN: usize = 60;

/// What a failed step's log says of why: what the tests that failed printed, or the end where no test did.
fn telling<'a>(log: &'a str, failing: &[String]) -> Vec<&'a str> {
    let lines: Vec<&str> = log.lines().collect();
    let mut told = Vec::new();
    for name in failing {
        let head = format!("---- {name} stdout ----");
        for at in lines.iter().enumerate().filter(|(_, line)| **line == head).map(|(at, _)| at) {
            let rest = &lines[at + 1..];
            let end = rest.iter().position(|line| line.starts_with("---- ") || *line == "failures:");
            let section = &rest[..end.unwrap_or(rest.len())];
            told.push(lines[at]);
            // A panic is the last thing that a test says.
            told.extend(&section[section.len().saturating_sub(SHOWN_OF_A_TEST)..]);
        }
    }
    if told.is_empty() {
        told.extend(&lines[lines.len().saturating_sub(SHOWN)..]);
    }
    told
}

fn seconds(d: Duration) -> String {
    format!("{:.1}", d.as_secs_f64())
}

/// A program that is not there, and what installs it.
fn missing(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    format!("{program} is missing; dpdk-setup/packages.sh --development installs what is needed")
}

/// Tests counted from the output of test executables.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    /// Names of tests that failed.
    failing: Vec<String>,
    /// Names of tests that are marked as ignored, and what tests say that they left out.
    ignored: Vec<String>,
    /// What tests say that the CPU lacks a feature for: `not run: <what> (<feature>)`.
    not_run: BTreeSet<String>,
}

impl Counts {
    fn read(&mut self, line: &str) {
        // Not indented: what a test prints of a run of its own is not this run's.
        let line = line.trim_end();
        if let Some(what) = line.strip_prefix("not run: ") {
            self.not_run.insert(what.to_owned());
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failing.push(name.to_owned());
        } else if let Some(what) = line.strip_prefix("skipped: ") {
            // A test that returned early, whatever it calls itself.
            self.ignored.push(what.to_owned());
        } else if let Some((name, _)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ignored"))
        {
            // An example in a document that is only to be read is one by intention.
            if !name.contains(" - ") {
                self.ignored.push(name.to_owned());
            }
        } else if line.starts_with("test result:") {
            let words: Vec<&str> = line.split([' ', ';']).filter(|w| !w.is_empty()).collect();
            for pair in words.windows(2) {
                let Ok(n) = pair[0].parse::<u64>() else { continue };
                match pair[1] {
                    "passed" => self.passed += n,
                    "failed" => self.failed += n,
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_shows_what_its_failed_tests_said() {
        let log = "---- a stdout ----\nfine\n\nfailures:\n\n---- b stdout ----\n1\npanicked\n\nfailures:\n    b\nend";
        assert_eq!(telling(log, &["b".to_owned()]), ["---- b stdout ----", "1", "panicked", ""]);
        let long: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(telling(&long, &[]).len(), SHOWN);
        assert_eq!(telling(&long, &["b".to_owned()]).last(), Some(&"99"), "a test that left no section");
        let long = format!("---- b stdout ----\n{long}\nfailures:\n");
        assert_eq!(telling(&long, &["b".to_owned()]).len(), 1 + SHOWN_OF_A_TEST);
    }

    #[test]
    fn counts_tests_and_names_those_left_out() {
        let mut c = Counts::default();
        c.read("test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s");
        assert_eq!((c.passed, c.failed), (3, 2));
        c.read("running 12 tests");
        c.read("    test another::runs ... ignored");
        c.read("test ring::late ... ignored");
        c.read("test ring::early ... FAILED");
        assert_eq!(c.failing, ["ring::early"]);
        c.read("test ring::slow ... ignored, needs an hour");
        c.read("test crates/flow/src/lib.rs - Table (line 12) ... ignored");
        c.read("skipped: no etcd here");
        assert_eq!(c.ignored, ["ring::late", "ring::slow", "no etcd here"]);
        c.read("not run: look-ups of eight keys at a time (no avx512f)");
        assert_eq!((c.passed, c.failed, c.not_run.len()), (3, 2, 1));
    }

    #[test]
    fn a_test_left_out_fails_the_step() {
        let outcome = |line: &str| {
            let logs = std::env::temp_dir().join(format!("guideway-xtask-left-out-{}", std::process::id()));
            let mut runner = Runner::new(logs.clone(), false).expect("temporary directory");
            let mut command = Command::new("echo");
            command.arg(line);
            runner.step("tests", Duration::from_secs(10), vec![command]);
            std::fs::remove_dir_all(logs).expect("temporary directory goes");
            runner.outcomes.remove(0).verdict
        };
        assert_eq!(outcome("test a::b ... ok"), Verdict::Passed);
        assert_eq!(outcome("test a::b ... ignored"), Verdict::Failed("left out: a::b".to_owned()));
        assert_eq!(outcome("not run: a::b (no avx512f)"), Verdict::Passed);
    }

    #[test]
    fn a_missing_tool_fails_the_step_by_name() {
        let logs = std::env::temp_dir().join(format!("guideway-xtask-missing-{}", std::process::id()));
        let mut runner = Runner::new(logs.clone(), false).expect("temporary directory");
        runner.step("tool", Duration::from_secs(10), vec![Command::new("no-such-tool")]);
        let why = "no-such-tool is missing; dpdk-setup/packages.sh --development installs what is needed";
        assert_eq!(runner.outcomes[0].verdict, Verdict::Failed(why.to_owned()));
        assert!(!runner.summary());
        std::fs::remove_dir_all(logs).expect("temporary directory goes");
    }

    #[test]
    fn a_failing_command_fails_the_step() {
        let logs = std::env::temp_dir().join(format!("guideway-xtask-{}", std::process::id()));
        let mut runner = Runner::new(logs.clone(), false).expect("temporary directory");
        runner.step("good", Duration::from_secs(10), vec![Command::new("true")]);
        runner.step("bad", Duration::from_secs(10), vec![Command::new("false")]);
        let mut slow = Command::new("sleep");
        slow.arg("30");
        runner.step("slow", Duration::from_secs(1), vec![slow]);
        let failed: Vec<u64> = runner.outcomes.iter().map(|o| o.failed).collect();
        assert_eq!(failed, [0, 1, 1]);
        assert!(!runner.summary());
        std::fs::remove_dir_all(logs).expect("temporary directory goes");
    }
}

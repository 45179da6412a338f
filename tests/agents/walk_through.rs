//! The walk-through of docs/agents.md, run as it is written there: a block of `console` is commands and what they print, a block of
//! `toml` is a file.
//!
//! A command's prompt says where it is typed: `balancer#`, `host#`, `client$`, or a container's name. What differs from run to run
//! (times, counts, process ids) is not compared. With `GUIDEWAY_LAB_ACCEPT=1` what is printed is written into the document.

use guideway_lab::agent::listening;
use guideway_lab::command::run_with;
use guideway_lab::{Agent, Balancer, Lab, Namespace, Shape};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const HEADING: &str = "## Walk-through";

/// A command, and what it prints according to the document.
struct Step {
    place: String,
    prompt: String,
    command: String,
    printed: Vec<String>,
}

/// A piece of the document.
enum Piece {
    /// Lines that are copied.
    Text(String),
    /// A file: place, path, content.
    File(String, String, String),
    Step(Step),
}

/// Takes the section apart. Every line of it is in some piece.
fn pieces(section: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut lines = section.lines().peekable();
    while let Some(line) = lines.next() {
        pieces.push(Piece::Text(line.to_owned()));
        if line == "```console" {
            while let Some(line) = lines.next_if(|line| *line != "```") {
                let (place, prompt, command) =
                    prompt(line).unwrap_or_else(|| panic!("no prompt at the beginning of {line:?}"));
                let mut step = Step {
                    place: place.to_owned(),
                    prompt: prompt.to_owned(),
                    command: command.to_owned(),
                    printed: Vec::new(),
                };
                while let Some(line) = lines.next_if(|line| *line != "```" && self::prompt(line).is_none()) {
                    step.printed.push(line.to_owned());
                }
                pieces.push(Piece::Step(step));
            }
        } else if line == "```toml" {
            let first = lines.next().unwrap_or_default();
            pieces.push(Piece::Text(first.to_owned()));
            let (place, path) = first
                .strip_prefix("# ")
                .and_then(|rest| rest.split_once(": "))
                .unwrap_or_else(|| panic!("{first:?} names no file"));
            let mut content = String::new();
            while let Some(line) = lines.next_if(|line| *line != "```") {
                content.push_str(line);
                content.push('\n');
            }
            pieces.push(Piece::File(place.to_owned(), path.to_owned(), content));
        }
    }
    pieces
}

/// Where a line is typed, with its prompt, and the command.
fn prompt(line: &str) -> Option<(&str, &str, &str)> {
    let (prompt, command) = line.split_once(' ')?;
    let place = prompt.strip_suffix(['#', '$'])?;
    let known = ["balancer", "host", "client", "b1", "b2", "b3"];
    known.contains(&place).then_some((place, prompt, command))
}

/// What is compared of what is printed: words, where a number that is no address counts as any other.
fn shape(printed: &str) -> Vec<String> {
    let masked = |word: &str| {
        let is_address = word.matches('.').count() >= 3 || word.contains("::");
        let is_name = word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.len() <= 3;
        if is_address || is_name {
            // A port behind it may be anyone's.
            return word.split(':').next().unwrap_or_default().to_owned();
        }
        let mut out = String::new();
        for c in word.chars() {
            match c {
                '0'..='9' => {
                    if !out.ends_with('N') {
                        out.push('N');
                    }
                }
                _ => out.push(c),
            }
        }
        // 3.5 and 3 are both a number.
        out.replace("N.N", "N")
    };
    printed.lines().map(|line| line.split_whitespace().map(masked).collect::<Vec<_>>().join(" ")).collect()
}

/// The lab as the document sees it.
struct Stage {
    lab: Lab,
    balancer: Balancer,
    agent: Option<Agent>,
    /// A path of the document, and where it is here.
    paths: Vec<(String, String)>,
    bin: PathBuf,
}

impl Stage {
    fn start() -> Stage {
        let lab = Lab::with(
            "walk-through",
            &Shape { balancers: 1, backends: 4, huge_pages: 256, management: true },
        )
        .unwrap();
        let mut config = lab.config(1);
        config.extra = listening(1);
        let balancer = lab.start_balancer(1, &config).unwrap();
        let dir = lab.dir().join("walk");
        let at = |name: &str| {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path.to_string_lossy().into_owned()
        };
        let paths = vec![
            ("/etc/guideway/guideway.toml".to_owned(), balancer.config_path().to_string_lossy().into_owned()),
            ("/run/guideway/lb1.sock".to_owned(), config.socket().to_string_lossy().into_owned()),
            ("/etc/guideway-agent".to_owned(), at("etc-agent")),
            ("/run/guideway-agent".to_owned(), at("run-agent")),
            ("/var/lib/guideway-agent".to_owned(), at("lib-agent")),
            ("/etc/guideway".to_owned(), at("etc")),
        ];
        let bin = lab.binaries().guideway.parent().unwrap().to_owned();
        Stage { lab, balancer, agent: None, paths, bin }
    }

    fn to_here(&self, text: &str) -> String {
        self.paths.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here))
    }

    fn to_document(&self, text: &str) -> String {
        let text = self.paths.iter().fold(text.to_owned(), |text, (there, here)| text.replace(here, there));
        text.replace(&guideway_lab::topology::namespace_name("lb1"), "lb1")
    }

    fn namespace(&self, place: &str) -> Namespace {
        match place {
            "balancer" => self.lab.balancer(1).unwrap().clone(),
            "client" => self.lab.client().clone(),
            "host" => self.lab.backend(4).unwrap().namespace().clone(),
            container => self.lab.backend(container[1..].parse().unwrap()).unwrap().namespace().clone(),
        }
    }

    /// Writes a file; that of the balancer is there and gets more.
    fn write(&self, place: &str, path: &str, content: &str) {
        let (path, content) = (self.to_here(path), self.to_here(content));
        let before = if place == "balancer" {
            std::fs::read_to_string(&path).unwrap_or_default()
        } else {
            String::new()
        };
        std::fs::write(&path, before + &content).unwrap();
    }

    /// Runs a command and returns what it prints. What needs a whole machine is done by the lab's means.
    fn run(&mut self, place: &str, command: &str) -> String {
        let container = |stage: &Stage| stage.lab.backend(place[1..].parse().unwrap()).unwrap().index();
        match command {
            "systemctl start guideway-agent" => {
                let config = self.to_here("/etc/guideway-agent/agent.toml");
                let namespace = self.namespace(place);
                self.agent = Some(Agent::from_file(&self.lab, &namespace, Path::new(&config)).unwrap());
                String::new()
            }
            "nginx -s stop" => {
                self.lab.backend(container(self)).unwrap().kill();
                String::new()
            }
            "nginx" => {
                self.lab.backend(container(self)).unwrap().start().unwrap();
                String::new()
            }
            _ => {
                let socket = self.to_here("/run/guideway/lb1.sock");
                let agent = self.to_here("/run/guideway-agent/agent.sock");
                let bin = self.bin.to_string_lossy();
                let script = format!(
                    "exec 2>&1\nexport PATH=\"{bin}:$PATH\" GUIDEWAY_SOCKET={socket} GUIDEWAY_AGENT_SOCKET={agent} COLUMNS=130\n{}\n:",
                    self.to_here(command)
                );
                let namespace = self.namespace(place);
                let printed =
                    run_with(&namespace.argv(&["sh", "-c", &script]), "", Duration::from_secs(30)).unwrap();
                self.to_document(&printed)
            }
        }
    }
}

/// Point 9.
#[test]
fn the_walk_through_of_the_document_is_true() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/agents.md");
    let text = std::fs::read_to_string(&document).unwrap();
    let (before, rest) = text.split_once(&format!("{HEADING}\n")).unwrap();
    let end = rest.find("\n## ").map_or(rest.len(), |at| at + 1);
    let (section, after) = rest.split_at(end);
    let mut stage = Stage::start();
    let (mut written, mut wrong) = (String::new(), Vec::new());
    let mut count = 0;
    for piece in pieces(section) {
        // Writing to a String cannot fail.
        let _ = match piece {
            Piece::Text(line) => writeln!(written, "{line}"),
            Piece::File(place, path, content) => {
                stage.write(&place, &path, &content);
                write!(written, "{content}")
            }
            Piece::Step(step) => {
                count += 1;
                let printed = stage.run(&step.place, &step.command);
                let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
                if shape(&printed.join("\n")) != shape(&step.printed.join("\n")) {
                    wrong.push(format!("{} {}\n{}", step.prompt, step.command, printed.join("\n")));
                }
                let _ = writeln!(written, "{} {}", step.prompt, step.command);
                printed.iter().try_for_each(|line| writeln!(written, "{line}"))
            }
        };
    }
    println!("point 9: {count} commands of the walk-through were run");
    if std::env::var_os("GUIDEWAY_LAB_ACCEPT").is_some() {
        std::fs::write(&document, format!("{before}{HEADING}\n{written}{after}")).unwrap();
    } else {
        assert!(wrong.is_empty(), "what is printed is not what docs/agents.md says:\n{}", wrong.join("\n\n"));
    }
    drop(stage.agent.take());
    let Stage { balancer, .. } = stage;
    balancer.stop().unwrap();
}

#[test]
fn a_document_is_taken_apart_and_put_together() {
    let section = "Text.\n```console\nclient$ curl x\nb1\nbalancer# guideway show services\n```\n```toml\n# host: /etc/a.toml\n[a]\n```\n";
    let pieces = pieces(section);
    let steps: Vec<(&str, usize)> = pieces
        .iter()
        .filter_map(|piece| {
            if let Piece::Step(step) = piece {
                Some((step.command.as_str(), step.printed.len()))
            } else {
                None
            }
        })
        .collect();
    assert_eq!(steps, [("curl x", 1), ("guideway show services", 0)]);
    assert!(pieces.iter().any(
        |piece| matches!(piece, Piece::File(place, path, _) if place == "host" && path == "/etc/a.toml")
    ));
    assert_eq!(shape("b1  10.0.2.21:8080 up 3.5 s"), shape("b1 10.0.2.21:80 up 12 s"));
    assert_ne!(shape("b1 10.0.2.21"), shape("b2 10.0.2.21"));
    assert_ne!(shape("b1 10.0.2.21"), shape("b1 10.0.2.22"));
}

//! Checks that are made: one a (service, backend, address, port), however many machines ask.

use crate::config::AgentConfig;
use health::{Check, Exec, Rules, Verdict};
use model::agent::{BackendReport, CheckSpec, REASON_MAX, Target};
use model::config::HealthKind;
use std::collections::BTreeMap;

/// Checks at a time, at most: what machines that know each other ask is at most a quarter of it.
pub(super) const DETECTORS_MAX: usize = 4096;

/// A run of a detector. A result of another run says nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct DetectorId(pub(crate) u64);

/// What a detector does.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Job {
    /// What is done each time.
    pub(crate) act: Act,
    /// Time between two probes, milliseconds.
    pub(crate) interval_ms: u32,
}

/// One probe.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Act {
    /// Over the network.
    Probe(Box<Check>),
    /// By a command.
    Run(Exec),
    /// It cannot be made: fails with this reason.
    Fail(String),
}

/// What is checked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Subject {
    pub(super) service: String,
    pub(super) target: Target,
}

/// A running check.
#[derive(Debug)]
pub(super) struct Detector {
    pub(super) id: DetectorId,
    pub(super) spec: CheckSpec,
    job: Job,
    pub(super) verdict: Verdict,
    /// It goes on until then though nobody asks: a connection was lost.
    pub(super) keep_until_ms: u64,
}

impl Detector {
    /// As a report tells it; `None` before the first verdict.
    pub(super) fn report(&self, subject: &Subject) -> Option<BackendReport> {
        let up = self.verdict.up()?;
        Some(BackendReport {
            service: subject.service.clone(),
            backend: subject.target.backend.clone(),
            address: subject.target.address,
            up,
            reason: if up { "ok".to_owned() } else { told(self.verdict.reason()) },
        })
    }

    /// What turns its results into a verdict.
    pub(super) fn rules(&self) -> Rules {
        Rules { interval_ms: self.spec.interval_ms, fall: self.spec.fall, rise: self.spec.rise }
    }
}

/// A reason as it may be told, logged and shown: on one line, and no longer than is allowed.
pub(super) fn told(reason: &str) -> String {
    let mut out = model::visible(reason).into_owned();
    if out.len() > REASON_MAX {
        let mut end = REASON_MAX - '…'.len_utf8();
        while !out.is_char_boundary(end) {
            end -= 1;
        }
        out.truncate(end);
        out.push('…');
    }
    out
}

/// What is to be started and stopped.
#[derive(Debug, PartialEq)]
pub(super) enum Turn {
    Start(DetectorId, Job),
    Stop(DetectorId),
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Detectors {
    all: BTreeMap<Subject, Detector>,
    subjects: BTreeMap<DetectorId, Subject>,
    last: u64,
    pub(super) turns: Vec<Turn>,
}

impl Detectors {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Subject, &Detector)> {
        self.all.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Subject, &mut Detector)> {
        self.all.iter_mut()
    }

    pub(super) fn get(&self, subject: &Subject) -> Option<&Detector> {
        self.all.get(subject)
    }

    pub(super) fn get_mut(&mut self, subject: &Subject) -> Option<&mut Detector> {
        self.all.get_mut(subject)
    }

    pub(super) fn by_id(&mut self, id: DetectorId) -> Option<(Subject, &mut Detector)> {
        let subject = self.subjects.get(&id)?.clone();
        let detector = self.all.get_mut(&subject)?;
        Some((subject, detector))
    }

    /// It is to be checked in this way. The verdict that there is stays, also when the way is another.
    pub(super) fn want(&mut self, subject: &Subject, spec: &CheckSpec, config: &AgentConfig) {
        let job = job(subject, spec, config);
        let known = match self.all.get_mut(subject) {
            Some(detector) if detector.job == job => {
                detector.spec = spec.clone();
                detector.keep_until_ms = 0;
                return;
            }
            Some(detector) => detector.verdict.up(),
            None => None,
        };
        self.start(subject, spec, job, known.map_or_else(Verdict::default, Verdict::remembered));
    }

    fn start(&mut self, subject: &Subject, spec: &CheckSpec, job: Job, verdict: Verdict) {
        self.drop(subject);
        self.last += 1;
        let id = DetectorId(self.last);
        let detector = Detector { id, spec: spec.clone(), job: job.clone(), verdict, keep_until_ms: 0 };
        self.all.insert(subject.clone(), detector);
        self.subjects.insert(id, subject.clone());
        self.turns.push(Turn::Start(id, job));
    }

    /// It is checked no more.
    pub(super) fn drop(&mut self, subject: &Subject) {
        if let Some(detector) = self.all.remove(subject) {
            self.subjects.remove(&detector.id);
            self.turns.push(Turn::Stop(detector.id));
        }
    }

    /// What was found out about a backend is of its server's last life: begins anew.
    pub(super) fn renew(&mut self, service: &str, backend: &str) {
        let of_it: Vec<_> = self
            .all
            .iter()
            .filter(|(subject, _)| subject.service == service && subject.target.backend == backend)
            .map(|(subject, detector)| (subject.clone(), detector.spec.clone(), detector.job.clone()))
            .collect();
        for (subject, spec, job) in of_it {
            self.start(&subject, &spec, job, Verdict::default());
        }
    }
}

fn job(subject: &Subject, spec: &CheckSpec, config: &AgentConfig) -> Job {
    let Target { backend, address, port } = &subject.target;
    let act = match command(&spec.kind) {
        None => Act::Probe(Box::new(Check {
            kind: spec.kind.clone(),
            target: (*address, *port).into(),
            vip: spec.vip,
            via: None,
            source: None,
            interval_ms: spec.interval_ms,
            timeout_ms: spec.timeout_ms,
        })),
        Some(name) => match config.commands.get(name) {
            Some(argv) => Act::Run(Exec {
                argv: argv.clone(),
                environment: [
                    ("GUIDEWAY_SERVICE", subject.service.clone()),
                    ("GUIDEWAY_BACKEND", backend.clone()),
                    ("GUIDEWAY_ADDRESS", address.to_string()),
                    ("GUIDEWAY_PORT", port.to_string()),
                ]
                .map(|(name, value)| (name.to_owned(), value))
                .to_vec(),
                timeout_ms: spec.timeout_ms,
            }),
            None => Act::Fail(told(&format!("this host has no [command.{name}]"))),
        },
    };
    Job { act, interval_ms: spec.interval_ms }
}

/// The command that a check names.
fn command(kind: &HealthKind) -> Option<&str> {
    match kind {
        HealthKind::Exec { command } => Some(command),
        HealthKind::None
        | HealthKind::Tcp { .. }
        | HealthKind::Http(_)
        | HealthKind::Https(_)
        | HealthKind::Udp { .. } => None,
    }
}

//! Configurations from the API and from the file: checked, planned, applied, or refused as a whole.

use crate::cluster::adopt::Wished;
use crate::cluster::forecast::Count;
use crate::plan;
use crate::truth::{Refusal, Truth};
use model::api::{ApplyResult, CheckedConfig, EventKind, PlanResult};
use model::{Diagnostic, Loaded, Severity};

/// Most mistakes of a file that are told as events of their own.
const TOLD_MAX: usize = 20;

/// A configuration that was taken.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) result: ApplyResult,
    /// In a cluster: what it was asked for, and whether it takes that. Nothing has changed here yet.
    pub(crate) wished: Option<Wished>,
}

impl Truth {
    /// Checks a text.
    pub(crate) fn check(&self, text: &str) -> Result<CheckedConfig, Refusal> {
        let loaded = model::load("request", text).map_err(Refusal::Config)?;
        Ok(CheckedConfig {
            services: loaded.config.services.len() as u64,
            backends: loaded.config.services.iter().map(|service| service.backends.len() as u64).sum(),
            restart_keys: self.config.restart_keys(&loaded.config),
            warnings: loaded.warnings,
        })
    }

    /// Says what applying a text would do, but for what has to be counted.
    pub(crate) fn plan(&self, text: &str) -> Result<(PlanResult, Option<Count>), Refusal> {
        let loaded = model::load("request", text).map_err(Refusal::Config)?;
        let count = self.forecast(&loaded.config.with_registered(&self.config.registered()).0);
        Ok((PlanResult { plan: self.plan_of(&loaded), warnings: loaded.warnings }, count))
    }

    fn plan_of(&self, loaded: &Loaded) -> serde_json::Value {
        // What has registered stays, unless it does not fit any more.
        let registered = match &self.cluster {
            None => self.registry.heard().alive,
            Some(_) => self.config.registered(),
        };
        let (config, _) = loaded.config.with_registered(&registered);
        let plan = plan::plan(&self.config, &config);
        serde_json::to_value(plan).unwrap_or(serde_json::Value::Null)
    }

    /// Applies a text; `name` says where it came from. `acknowledged` and `duration_ms` are the caller's to fill in.
    pub(crate) fn apply(&mut self, name: &str, text: &str) -> Result<Applied, Refusal> {
        match self.try_apply(name, text) {
            Ok(applied @ Applied { wished: Some(_), .. }) => {
                let message = format!("configuration from {name} is what the cluster is asked for");
                self.events.push(EventKind::Apply, None, None, message);
                Ok(applied)
            }
            Ok(applied @ Applied { wished: None, .. }) => {
                let result = &applied.result;
                let message =
                    format!("configuration from {name} applied as generation {}", result.generation);
                self.events.push(EventKind::Apply, None, None, message);
                self.save();
                Ok(applied)
            }
            Err(refusal) => {
                let message = format!("configuration from {name} refused: {refusal}");
                self.events.push(EventKind::Refused, None, None, message);
                Err(refusal)
            }
        }
    }

    fn try_apply(&mut self, name: &str, text: &str) -> Result<Applied, Refusal> {
        if self.stopping {
            return Err(Refusal::Stopping);
        }
        let loaded = model::load(name, text).map_err(Refusal::Config)?;
        let restart = self.config.restart_keys(&loaded.config);
        if !restart.is_empty() {
            return Err(Refusal::Restart(restart));
        }
        let plan = self.plan_of(&loaded);
        let warnings = loaded.warnings.clone();
        let mut wished = None;
        if self.cluster.is_some() {
            // Tokens are files of each machine: what this one cannot read is not asked for.
            crate::truth::tokens(&loaded.config)?;
            wished = Some(self.wish_services(&loaded)?);
            self.renew_own(loaded);
        } else {
            self.install(loaded)?;
        }
        let result =
            ApplyResult { generation: self.generation, acknowledged: false, duration_ms: 0, warnings, plan };
        Ok(Applied { result, wished })
    }

    /// Reads the file again and applies it.
    pub(crate) fn reload(&mut self) -> Result<Applied, Refusal> {
        let path = self.config_path.clone();
        let name = path.display().to_string();
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(problem) => {
                let refusal = Refusal::File { path, problem };
                self.events.push(EventKind::Refused, None, None, format!("reload: {refusal}"));
                return Err(refusal);
            }
        };
        let text = match model::text(&name, bytes) {
            Ok(text) => text,
            Err(report) => {
                let message = format!("configuration from {name} refused: {report}");
                self.events.push(EventKind::Refused, None, None, message);
                self.tell(&name, EventKind::Refused, report.diagnostics());
                return Err(Refusal::Config(report));
            }
        };
        match self.apply(&name, &text) {
            Ok(applied) => {
                self.tell(&name, EventKind::Warning, &applied.result.warnings);
                self.file_text = text;
                Ok(applied)
            }
            Err(refusal) => {
                if let Refusal::Config(report) = &refusal {
                    self.tell(&name, EventKind::Refused, report.diagnostics());
                }
                Err(refusal)
            }
        }
    }

    /// Tells what is wrong with the file, errors first: nobody waits for the answer to a signal.
    fn tell(&mut self, name: &str, kind: EventKind, diagnostics: &[Diagnostic]) {
        let of = |severity| diagnostics.iter().filter(move |of| of.severity == severity);
        let errors = of(Severity::Error).map(|of| ("error", of));
        let all = errors.chain(of(Severity::Warning).map(|of| ("warning", of)));
        for (word, of) in all.take(TOLD_MAX) {
            let Diagnostic { line, column, message, help, .. } = of;
            self.events.push(
                kind,
                None,
                None,
                format!("{name}:{line}:{column}: {word}: {message}; help: {help}"),
            );
        }
        if let Some(further @ 1..) = diagnostics.len().checked_sub(TOLD_MAX) {
            let message =
                format!("{name}: {further} further errors and warnings; guideway check {name} tells all");
            self.events.push(kind, None, None, message);
        }
    }

    /// The text in force.
    pub(crate) fn config_text(&self) -> String {
        self.text.clone()
    }
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(model::TEXT_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > model::TEXT_MAX {
        return Err(format!("it is longer than {} bytes, which is what is read at most", model::TEXT_MAX));
    }
    Ok(bytes)
}

//! What is in force after a start: the file, and over it what the API said before; or, where the file is what nobody confirmed, what was
//! in force before it.

use super::ledger::{Content, Ledger};
use super::overrides::Overrides;
use model::{Config, Loaded};
use std::sync::Arc;

/// Services that a message names.
const NAMED_MAX: usize = 10;

/// A configuration to start with.
#[derive(Debug)]
pub(crate) struct StartConfig {
    pub(crate) loaded: Loaded,
    pub(crate) content: Content,
    /// What an operator should know.
    pub(crate) told: Vec<String>,
}

/// Configurations that are looked at, at most, to find the words that do not fit.
const TRIES_MAX: usize = 32;

/// The configuration to start with. What does not fit is left out, and told: in the end the file alone is in force. `fits` says why
/// a configuration cannot be used on this machine, for example because a file that it names is missing.
pub(crate) fn start(
    file: &Loaded,
    ledger: &Ledger,
    fits: &dyn Fn(&Loaded) -> Result<(), String>,
) -> StartConfig {
    let mut told = Vec::new();
    let Content { base, overrides } = ledger.at_start(&file.text);
    let over = |base: &Arc<str>| Fitting { file, base: Arc::clone(base), fits, tries: TRIES_MAX };
    let name = &file.name;
    if *base != *file.text {
        match over(&base).most_of(&overrides, &mut told) {
            Ok((loaded, content)) => {
                told.push(format!(
                    "{name} is as nobody has confirmed it: what was in force before is in force; apply \
                     or reload it to take it"
                ));
                return StartConfig { loaded, content, told };
            }
            Err(problem) => told.push(format!(
                "{name} is as nobody has confirmed it, and in force all the same: what was before does \
                 not fit: {problem}"
            )),
        }
    }
    let base = Arc::from(file.text.as_str());
    let (loaded, content) = match over(&base).most_of(&overrides, &mut told) {
        Ok(fitting) => fitting,
        // What is wrong with the file itself is said as without any of this.
        Err(_) => (file.clone(), Content { base, overrides: Arc::default() }),
    };
    if !content.overrides.is_empty() {
        let names = named(&content.overrides);
        told.push(format!("what the API said of single services holds over the file ({names})"));
    }
    StartConfig { loaded, content, told }
}

/// Looks for what fits over a file's text.
struct Fitting<'a> {
    file: &'a Loaded,
    base: Arc<str>,
    fits: &'a dyn Fn(&Loaded) -> Result<(), String>,
    /// Looks that are left.
    tries: usize,
}

impl Fitting<'_> {
    /// The text with all that the API said, or with what of that fits.
    ///
    /// # Errors
    /// Why the text does not fit even without.
    fn most_of(
        mut self,
        overrides: &Arc<Overrides>,
        told: &mut Vec<String>,
    ) -> Result<(Loaded, Content), String> {
        let base = Arc::clone(&self.base);
        let problem = match self.with(overrides) {
            Ok(loaded) => return Ok((loaded, Content { base, overrides: Arc::clone(overrides) })),
            Err(problem) => problem,
        };
        let mut held = (self.with(&Overrides::default())?, Overrides::default());
        let mut given_up = Overrides::default();
        // Halves, until what does not fit stands alone.
        let mut left = vec![Overrides::clone(overrides)];
        while let Some(some) = left.pop() {
            if some.is_empty() {
                continue;
            }
            let all = held.1.and(&some);
            if let Ok(loaded) = self.with(&all) {
                held = (loaded, all);
            } else if some.held().nth(1).is_none() || self.tries == 0 {
                given_up = given_up.and(&some);
            } else {
                let (first, second) = some.halves();
                left.extend([second, first]);
            }
        }
        told.push(format!(
            "what the API said of some services does not fit the file any more and was given up ({}): \
             {problem}",
            named(&given_up)
        ));
        Ok((held.0, Content { base, overrides: Arc::new(held.1) }))
    }

    /// As the configuration of a daemon that was started with this file.
    fn with(&mut self, overrides: &Overrides) -> Result<Loaded, String> {
        self.tries = self.tries.checked_sub(1).ok_or("there is too much that does not fit")?;
        let text = overrides.over(&self.base).map_err(|error| error.to_string())?;
        let loaded = if text == self.file.text {
            self.file.clone()
        } else {
            model::load(&self.file.name, &text).map_err(|report| first_line(&report.to_plain()))?
        };
        // What a restart could not change: the machine is what its file says.
        let machine = Config { services: Vec::new(), ..self.file.config.clone() };
        let differing = machine.restart_keys(&loaded.config);
        if !differing.is_empty() {
            return Err(format!("keys of the machine differ: {}", differing.join(", ")));
        }
        (self.fits)(&loaded)?;
        Ok(loaded)
    }
}

fn named(overrides: &Overrides) -> String {
    let names: Vec<&str> = overrides.held().map(|(name, ..)| name).take(NAMED_MAX).collect();
    names.join(", ")
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;

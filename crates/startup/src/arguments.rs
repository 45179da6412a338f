//! What a command line, and the environment, say of the log; and how an environment is read.

use clap::{Arg, Command, CommandFactory, FromArgMatches, ValueEnum};
use std::str::FromStr;
use tracing_subscriber::EnvFilter;

/// Form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Which lines are logged: a level (off, error, warn, info, debug, trace), or directives such as `info,dpdk=debug`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter(String);

impl Filter {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a filter is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadFilter(String);

impl std::fmt::Display for BadFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadFilter {}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl FromStr for Filter {
    type Err = BadFilter;

    /// A bare word is a level. `tracing` takes any other one for a target, of which then everything is logged, and of all
    /// others nothing: `warning` would silence errors.
    fn from_str(text: &str) -> Result<Filter, BadFilter> {
        let directives: Vec<&str> = text.split(',').map(str::trim).collect();
        for directive in &directives {
            let is_level = LEVELS.iter().any(|level| directive.eq_ignore_ascii_case(level));
            let is_one_word = directive.contains('[') || !directive.contains(char::is_whitespace);
            if !is_one_word || (!is_level && !directive.contains(['=', '['])) {
                let levels = LEVELS.join(", ");
                return Err(BadFilter(format!(
                    "`{directive}` is no level; levels are {levels}, and `target=level` is for one part"
                )));
            }
        }
        let text = directives.join(",");
        EnvFilter::try_new(&text).map_err(|error| BadFilter(error.to_string()))?;
        Ok(Filter(text))
    }
}

/// Parses the command line of this process; ends it with clap's words and status 2 where that fails. A variable of the
/// environment that is set and empty counts as unset.
pub fn parse<T: CommandFactory + FromArgMatches>() -> T {
    let mut command = without_empty_variables(T::command());
    let mut matches = command.clone().get_matches();
    T::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

/// The command, and those below it, without the variables that are set and empty.
pub fn without_empty_variables(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    let command = command
        .mut_args(|argument| if is_empty(&argument) { argument.env(None::<&'static str>) } else { argument });
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, without_empty_variables))
}

fn is_empty(argument: &Arg) -> bool {
    argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives() {
        for good in ["info", "WARN", "off", "info,dpdk=debug", "warn, control=trace", "info,[span]=debug"] {
            assert_eq!(good.parse::<Filter>().map(|filter| filter.0), Ok(good.replace(' ', "")), "{good}");
        }
        for bad in ["warning", "verbose", "wrn", "", "info,", "info,dpdk", "dpdk=loud", "info dpdk=debug"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
        let error = "warning".parse::<Filter>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`warning` is no level; levels are off, error, warn, info, debug, trace, and `target=level` is for one part"
        );
    }
}

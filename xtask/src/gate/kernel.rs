//! System calls, counted by strace.

use super::program::{Program, run};
use std::process::Command;

/// System calls of the whole program, start included, with `units` and twice as many units of work.
pub(super) fn system_calls(program: &Program, case: &str, units: usize) -> Result<(u64, u64), String> {
    Ok((count(program, case, units)?, count(program, case, 2 * units)?))
}

fn count(program: &Program, case: &str, units: usize) -> Result<u64, String> {
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o", "/dev/stderr"]).arg(program.path()).args([case, &units.to_string()]);
    let text = run(command, "strace")?;
    total(&text).ok_or_else(|| format!("strace gave no total:\n{text}"))
}

/// The calls in the line `100.00 seconds usecs/call calls [errors] total`.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.trim_end().ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_total() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            \x20 0.00    0.000000           0         1           read\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.000000           0        73         2 total\n";
        assert_eq!(total(table), Some(73));
        assert_eq!(total(&table.replace("         2 total", "           total")), Some(73));
        assert_eq!(total("nothing"), None);
    }
}

//! A document whose shell blocks are run: its blocks, what is expected of each, and the comparison.

use std::fmt::Write as _;

/// Stands before what each block printed.
const MARK: &str = "=== block of line ";

/// One block of commands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    /// Line of its first command, from 1.
    pub(crate) line: usize,
    /// The rest of the line that opens it, behind `sh`: empty, but for blocks that are not run.
    pub(crate) kind: String,
    /// Its commands.
    pub(crate) commands: String,
    /// What it must print, as the block `text` behind it says; nothing if there is none.
    pub(crate) expected: String,
}

/// The blocks of a document: those marked `sh`, each with a block marked `text` that comes before the next
/// one and with no heading between. A `text` block with no commands before it is a picture.
pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut answered = true;
    let mut lines = document.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if line.starts_with('#') {
            answered = true;
        }
        let Some(opening) = line.strip_prefix("```") else { continue };
        let mut body = String::new();
        for (_, line) in lines.by_ref().take_while(|(_, line)| *line != "```") {
            body += line;
            body.push('\n');
        }
        match opening.split_once(' ').unwrap_or((opening, "")) {
            ("sh", kind) => {
                let kind = kind.to_owned();
                blocks.push(Block { line: at + 2, kind, commands: body, expected: String::new() });
                answered = false;
            }
            ("text", _) if !answered => {
                if let Some(block) = blocks.last_mut() {
                    block.expected = body;
                }
                answered = true;
            }
            _ => {}
        }
    }
    blocks
}

/// One script of all blocks, for one shell; it ends at the first command that fails.
pub(crate) fn script(blocks: &[Block]) -> String {
    let mut script = String::from("set -e; exec 2>&1\n");
    for block in blocks {
        // Writing to a String cannot fail.
        let _ = write!(script, "printf '\\n{MARK}%d\\n' {}\n{}", block.line, block.commands);
    }
    script
}

/// Compares what a script has printed with what each of its blocks must print; the errors name the block.
pub(crate) fn compare(blocks: &[Block], printed: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for block in blocks {
        let Some((_, behind)) = printed.split_once(&format!("\n{MARK}{}\n", block.line)) else {
            wrong.push(format!("line {}: not run", block.line));
            continue;
        };
        let own = behind.split_once(&format!("\n{MARK}")).map_or(behind, |(own, _)| own);
        if !matches(&block.expected, own) {
            wrong.push(format!(
                "line {}: expected\n{}but it printed\n{own}",
                block.line,
                if block.expected.is_empty() { "nothing\n" } else { &block.expected }
            ));
        }
    }
    wrong
}

/// Whether a text is as expected: line by line, without empty lines, blanks counted as one; `…` is anything
/// within a line, and on a line of its own any number of lines.
pub(crate) fn matches(expected: &str, text: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.filter(|line| !line.is_empty()).collect()
    };
    sequence(
        &lines(expected),
        &lines(text),
        |line| line == "…",
        |wanted, line| {
            let (wanted, line): (Vec<char>, Vec<char>) = (wanted.chars().collect(), line.chars().collect());
            sequence(&wanted, &line, |c| *c == '…', |a, b| a == b)
        },
    )
}

/// Matches a sequence in which some items stand for any number of others: the last of these is tried with
/// ever more.
fn sequence<T>(
    wanted: &[T],
    found: &[T],
    is_any: impl Fn(&T) -> bool,
    same: impl Fn(&T, &T) -> bool,
) -> bool {
    let (mut w, mut f) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    while f < found.len() {
        if w < wanted.len() && is_any(&wanted[w]) {
            last = Some((w + 1, f));
            w += 1;
        } else if w < wanted.len() && same(&wanted[w], &found[f]) {
            (w, f) = (w + 1, f + 1);
        } else if let Some((behind, taken)) = last {
            last = Some((behind, taken + 1));
            (w, f) = (behind, taken + 1);
        } else {
            return false;
        }
    }
    wanted[w..].iter().all(is_any)
}

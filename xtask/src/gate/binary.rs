//! What the machine code of a function and of all that it calls may not contain, from objdump.

use super::program::run;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// What is not allowed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// An instruction that locks the bus: a `lock` prefix, or an exchange with memory.
    Lock,
    /// A call of a function that panics.
    Panic,
    /// A clock that is read; no system call shows it.
    Clock,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::Lock => "lock",
            Kind::Panic => "panic path",
            Kind::Clock => "clock",
        }
    }
}

/// One place.
#[derive(Clone, Debug)]
pub(super) struct Offence {
    pub(super) kind: Kind,
    /// The function as the linker knows it.
    pub(super) function: String,
    /// The instruction, or the function called.
    pub(super) text: String,
    /// The functions that were inlined there, innermost first, each with its line.
    pub(super) names: Vec<String>,
    address: u64,
}

/// The instruction or function called, and where: the functions of ours that were inlined there, innermost first.
impl std::fmt::Display for Offence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.text)?;
        let ours: Vec<&str> =
            self.names.iter().filter(|name| name.contains("(crates/")).map(String::as_str).collect();
        match ours.as_slice() {
            [] => write!(f, "\n        in {}", self.function),
            [first, rest @ ..] => {
                write!(f, "\n        in {first}")?;
                rest.iter().try_for_each(|name| write!(f, "\n        of {name}"))
            }
        }
    }
}

/// What was looked at.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) functions: usize,
    pub(super) instructions: usize,
    pub(super) offences: Vec<Offence>,
}

/// The back end under the counted engine: what its buffers do is not the engine's doing.
const DRIVER: &str = "loop_io";
/// Functions that end the program.
const PANICS: &[&str] = &[
    "panicking",
    "panic_",
    "begin_panic",
    "_fail",
    "_failed",
    "capacity_overflow",
    "handle_error",
    "handle_alloc_error",
];
/// Functions that read a clock.
const CLOCKS: &[&str] = &["clock_gettime", "gettimeofday", "time::Instant::", "time::SystemTime::"];
/// Not entered: the allocator and the standard library's services, which the gates on allocations and system calls watch.
const NOT_OURS: &[&str] =
    &["std::", "<std::", "__rust", "__rg_", "__rdl", "alloc::alloc::", "allocation_counter", "_Unwind"];

/// Everything reached from the function whose name contains `root`.
///
/// # Errors
/// There is no objdump, or no such function.
pub(super) fn examine(path: &Path, root: &str) -> Result<Found, String> {
    let objdump = |arguments: &[&str]| {
        let mut command = Command::new("objdump");
        command.args(arguments).arg(path);
        run(command, "objdump")
    };
    let code = Code::parse(
        &objdump(&["--disassemble", "--demangle", "--no-show-raw-insn", "--wide"])?,
        &objdump(&["--dynamic-reloc", "--demangle", "--wide"])?,
    );
    let mut found = code.reached_from(root)?;
    name(path, &mut found.offences)?;
    found.offences.retain(|offence| !offence.names.iter().any(|name| name.contains(DRIVER)));
    Ok(found)
}

/// Disassembled code.
#[derive(Debug, Default)]
struct Code {
    functions: BTreeMap<u64, Function>,
    /// What a slot of the global offset table refers to: calls between crates go through them.
    slots: BTreeMap<u64, CallTarget>,
}

#[derive(Debug)]
struct Function {
    name: String,
    instructions: Vec<(u64, String)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum CallTarget {
    Address(u64),
    /// Of another library.
    Name(String),
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

impl Code {
    fn parse(code: &str, relocations: &str) -> Code {
        let mut parsed = Code::default();
        let mut at = None;
        for line in code.lines() {
            if let Some((address, name)) = line.strip_suffix(">:").and_then(|l| l.split_once(" <")) {
                at = hexadecimal(address);
                if let Some(at) = at {
                    parsed.functions.insert(at, Function { name: name.to_owned(), instructions: Vec::new() });
                }
            } else if let Some((address, text)) = line.split_once(":\t")
                && let (Some(address), Some(at)) = (hexadecimal(address), at)
                && let Some(function) = parsed.functions.get_mut(&at)
            {
                function.instructions.push((address, text.trim().to_owned()));
            }
        }
        for line in relocations.lines() {
            let mut words = line.splitn(3, ' ').map(str::trim).filter(|word| !word.is_empty());
            let (Some(slot), Some(_), Some(value)) =
                (words.next().and_then(hexadecimal), words.next(), words.next())
            else {
                continue;
            };
            let target = match value.strip_prefix("*ABS*+") {
                Some(address) => hexadecimal(address).map(CallTarget::Address),
                None => Some(CallTarget::Name(value.to_owned())),
            };
            parsed.slots.extend(target.map(|target| (slot, target)));
        }
        parsed
    }

    fn reached_from(&self, root: &str) -> Result<Found, String> {
        let mut open: Vec<u64> =
            self.functions.iter().filter(|(_, f)| f.name.contains(root)).map(|(&at, _)| at).collect();
        if open.is_empty() {
            return Err(format!("there is no function {root}: was it inlined?"));
        }
        let mut seen: BTreeSet<u64> = open.iter().copied().collect();
        let mut found = Found::default();
        while let Some(at) = open.pop() {
            let Some(function) = self.functions.get(&at) else { continue };
            found.functions += 1;
            found.instructions += function.instructions.len();
            for (address, text) in &function.instructions {
                let mut offend = |kind, text: &str| {
                    found.offences.push(Offence {
                        kind,
                        function: function.name.clone(),
                        text: text.to_owned(),
                        names: Vec::new(),
                        address: *address,
                    });
                };
                if locks(text) {
                    offend(Kind::Lock, text);
                }
                if text.starts_with("rdtsc") {
                    offend(Kind::Clock, text);
                }
                match self.target(text) {
                    Some(CallTarget::Name(name)) if panics(&name) => offend(Kind::Panic, &name),
                    Some(CallTarget::Name(name)) if is_clock(&name) => offend(Kind::Clock, &name),
                    Some(CallTarget::Address(to)) => {
                        let Some((&start, callee)) = self.functions.range(..=to).next_back() else {
                            continue;
                        };
                        if start == at {
                            continue;
                        }
                        if panics(&callee.name) {
                            offend(Kind::Panic, &callee.name);
                        } else if is_clock(&callee.name) {
                            offend(Kind::Clock, &callee.name);
                        } else if !NOT_OURS.iter().any(|prefix| callee.name.starts_with(prefix))
                            && seen.insert(start)
                        {
                            open.push(start);
                        }
                    }
                    _ => {}
                }
            }
        }
        found
            .offences
            .sort_by(|a, b| (a.kind, &a.function, a.address).cmp(&(b.kind, &b.function, b.address)));
        Ok(found)
    }

    /// Where an instruction goes, if it is a call or jump to a place known now.
    fn target(&self, text: &str) -> Option<CallTarget> {
        let (operation, rest) = text.split_once(' ')?;
        if !(operation.starts_with("call") || operation.starts_with('j')) {
            return None;
        }
        let operand = rest.trim();
        if operand.starts_with('*') {
            let slot = operand.split_once("# ")?.1.split(' ').next().and_then(hexadecimal)?;
            return self.slots.get(&slot).cloned();
        }
        let (address, name) = operand.split_once(" <")?;
        match name.strip_suffix('>') {
            Some(name) if name.contains("@plt") => Some(CallTarget::Name(name.to_owned())),
            _ => hexadecimal(address).map(CallTarget::Address),
        }
    }
}

fn locks(text: &str) -> bool {
    text.starts_with("lock ") || (text.starts_with("xchg ") && text.contains('('))
}

fn panics(name: &str) -> bool {
    PANICS.iter().any(|part| name.contains(part))
}

fn is_clock(name: &str) -> bool {
    CLOCKS.iter().any(|part| name.contains(part))
}

/// Finds out which functions were inlined at each place.
fn name(path: &Path, offences: &mut [Offence]) -> Result<(), String> {
    if offences.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("addr2line");
    command.args(["--inlines", "--functions", "--demangle", "--addresses", "--exe"]).arg(path);
    command.args(offences.iter().map(|offence| format!("{:x}", offence.address)));
    let text = run(command, "addr2line")?;
    let mut of: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut at = 0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            at = hexadecimal(line).unwrap_or(0);
        } else if let Some(place) = lines.next() {
            // From the crate on; the directory above it is of no interest.
            let place =
                place.find("crates/").or_else(|| place.find("library/")).map_or(place, |from| &place[from..]);
            of.entry(at).or_default().push(format!("{line} ({place})"));
        }
    }
    for offence in offences {
        offence.names = of.get(&offence.address).cloned().unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "\
0000000000001000 <worker::turn>:
    1000:\tcall   2000 <flow::get>
    1005:\tlock incq (%rax)
    100a:\txchg   %rax,(%rbx)
    100d:\txchg   %ax,%ax
    100f:\tjmp    *0x10(%rip)        # 5000 <_GLOBAL_OFFSET_TABLE_+0x8>
    1015:\tjne    1000 <worker::turn>
    1017:\tcall   *0x10(%rip)        # 5008 <memcpy@GLIBC_2.14>
    101d:\tret

0000000000002000 <flow::get>:
    2000:\tjae    3000 <core::panicking::panic_bounds_check>
    2002:\tcall   4000 <std::io::write>
    2004:\tret

0000000000003000 <core::panicking::panic_bounds_check>:
    3000:\tlock decq (%rax)

0000000000004000 <std::io::write>:
    4000:\tlock decq (%rax)

0000000000006000 <wire::edit>:
    6000:\tlock decq (%rax)
    6004:\trdtsc
    6006:\tcall   7000 <std::time::Instant::now>
    600b:\tcall   *0x10(%rip)        # 5010 <clock_gettime@GLIBC_2.17>
    6011:\tret

0000000000007000 <std::time::Instant::now>:
    7000:\tlock decq (%rax)
";
    const RELOCATIONS: &str = "\
0000000000005000 R_X86_64_RELATIVE  *ABS*+0x6000
0000000000005008 R_X86_64_GLOB_DAT  memcpy@GLIBC_2.14
0000000000005010 R_X86_64_GLOB_DAT  clock_gettime@GLIBC_2.17
";

    #[test]
    fn follows_calls_and_names_what_is_not_allowed() {
        let found = Code::parse(CODE, RELOCATIONS).reached_from("worker::turn").unwrap();
        assert_eq!((found.functions, found.instructions), (3, 16));
        let places: Vec<(Kind, &str, u64)> =
            found.offences.iter().map(|o| (o.kind, o.function.as_str(), o.address)).collect();
        let expected = [
            (Kind::Lock, "wire::edit", 0x6000),
            (Kind::Lock, "worker::turn", 0x1005),
            (Kind::Lock, "worker::turn", 0x100a),
            (Kind::Panic, "flow::get", 0x2000),
            (Kind::Clock, "wire::edit", 0x6004),
            (Kind::Clock, "wire::edit", 0x6006),
            (Kind::Clock, "wire::edit", 0x600b),
        ];
        assert_eq!(places, expected);
        assert!(Code::parse(CODE, RELOCATIONS).reached_from("worker::other").is_err());
    }
}

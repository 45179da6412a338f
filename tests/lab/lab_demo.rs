//! The demo as a program: `./run demo` builds it beside the programs it starts, and runs it.

use guideway_lab::demo::{self, Options, USAGE};
use guideway_lab::{Binaries, cleanup};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(help) if help == USAGE => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprintln!("demo: {mistake}");
            return ExitCode::from(2);
        }
    };
    let result = Binaries::locate().and_then(|binaries| demo::run(&options, binaries));
    if let Err(error) = &result {
        eprintln!("demo: {error}");
    }
    let left = cleanup::traces(std::process::id());
    if !left.is_empty() {
        eprintln!("demo: left behind: {}", left.join("; "));
    }
    if result.is_ok() && left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! The lab's load generator and server, run inside a namespace: `lab-load '<job as JSON>'`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref().map(guideway_lab::load::Job::from_json) {
        Some(Ok(job)) => match guideway_lab::load::run(job) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("lab-load: {error}");
                ExitCode::FAILURE
            }
        },
        Some(Err(error)) => {
            eprintln!("lab-load: {error}");
            ExitCode::from(2)
        }
        None => {
            eprintln!("usage: lab-load '<job as JSON>', see tests/lab/load.rs");
            ExitCode::from(2)
        }
    }
}

//! `guideway plan`.

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::outcome::EXIT_CODES;
use crate::table::grouped;
use crate::{CommandResult, Done, configuration, output};
use clap::Args;
use control::plan::{ConfigPlan, HeldService, ServiceFate, ServiceForecast, plan};
use model::api::PlanResult;
use std::path::PathBuf;
use std::time::Duration;

/// Say what applying a configuration would change: slots moved, backends, memory, keys that need a restart
///
/// Against the running daemon, or against another file with --old.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The new configuration; - reads standard input
    file: PathBuf,
    /// Compare with this file instead of the running daemon
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "config"])]
    old: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let text = configuration::read(&arguments.file)?;
    let new = configuration::check(&arguments.file, &text)?;
    if let Some(old) = &arguments.old {
        let old = configuration::load(old)?;
        configuration::warn_loaded(&new);
        let plan = plan(&old.config, &new.config);
        if arguments.json {
            output::json(&plan)?;
        } else {
            output::print(&for_people(&plan))?;
        }
        return Ok(Done::Well);
    }
    let mut connection = arguments.connection.clone();
    if connection.socket.is_none() && connection.config.is_none() && arguments.file.as_os_str() != "-" {
        connection.socket = Some(new.config.api.socket);
    }
    let daemon = Daemon::new(&connection)?;
    let result: PlanResult = daemon.post("/v1/plan", text.into_bytes(), Duration::ZERO)?;
    configuration::warn(&result.warnings);
    if arguments.json {
        output::json(&result.plan)?;
        return Ok(Done::Well);
    }
    let plan: ConfigPlan = serde_json::from_value(result.plan).map_err(|e| {
        Failure::failed(format!("the daemon's plan is not understood: {e}"))
            .help("do guideway and guidewayd have the same version? --json shows it as it is")
    })?;
    output::print(&for_people(&plan))?;
    Ok(Done::Well)
}

fn for_people(plan: &ConfigPlan) -> String {
    let mut text: String = plan.held.iter().map(held_in_words).collect();
    if plan.is_empty() {
        return text + "nothing would change\n";
    }
    for service in plan.services.iter().filter(|s| s.change != ServiceFate::Same) {
        text += &service_in_words(service);
    }
    if !plan.changed_keys.is_empty() {
        text += &format!("other keys: {}\n", plan.changed_keys.join(", "));
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    text += &format!(
        "memory of tables: {} MiB (before: {} MiB)\n",
        mib(plan.memory_bytes),
        mib(plan.memory_before_bytes)
    );
    if plan.descriptors > 0 {
        text += &format!("open files: up to {}\n", grouped(plan.descriptors));
    }
    if let Some(cluster) = &plan.cluster {
        text += &format!(
            "cluster: {} slots become tainted; this machine tells the owners of {} flows: {} statements to \
             other machines, {} bytes\n",
            grouped(cluster.slots),
            grouped(cluster.flows),
            grouped(cluster.statements),
            grouped(cluster.bytes)
        );
    }
    if !plan.restart_keys.is_empty() {
        text += &format!("needs a restart, apply would refuse it: {}\n", plan.restart_keys.join(", "));
    }
    text
}

/// What of the file is held back.
fn held_in_words(of: &HeldService) -> String {
    let (name, backends) = (&of.name, of.backends.join(", "));
    let whole = match of.whole.as_deref() {
        Some("deleted") => "deleted by the API, whatever the file says",
        Some(_) => "as the API has set it, whatever the file says",
        None => "as the file says, but for what the API says of backends",
    };
    let backends = if backends.is_empty() { backends } else { format!(" ({backends})") };
    format!("service {name} stays {whole}{backends}; back to the file: guideway service release {name}\n")
}

fn service_in_words(s: &ServiceForecast) -> String {
    let mut text = match s.change {
        ServiceFate::Added => {
            format!("service {}: added, {} slots\n", s.name, grouped(u64::from(s.slots_total)))
        }
        ServiceFate::Removed => format!("service {}: removed\n", s.name),
        ServiceFate::Changed | ServiceFate::Same => {
            let share = f64::from(s.slots_moved) * 100.0 / f64::from(s.slots_total.max(1));
            let (moved, total) = (grouped(u64::from(s.slots_moved)), grouped(u64::from(s.slots_total)));
            format!("service {}: changed, {moved} of {total} slots move ({share:.2}% of new flows)\n", s.name)
        }
    };
    if s.slots_tainted > 0 {
        let tainted = grouped(u64::from(s.slots_tainted));
        text += &format!("  slots tainted: {tainted}, whose flows are tracked until none needs it\n");
    }
    let keys: Vec<String> = s.keys_changed.iter().filter(|k| *k != "backend").cloned().collect();
    for (what, names) in [
        ("keys", &keys),
        ("backends added", &s.backends_added),
        ("backends removed", &s.backends_removed),
        ("backends reweighted", &s.backends_reweighted),
        ("backends changed", &s.backends_changed),
    ] {
        if !names.is_empty() {
            text += &format!("  {what}: {}\n", names.join(", "));
        }
    }
    text
}

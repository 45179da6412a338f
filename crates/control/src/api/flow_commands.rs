//! What is asked of workers about single flows: describe, forget, dump, restore.

use super::answer::{ApiAnswer, ApiFailure, ask};
use super::body::JsonLines;
use super::endpoint::ApiEndpoint;
use super::exchange::exchange;
use super::extract::QueryParameters;
use crate::backends::DepartedBackend;
use crate::caller::Caller;
use crate::controller::Controller;
use crate::flows::{flow_of, state_name, state_named};
use crate::handle::Handle;
use crate::refusal::Refusal;
use crate::status;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use model::api::{
    DescribedFlow, EventKind, FlowDump, ForgottenFlow, HeldFlow, HeldRecord, REFUSED_LINES_MAX,
    RESTORE_LINE_MAX, RESTORE_LINES_MAX, RefusedLine, RestoredFlows, StoredFlow,
};
use model::config::Service;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use std::net::SocketAddr;
use wire::{BackendId, ServiceId, Tuple};
use worker::commands::{
    Command, CommandOutcome, CommandRefusal, DUMP_BUCKETS, DumpedFlow, FlowCommand, ServiceFlow, TrackedFlow,
};

/// Commands of one piece of a dump: at most twenty flows each.
const DUMP_COMMANDS: usize = 512;
/// Answers of these that are put into words before others get their turn.
const DUMPED_AT_ONCE: usize = 64;

pub(super) fn endpoints() -> Vec<ApiEndpoint> {
    let of_describe = "What the workers know of one flow; 503 names a worker that does not answer";
    let of_forget =
        "Removes the flow's entries; its next packet is steered as one of a flow that nobody tracks";
    let of_dump = "Tracked flows, piece by piece, as they can be restored";
    let of_restore =
        "Gives flows of a dump their entries, as old as they were; lines that do not fit are named";
    vec![
        ApiEndpoint::get("/v1/flows/describe", "describe_flow", of_describe, describe).fails(&[404, 503]),
        ApiEndpoint::post("/v1/flows/forget", "forget_flow", of_forget, forget).fails(&[404, 503]),
        ApiEndpoint::get("/v1/flows/dump", "dump_flows", of_dump, dump).fails(&[404, 503]),
        ApiEndpoint::post("/v1/flows/restore", "restore_flows", of_restore, restore).fails(&[503]),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OneFlowQuery {
    /// Name of the service
    service: String,
    /// Source address and port: `198.51.100.7:4000` or `[2001:db8::7]:4000`
    client: String,
    /// Destination address and port; needed where the service has more than one
    to: Option<String>,
}

/// A flow as the request names it.
struct NamedFlow {
    service: String,
    client: SocketAddr,
    to: Option<SocketAddr>,
}

impl NamedFlow {
    fn of(query: OneFlowQuery) -> Result<NamedFlow, ApiFailure> {
        let to = query.to.filter(|to| !to.is_empty());
        Ok(NamedFlow {
            service: query.service,
            client: endpoint("client", &query.client)?,
            to: to.map(|to| endpoint("to", &to)).transpose()?,
        })
    }
}

fn endpoint(name: &str, text: &str) -> Result<SocketAddr, ApiFailure> {
    match text.parse::<SocketAddr>() {
        Ok(SocketAddr::V6(address)) if address.scope_id() != 0 => {
            Err(ApiFailure::bad_request(format!("{name} `{text}` has a zone, which no packet has")))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(ApiFailure::new(
            StatusCode::BAD_REQUEST,
            format!("{name} `{text}` is no address with a port"),
            "write 198.51.100.7:4000, or [2001:db8::7]:4000",
        )),
    }
}

/// A flow of a configured service.
struct Named {
    of: ServiceFlow,
    service: String,
    protocol: &'static str,
    client: SocketAddr,
    to: SocketAddr,
}

/// Which flow is meant.
fn named(controller: &Controller, asked: NamedFlow) -> Result<Named, ApiFailure> {
    let found = controller.config.services.iter().find(|service| service.name == asked.service);
    let found = found.and_then(|service| Some((service, controller.backends.ids.service(&service.name)?)));
    let Some((service, id)) = found else { return Err(Refusal::UnknownService(asked.service).into()) };
    let to = match asked.to {
        Some(to) => to,
        None if service.port != 0 && service.vip.is_host() => SocketAddr::new(service.vip.addr, service.port),
        None => {
            return Err(ApiFailure::new(
                StatusCode::BAD_REQUEST,
                format!("service `{}` has more than one address or port", service.name),
                "say which the flow goes to: to=ADDRESS:PORT, or --to ADDRESS:PORT",
            ));
        }
    };
    let flow = flow_to(service, asked.client, to).map_err(ApiFailure::bad_request)?;
    Ok(Named {
        of: ServiceFlow { service: id, flow },
        service: asked.service,
        protocol: service.protocol.as_str(),
        client: asked.client,
        to,
    })
}

/// The flow of a client to this address and port of the service; why there is none.
fn flow_to(service: &Service, client: SocketAddr, to: SocketAddr) -> Result<Tuple, String> {
    if !service.vip.contains(to.ip()) || service.port != 0 && service.port != to.port() {
        return Err(format!("service `{}` is not at {to}", service.name));
    }
    if client.is_ipv4() != to.is_ipv4() {
        return Err(format!("client {client} and destination {to} are of two families"));
    }
    Ok(Tuple {
        src: client.ip().into(),
        dst: to.ip().into(),
        sport: client.port(),
        dport: to.port(),
        protocol: service.protocol.number(),
    })
}

/// An answer that is none to what was asked.
fn unanswered(core: u8, outcome: Option<&CommandOutcome>) -> ApiFailure {
    let status = match outcome {
        Some(CommandOutcome::Refused(CommandRefusal::NotOfService)) => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let why = match outcome {
        Some(CommandOutcome::Refused(why)) => why.text(),
        _ => "it has no answer",
    };
    let help = "guideway show services says where services are; after a change try again in a moment";
    ApiFailure::new(status, format!("worker {core}: {why}"), help)
}

/// Asks all workers about one flow.
async fn ask_all(
    handle: &Handle,
    query: OneFlowQuery,
    command: fn(ServiceFlow) -> FlowCommand,
) -> Result<(Named, Vec<(u8, Option<CommandOutcome>)>), ApiFailure> {
    let asked = NamedFlow::of(query)?;
    let found = move |controller: &mut Controller| {
        let cores: Vec<u8> = controller.workers.iter().map(|worker| worker.core.0).collect();
        named(controller, asked).map(|named| (named, cores))
    };
    let (named, cores) = ask(handle, found).await??;
    let commands = (0..cores.len()).map(|worker| (worker, command(named.of).into())).collect();
    let outcomes = exchange(handle, commands).await?;
    Ok((named, cores.into_iter().zip(outcomes).collect()))
}

async fn describe(
    State(handle): State<Handle>,
    QueryParameters(query): QueryParameters<OneFlowQuery>,
) -> ApiAnswer<DescribedFlow> {
    let (named, outcomes) = ask_all(&handle, query, FlowCommand::Describe).await?;
    Ok(Json(ask(&handle, move |controller| described(controller, named, outcomes)).await??))
}

fn described(
    controller: &Controller,
    named: Named,
    outcomes: Vec<(u8, Option<CommandOutcome>)>,
) -> Result<DescribedFlow, ApiFailure> {
    let (mut first, mut entries, mut records) = (None, Vec::new(), Vec::new());
    for (core, outcome) in outcomes {
        let Some(CommandOutcome::Described(of)) = outcome else {
            return Err(unanswered(core, outcome.as_ref()));
        };
        entries.extend(of.entry.map(|entry| held(controller, core, entry)));
        records.extend(of.record.map(|record| HeldRecord {
            core,
            backend: status::backend_named(controller, record.backend).0,
            guess: record.is_guess,
            idle_ms: record.idle_us / 1000,
        }));
        first = first.or(Some(of));
    }
    let Some(of) = first else { return Err(unanswered(0, None)) };
    let backend = |id: Option<BackendId>| id.map(|id| status::backend_named(controller, id).0);
    Ok(DescribedFlow {
        service: named.service,
        protocol: named.protocol.to_owned(),
        client: named.client,
        to: named.to,
        slot: of.slot,
        slot_backend: backend(of.slot_backend),
        tracked: of.is_tracked,
        tainted: of.is_tainted,
        base: backend(of.base),
        entries,
        records,
    })
}

fn held(controller: &Controller, core: u8, entry: TrackedFlow) -> HeldFlow {
    let (backend, backend_address) = status::backend_named(controller, entry.backend);
    let state = state_name(entry.state).to_owned();
    HeldFlow { core, backend, backend_address, state, idle_ms: entry.idle_us / 1000 }
}

async fn forget(
    State(handle): State<Handle>,
    caller: Caller,
    QueryParameters(query): QueryParameters<OneFlowQuery>,
) -> ApiAnswer<ForgottenFlow> {
    let (named, outcomes) = ask_all(&handle, query, FlowCommand::Forget).await?;
    Ok(Json(ask(&handle, move |controller| forgotten(controller, &caller, named, outcomes)).await??))
}

fn forgotten(
    controller: &mut Controller,
    caller: &Caller,
    named: Named,
    outcomes: Vec<(u8, Option<CommandOutcome>)>,
) -> Result<ForgottenFlow, ApiFailure> {
    let Named { service, client, to, .. } = named;
    let (mut gone, mut refused) = (Vec::new(), None);
    for (core, outcome) in outcomes {
        match outcome {
            Some(CommandOutcome::Forgotten(entry)) => {
                gone.extend(entry.map(|entry| held(controller, core, entry)));
            }
            other => refused = refused.or(Some((core, other))),
        }
    }
    for entry in &gone {
        let message = format!("worker {} forgot the flow of {client} to {to}", entry.core);
        let subject = (Some(&*service), Some(&*entry.backend));
        controller.log.push_by(Some(caller), EventKind::FlowForgotten, subject, message);
    }
    match refused {
        Some((core, other)) => Err(unanswered(core, other.as_ref())),
        None => Ok(ForgottenFlow { service, client, to, forgotten: gone }),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DumpQuery {
    /// Only flows of this service
    service: Option<String>,
    /// `next` of the answer before; without it the first piece
    cursor: Option<String>,
}

/// Worker and bucket that a cursor names; the first ones without one.
fn place(cursor: Option<&str>) -> Result<(usize, usize), ApiFailure> {
    let Some(cursor) = cursor.filter(|cursor| !cursor.is_empty()) else { return Ok((0, 0)) };
    let place = cursor
        .split_once('.')
        .and_then(|(worker, bucket)| Some((worker.parse().ok()?, bucket.parse().ok()?)));
    place
        .ok_or_else(|| ApiFailure::bad_request(format!("cursor `{cursor}` is none that an answer has named")))
}

/// What of a flow table is dumped.
struct DumpPiece {
    core: u8,
    service: Option<ServiceId>,
    commands: Vec<(usize, Command)>,
    next: Option<String>,
}

fn piece(
    controller: &Controller,
    service: Option<String>,
    (worker, from): (usize, usize),
) -> Result<DumpPiece, ApiFailure> {
    let service = match service.filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => Some(controller.backends.ids.service(&name).ok_or(Refusal::UnknownService(name))?),
    };
    let Some(of) = controller.workers.get(worker) else {
        return Err(ApiFailure::bad_request(format!(
            "there is no worker {worker}: the cursor is of another start"
        )));
    };
    let buckets = of.flows.buckets();
    let next = from.saturating_add(DUMP_COMMANDS * DUMP_BUCKETS);
    let commands = (from..buckets.min(next)).step_by(DUMP_BUCKETS);
    let next = if next < buckets {
        Some((worker, next))
    } else {
        (worker + 1 < controller.workers.len()).then_some((worker + 1, 0))
    };
    Ok(DumpPiece {
        core: of.core.0,
        service,
        commands: commands.map(|from_bucket| (worker, FlowCommand::Dump { from_bucket }.into())).collect(),
        next: next.map(|(worker, bucket)| format!("{worker}.{bucket}")),
    })
}

async fn dump(
    State(handle): State<Handle>,
    QueryParameters(query): QueryParameters<DumpQuery>,
) -> ApiAnswer<FlowDump> {
    let DumpQuery { service, cursor } = query;
    let place = place(cursor.as_deref())?;
    let DumpPiece { core, service, commands, next } =
        ask(&handle, move |controller| piece(controller, service, place)).await??;
    let mut outcomes = exchange(&handle, commands).await?.into_iter();
    let mut flows = Vec::new();
    while outcomes.len() > 0 {
        let mut dumped = Vec::new();
        for outcome in outcomes.by_ref().take(DUMPED_AT_ONCE) {
            match outcome {
                Some(CommandOutcome::Dumped(of)) => dumped.extend(of.flows),
                other => return Err(unanswered(core, other.as_ref())),
            }
        }
        flows.extend(ask(&handle, move |controller| stored(controller, core, service, &dumped)).await?);
    }
    Ok(Json(FlowDump { flows, next }))
}

/// Flows of configured services, or of one, in words.
fn stored(
    controller: &Controller,
    core: u8,
    only: Option<ServiceId>,
    dumped: &[DumpedFlow],
) -> Vec<StoredFlow> {
    let services = controller.config.services.iter();
    let services: HashMap<ServiceId, &Service> = services
        .filter_map(|service| Some((controller.backends.ids.service(&service.name)?, service)))
        .collect();
    let wanted = dumped.iter().filter(|flow| only.is_none_or(|id| flow.key.service() == id));
    wanted
        .filter_map(|DumpedFlow { key, entry }| {
            let service = services.get(&key.service())?;
            let flow = flow_of(*key, service);
            Some(StoredFlow {
                core,
                service: service.name.clone(),
                client: SocketAddr::new(flow.src.into(), flow.sport),
                to: SocketAddr::new(flow.dst.into(), flow.dport),
                backend: status::backend_named(controller, entry.backend).0,
                state: state_name(entry.state).to_owned(),
                idle_us: entry.idle_us,
            })
        })
        .collect()
}

/// What becomes of the lines of a request: their numbers, and the flows or what is wrong with them.
type Numbered<T> = Vec<(u64, Result<T, String>)>;

async fn restore(
    State(handle): State<Handle>,
    caller: Caller,
    JsonLines(text): JsonLines,
) -> ApiAnswer<RestoredFlows> {
    if text.lines().count() > RESTORE_LINES_MAX {
        return Err(ApiFailure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has more than {RESTORE_LINES_MAX} lines"),
            "send the lines in several requests, as `guideway flows restore` does",
        ));
    }
    let lines = tokio::task::spawn_blocking(move || parsed(&text)).await;
    let lines = lines.map_err(|_| ApiFailure::stopping())?;
    let lines = ask(&handle, move |controller| orders(controller, lines)).await?;
    let orders = lines.iter().filter_map(|(_, order)| order.as_ref().ok());
    let commands = orders.map(|&(worker, command)| (worker, command.into())).collect();
    let mut outcomes = exchange(&handle, commands).await?.into_iter();
    let mut result = RestoredFlows::default();
    for (line, order) in lines {
        let reason = match order.map(|_| outcomes.next().flatten()) {
            Ok(Some(CommandOutcome::Restored)) => {
                result.restored += 1;
                continue;
            }
            Ok(Some(CommandOutcome::Refused(why))) => why.text().to_owned(),
            Ok(_) => "its worker has no answer".to_owned(),
            Err(why) => why,
        };
        result.refused += 1;
        if result.refusals.len() < REFUSED_LINES_MAX {
            result.refusals.push(RefusedLine { line, reason });
        }
    }
    if result.restored > 0 {
        let message = format!("{} flows of a dump were entered, {} refused", result.restored, result.refused);
        let tell = move |controller: &mut Controller| {
            controller.log.push_by(Some(&caller), EventKind::FlowsRestored, (None, None), message);
        };
        ask(&handle, tell).await?;
    }
    Ok(Json(result))
}

/// Reads the lines; empty ones are passed over.
fn parsed(text: &str) -> Numbered<StoredFlow> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            if line.len() > RESTORE_LINE_MAX {
                return (number, Err(format!("longer than {RESTORE_LINE_MAX} bytes")));
            }
            let flow = serde_json::from_str(line);
            // The line is ours to count.
            (number, flow.map_err(|e| e.to_string().replace(" at line 1 column ", ", column ")))
        })
        .collect()
}

/// What the workers are asked for these flows.
fn orders(controller: &Controller, lines: Numbered<StoredFlow>) -> Numbered<(usize, FlowCommand)> {
    let services = controller.config.services.iter();
    let services: HashMap<&str, &Service> =
        services.map(|service| (service.name.as_str(), service)).collect();
    // By name, of the services that were met.
    let mut backends: HashMap<ServiceId, HashMap<&str, BackendId>> = HashMap::new();
    let mut order = |flow: &StoredFlow| -> Result<(usize, FlowCommand), String> {
        let service = services.get(flow.service.as_str());
        let service = service.and_then(|of| Some((*of, controller.backends.ids.service(&of.name)?)));
        let (service, id) = service.ok_or_else(|| format!("no service `{}`", flow.service))?;
        let tuple = flow_to(service, flow.client, flow.to)?;
        let state = state_named(&flow.state).ok_or_else(|| format!("no state `{}`", flow.state))?;
        let known = backends.entry(id).or_insert_with(|| {
            let configured = service.backends.iter();
            configured
                .filter_map(|of| {
                    Some((of.name.as_str(), controller.backends.ids.of(id, &of.name, of.address)?))
                })
                .collect()
        });
        let backend = known.get(flow.backend.as_str()).copied().or_else(|| departed(controller, flow));
        let backend =
            backend.ok_or_else(|| format!("service `{}` has no backend `{}`", flow.service, flow.backend))?;
        // The same NICs and workers bring its packets to the same one; others ask each other.
        let worker = usize::from(flow.core) % controller.workers.len().max(1);
        let entry = TrackedFlow { backend, state, idle_us: flow.idle_us };
        Ok((worker, FlowCommand::Restore(ServiceFlow { service: id, flow: tuple }, entry)))
    };
    lines.into_iter().map(|(line, flow)| (line, flow.and_then(|flow| order(&flow)))).collect()
}

/// A removed backend whose flows live on.
fn departed(controller: &Controller, flow: &StoredFlow) -> Option<BackendId> {
    let of = |departed: &&DepartedBackend| {
        departed.service.name == flow.service
            && departed.service.backends.iter().any(|backend| backend.name == flow.backend)
    };
    controller.backends.departed.iter().find(of).map(|departed| departed.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_a_port_and_no_zone() {
        for good in ["198.51.100.7:4000", "[2001:db8::7]:4000", "0.0.0.0:0"] {
            assert_eq!(endpoint("client", good).unwrap().to_string(), good);
        }
        for bad in ["198.51.100.7", "2001:db8::7:4000", "[fe80::1%3]:4000", "web:80", "1.2.3.4:65536", ""] {
            assert!(endpoint("client", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_is_one_that_was_given() {
        assert_eq!(place(None).unwrap(), (0, 0));
        assert_eq!(place(Some("")).unwrap(), (0, 0));
        assert_eq!(place(Some("3.4096")).unwrap(), (3, 4096));
        for bad in ["3", "3.", ".4", "-1.0", "0.x", "1.2.3", "99999999999999999999999.0"] {
            assert!(place(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_line_spoils_no_other() {
        let good = r#"{"core":1,"service":"web","client":"[2001:db8::7]:4000","to":"[2001:db8::10]:80","backend":"b1","state":"tcp_new","idle_us":7}"#;
        let long = format!("{{\"core\":\"{}\"}}", "x".repeat(RESTORE_LINE_MAX));
        let text = [good, "", "{}", "not JSON", &long, "  ", good, "[1,2"].join("\r\n");
        let lines = parsed(&text);
        let numbers: Vec<(u64, bool)> = lines.iter().map(|(line, flow)| (*line, flow.is_ok())).collect();
        assert_eq!(numbers, [(1, true), (3, false), (4, false), (5, false), (7, true), (8, false)]);
        let flow = lines[0].1.as_ref().unwrap();
        assert_eq!((flow.core, flow.client.port(), flow.idle_us), (1, 4000, 7));
        let why = |at: usize| lines[at].1.as_ref().unwrap_err().as_str();
        assert!(why(1).contains("missing field") && !why(1).contains("line"), "{}", why(1));
        assert!(why(3).contains("longer than"), "{}", why(3));
        assert_eq!(serde_json::from_str::<StoredFlow>(&serde_json::to_string(flow).unwrap()).unwrap(), *flow);
    }
}

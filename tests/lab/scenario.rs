//! What the demo and the tests do with a balancer: even load, then churn while load runs. Each step judges itself and
//! says in words what was wrong.

use crate::balancer::Balancer;
use crate::command::{LabError, Result, until};
use crate::config::{Config, Member, Mode, Service};
use crate::load::http::{HttpLoad, HttpReport, STEP_MS};
use crate::load::{Progress, unix_ms};
use crate::load_run::LoadRun;
use crate::topology::{HTTP_PORT, Lab, VIP, VIP6, sources};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A killed backend must take no new connection after this time, milliseconds: two checks 500 ms apart, the first
/// up to 500 ms after the death, each with a limit of 250 ms, and the time it takes to act on it.
pub const DETECTION_MS: u64 = 1800;
/// How far a share may be from its weight.
pub const DEVIATION_MAX: f64 = 0.15;
/// Client addresses that must have been served.
pub const SOURCES_MIN: u64 = 50;

/// A mode with the address families of VIP and backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Variant {
    /// Forwarding mode.
    pub mode: Mode,
    /// The VIP is IPv6.
    pub vip6: bool,
    /// The backends have IPv6 addresses.
    pub backends6: bool,
}

impl Variant {
    /// IPv4 throughout.
    pub const fn v4(mode: Mode) -> Variant {
        Variant { mode, vip6: false, backends6: false }
    }

    /// IPv6 throughout.
    pub const fn v6(mode: Mode) -> Variant {
        Variant { mode, vip6: true, backends6: true }
    }

    /// An IPv6 VIP with IPv4 backends.
    pub const fn v6_in_v4(mode: Mode) -> Variant {
        Variant { mode, vip6: true, backends6: false }
    }

    /// An IPv4 VIP with IPv6 backends.
    pub const fn v4_in_v6(mode: Mode) -> Variant {
        Variant { mode, vip6: false, backends6: true }
    }

    /// For tables: `ipip`, `gre 6in4`, …
    pub fn name(self) -> String {
        match (self.vip6, self.backends6) {
            (false, false) => self.mode.word().to_owned(),
            (vip6, backends6) => {
                let digit = |six| if six { 6 } else { 4 };
                format!("{} {}in{}", self.mode.word(), digit(vip6), digit(backends6))
            }
        }
    }

    /// Backend `index` of the lab with a weight.
    pub fn member(self, index: u8, weight: u32) -> Member {
        let member = if self.backends6 { Member::v6(index, self.mode) } else { Member::v4(index, self.mode) };
        member.weighing(weight)
    }

    /// The VIP.
    pub fn vip(self) -> &'static str {
        if self.vip6 { VIP6 } else { VIP }
    }

    /// VIP and port of the web service.
    pub fn target(self) -> Result<SocketAddr> {
        let address: IpAddr =
            self.vip().parse().map_err(|_| LabError::Wrong("the VIP is no address".into()))?;
        Ok(SocketAddr::new(address, HTTP_PORT))
    }

    /// Client addresses.
    pub fn sources(self) -> Vec<IpAddr> {
        sources(!self.vip6)
    }

    /// A configuration with the web service on these backends: (number, weight).
    pub fn config(self, lab: &Lab, balancer: u8, backends: &[(u8, u32)]) -> Config {
        let members = backends.iter().map(|&(index, weight)| self.member(index, weight)).collect();
        let service = Service { vip: self.vip().to_owned(), ..Service::web(self.mode, members) };
        lab.config(balancer).with(service)
    }
}

/// Waits until these backends of a service take new flows.
pub fn wait_up(balancer: &Balancer, service: &str, backends: &[&str]) -> Result<()> {
    until(&format!("{backends:?} of {service} up"), Duration::from_secs(10), || {
        for name in backends {
            let state = balancer.api().backend_state(service, name).map_err(|error| error.to_string())?;
            if state != "up" {
                return Err(format!("{name} is {state}"));
            }
        }
        Ok(())
    })
}

/// Many requests, none of which may fail, split by weight.
pub fn even_load(
    lab: &Lab,
    variant: Variant,
    weights: &[(&str, u32)],
    requests: u64,
    mut watch: impl FnMut(Progress),
) -> Result<HttpReport> {
    let mut run = lab.http(HttpLoad::new(variant.target()?, variant.sources(), requests))?;
    // Slow machines do 200 requests a second.
    let limit = Duration::from_secs(30 + requests / 200);
    let begun = Instant::now();
    while run.is_running() && begun.elapsed() < limit {
        watch(run.progress());
        std::thread::sleep(Duration::from_millis(100));
    }
    let report = run.finish(Duration::from_secs(1))?;
    judge_even_load(&report, weights, requests)?;
    Ok(report)
}

fn judge_even_load(report: &HttpReport, weights: &[(&str, u32)], requests: u64) -> Result<()> {
    if report.failed > 0 || report.ok != requests {
        return Err(LabError::Wrong(format!(
            "{} of {requests} requests failed ({} answered); the first: {:?}",
            report.failed,
            report.ok,
            &report.failures[..report.failures.len().min(5)]
        )));
    }
    if report.sources < SOURCES_MIN {
        return Err(LabError::Wrong(format!("only {} client addresses were served", report.sources)));
    }
    let deviation = report.deviation(weights);
    if deviation > DEVIATION_MAX {
        return Err(LabError::Wrong(format!(
            "a share is {:.1} % off its weight: {:?} for {weights:?}",
            deviation * 100.0,
            report.per_backend
        )));
    }
    Ok(())
}

/// What churn did to the load that ran through it.
#[derive(Clone, Debug, Default)]
pub struct Churn {
    /// Requests answered, all phases.
    pub ok: u64,
    /// Requests that failed because their backend had been killed.
    pub kill_failures: u64,
    /// Time from the kill to the start of the last of these requests, milliseconds.
    pub kill_window_ms: u64,
    /// Time from the kill until the API said that the backend is down, milliseconds.
    pub kill_seen_ms: u64,
    /// Requests that failed while a backend was drained.
    pub drain_failures: u64,
    /// Requests that failed while a backend was added.
    pub add_failures: u64,
    /// Requests that the added backend answered.
    pub added_answers: u64,
}

/// Requests a second while things change.
const CHURN_RATE: u64 = 300;

/// Kills backend 2, starts it again, drains backend 3, undrains it, and adds backend 4, all while requests arrive.
/// The balancer must run a configuration of `variant` with exactly the backends 1 to 3; the lab must have 4.
pub fn churn(
    lab: &Lab,
    balancer: &Balancer,
    variant: Variant,
    weights: [u32; 3],
    mut watch: impl FnMut(&str),
) -> Result<Churn> {
    let api = balancer.api();
    wait_up(balancer, "web", &["b1", "b2", "b3"])?;
    let run = lab.http(HttpLoad::steady(variant.target()?, variant.sources(), CHURN_RATE))?;
    pause(1000);

    watch("b2 is killed");
    let killed = unix_ms();
    lab.backend(2)?.kill();
    until("the API says b2 is down", Duration::from_secs(5), || match api.backend_state("web", "b2") {
        Ok(state) if state != "up" => Ok(()),
        Ok(state) => Err(state),
        Err(error) => Err(error.to_string()),
    })?;
    let seen = unix_ms();
    pause((killed + DETECTION_MS + 1200).saturating_sub(unix_ms()));
    lab.backend(2)?.start()?;
    let restarted = unix_ms();
    wait_up(balancer, "web", &["b2"])?;
    let back = unix_ms();
    pause(500);

    watch("b3 is drained");
    let drain_asked = unix_ms();
    api.json("POST", "/v1/services/web/backends/b3/drain", "")?;
    let drained = unix_ms();
    pause(2000);
    let undrained = unix_ms();
    api.json("POST", "/v1/services/web/backends/b3/undrain", "")?;
    wait_up(balancer, "web", &["b3"])?;
    pause(500);

    watch("b4 is added");
    let added = unix_ms();
    let backends = [(1, weights[0]), (2, weights[1]), (3, weights[2]), (4, 1)];
    api.apply(&variant.config(lab, 1, &backends).render())?;
    wait_up(balancer, "web", &["b4"])?;
    pause(2000);
    let report = stop(run)?;
    judge_churn(&report, &Times { killed, seen, restarted, back, drain_asked, drained, undrained, added })
}

struct Times {
    killed: u64,
    seen: u64,
    restarted: u64,
    back: u64,
    drain_asked: u64,
    drained: u64,
    undrained: u64,
    added: u64,
}

fn judge_churn(report: &HttpReport, times: &Times) -> Result<Churn> {
    let mut churn = Churn {
        ok: report.ok,
        kill_seen_ms: times.seen.saturating_sub(times.killed),
        added_answers: report.of_between("b4", times.added, u64::MAX),
        ..Churn::default()
    };
    let mut wrong = Vec::new();
    for failure in &report.failures {
        // A request that was under way when its backend died fails as well.
        if failure.ended_unix_ms >= times.killed && failure.started_unix_ms <= times.killed + DETECTION_MS {
            churn.kill_failures += 1;
            churn.kill_window_ms =
                churn.kill_window_ms.max(failure.started_unix_ms.saturating_sub(times.killed));
            continue;
        }
        if failure.started_unix_ms >= times.added {
            churn.add_failures += 1;
        } else if failure.started_unix_ms >= times.drain_asked {
            churn.drain_failures += 1;
        }
        let at = i128::from(failure.started_unix_ms) - i128::from(times.killed);
        wrong.push(format!("a request failed that began {at} ms after the kill: {failure:?}"));
    }
    wrong.truncate(5);
    if churn.kill_seen_ms > DETECTION_MS {
        wrong.push(format!("b2 was out only {} ms after it was killed", churn.kill_seen_ms));
    }
    let late = report.of_between("b3", times.drained + 2 * STEP_MS, times.undrained.saturating_sub(STEP_MS));
    if late > 0 {
        wrong.push(format!("b3 was given {late} new connections while it was drained"));
    }
    if report.of_between("b2", times.killed + STEP_MS, times.restarted.saturating_sub(STEP_MS)) > 0 {
        wrong.push("b2 answered while it was dead".into());
    }
    if report.of_between("b2", times.back, times.drain_asked) == 0 {
        wrong.push("b2 got no connection after it had come back".into());
    }
    if report.of_between("b3", times.undrained, u64::MAX) == 0 {
        wrong.push("b3 got no connection after the drain was taken back".into());
    }
    if churn.added_answers == 0 {
        wrong.push("b4 got no connection after it had been added".into());
    }
    if wrong.is_empty() { Ok(churn) } else { Err(LabError::Wrong(wrong.join("; "))) }
}

fn stop(run: LoadRun<HttpReport>) -> Result<HttpReport> {
    let report = run.stop()?;
    if report.ok == 0 { Err(LabError::Wrong("no request was answered".into())) } else { Ok(report) }
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Conservation as the API shows it: every frame that came in went out, was punted, is held, or was dropped for a
/// counted reason. Workers are asked until two answers agree, because they count on while they are asked.
pub fn check_conservation(balancer: &Balancer) -> Result<()> {
    until("conservation of frames", Duration::from_secs(5), || {
        let status = balancer.api().get("/v1/status").map_err(|error| error.to_string())?;
        let field =
            |name: &str| status.get(name).and_then(serde_json::Value::as_u64).ok_or(format!("no {name}"));
        let input = field("rx")? + field("originated")?;
        let output = field("tx")? + field("relayed")? + field("punted")? + field("dropped")? + field("held")?;
        if input == output { Ok(()) } else { Err(format!("{input} in, {output} out: {status}")) }
    })
}

//! A second daemon in the namespace of a running one, which has something in common with it: refused by name before it has touched anything.

use super::{full_or, hold};
use guideway_lab::config::{Config, Member, Mode, Service};
use guideway_lab::scenario::{check_conservation, wait_up};
use guideway_lab::topology::VIP;
use guideway_lab::{Balancer, Lab};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A listener of the first one.
const METRICS: &str = "127.0.0.1:9187";

fn first(lab: &Lab) -> Config {
    let member = |index| Member::v4(index, Mode::Ipip);
    let echo = Service::echo(Mode::Ipip, (1..=3).map(member).collect());
    let echo = Service { extra: "announce = \"kernel\"\n".into(), ..echo };
    Config { extra: format!("[metrics]\nlisten = \"{METRICS}\"\n"), ..lab.config(1) }.with(echo)
}

/// A second daemon beside it, which shares nothing, but for what is replaced.
struct Second {
    dir: PathBuf,
    text: String,
}

impl Second {
    fn new(lab: &Lab) -> Second {
        let dir = lab.dir().join("second");
        std::fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "[machine]\nname = \"second\"\naddress = \"10.0.9.1\"\nnext_hop_mac = \"02:00:00:00:00:99\"\n\
             cluster_key = \"000102030405060708090a0b0c0d0e0f\"\nstate_dir = \"{dir}/state\"\n\
             [api]\nsocket = \"{dir}/api.sock\"\n\
             [dpdk]\neal_args = [\"--no-pci\", \"--no-huge\", \"-m\", \"128\", \"--no-telemetry\"]\n\
             [workers]\ncpus = [1]\nidle = \"adaptive\"\nflows = 4096\n\
             [metrics]\nlisten = \"127.0.0.1:9188\"\n\
             [[port]]\nname = \"data0\"\ndevice = \"net_null0\"\nexception = \"gw1\"\nexception_addresses = [\"10.0.9.1/24\"]\n\
             [[service]]\nname = \"web\"\nvip = \"203.0.113.99\"\nport = 80\nprotocol = \"tcp\"\nmode = \"ipip\"\nannounce = \"kernel\"\n\
             [[service.backend]]\nname = \"b1\"\naddress = \"10.0.9.21\"\n",
            dir = dir.display()
        );
        Second { dir, text }
    }

    fn with(&self, what: &str, by: &str) -> Second {
        assert!(self.text.contains(what), "{what}");
        Second { dir: self.dir.clone(), text: self.text.replacen(what, by, 1) }
    }

    fn start(&self, lab: &Lab) -> guideway_lab::command::Process {
        let path = self.dir.join("guideway.toml");
        std::fs::write(&path, &self.text).unwrap();
        let program = lab.binaries().guidewayd.to_str().unwrap();
        let argv = [program, "--config", path.to_str().unwrap()];
        lab.balancer(1).unwrap().start("second", &argv, &self.dir.join("log")).unwrap()
    }
}

/// What of the machine a second daemon could touch.
fn picture(balancer: &Balancer) -> String {
    let of = balancer.namespace();
    let commands =
        ["-o address show", "-o link show dev gw0", "route show table all", "-6 route show table all"];
    let text: Vec<String> = commands.iter().map(|command| of.ip(command).unwrap()).collect();
    // Times of addresses go down, and the kernel's own entries of a flow come and go.
    text.join("\n").lines().filter(|line| !line.contains("cache")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_second_daemon_is_refused_by_name_and_takes_nothing() {
    let lab = Lab::new("second daemon").unwrap();
    let balancer = lab.start_balancer(1, &first(&lab)).unwrap();
    wait_up(&balancer, "echo", &["b1", "b2", "b3"]).unwrap();
    let count = usize::try_from(full_or(600, 150)).unwrap();
    let held = hold(&lab, false, count);
    let before = picture(&balancer);
    assert!(before.contains(&format!("{VIP}/32")), "{before}");

    let second = Second::new(&lab);
    let own = first(&lab);
    let state = own.dir.join("state");
    let socket = own.socket();
    let overlaps = [
        ("machine.name", "name = \"second\"", format!("name = \"{}\"", own.machine)),
        (
            "answers on",
            "second/api.sock",
            format!("{}/api.sock", own.dir.file_name().unwrap().to_str().unwrap()),
        ),
        ("state_dir", "second/state", format!("{}/state", own.dir.file_name().unwrap().to_str().unwrap())),
        ("interface gw0", "\"gw1\"", "\"gw0\"".to_owned()),
        ("interface p0", "net_null0", "net_af_packet0,iface=p0".to_owned()),
        ("listener 127.0.0.1:9187", "127.0.0.1:9188", METRICS.to_owned()),
        ("VIP 203.0.113.10/32", "203.0.113.99", VIP.to_owned()),
    ];
    assert!(state.is_dir() && socket.exists());
    for (what, own, shared) in overlaps {
        let begun = Instant::now();
        let mut process = second.with(own, &shared).start(&lab);
        let status = process.wait(Duration::from_secs(20)).unwrap();
        let log = process.log_tail(20);
        println!("{what}: {status} after {:?}", begun.elapsed());
        assert_eq!((status.code(), status.signal()), (Some(1), None), "{what}: {log}");
        assert!(log.contains(what) && log.contains(&format!("process {}", balancer.id())), "{what}: {log}");
        assert!(!log.contains("EAL started"), "{what}: {log}");
        assert_eq!(picture(&balancer), before, "{what}");
        assert_eq!(balancer.api().request("GET", "/v1/ready", "").unwrap().status, 200, "{what}");
    }

    // One that shares nothing runs beside it, and takes only its own things away.
    let api = guideway_lab::api::Api::new(&second.dir.join("api.sock"));
    let mut process = second.start(&lab);
    guideway_lab::command::until("the second to be ready", Duration::from_secs(20), || {
        assert!(process.is_running(), "{}", process.log_tail(20));
        let answer = api.request("GET", "/v1/ready", "").map_err(|error| error.to_string())?;
        let announced =
            balancer.namespace().ip("-o address show dev lo").map_err(|error| error.to_string())?;
        let is_there = answer.status == 200 && announced.contains("203.0.113.99");
        is_there.then_some(()).ok_or_else(|| format!("{answer:?} {announced}"))
    })
    .unwrap();
    // A VIP that comes later is claimed as well.
    let later = second.with("203.0.113.99", VIP);
    let answer = api.request("POST", "/v1/apply", &later.text).unwrap();
    assert!(answer.status == 409 && answer.body.contains("VIP 203.0.113.10/32"), "{answer:?}");
    process.signal(rustix::process::Signal::TERM);
    let status = process.wait(Duration::from_secs(20)).unwrap();
    assert!(status.success(), "{}", process.log_tail(20));
    assert_eq!(picture(&balancer), before);

    let report = held.stop().unwrap();
    println!("{} of {count} connections broke", report.broken().len());
    assert_eq!((report.connections.len(), report.broken().len()), (count, 0), "{:#?}", report.broken());
    check_conservation(&balancer).unwrap();
    balancer.stop().unwrap();
}

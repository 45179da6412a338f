//! Nothing that takes long is done on the management thread, however large the configuration is.

use super::*;
use std::fmt::Write as _;

/// Services; as many as there may be where `GUIDEWAY_LAB_FULL` is set.
fn services() -> usize {
    if std::env::var_os("GUIDEWAY_LAB_FULL").is_some() { 4000 } else { 300 }
}

const BACKENDS: usize = 16;

/// So many services whose first backend has this weight, each with a table of its own.
fn large(place: &Path, weight: u32) -> String {
    let head = config(place, 8080);
    let mut text = head[..head.find("[[service]]").unwrap()].to_owned();
    for service in 0..services() {
        let (high, low) = (service / 250, service % 250 + 1);
        let _ = write!(
            text,
            "[[service]]\nname = \"s{service}\"\nvip = \"203.0.{high}.{low}\"\nport = 80\nprotocol = \"tcp\"\nmode = \"ipip\"\n"
        );
        for backend in 0..BACKENDS {
            let weight = if backend == 0 { weight } else { 1 };
            let _ = write!(
                text,
                "[[service.backend]]\nname = \"s{service}b{backend}\"\naddress = \"10.{}.{low}.{}\"\nweight = {weight}\n",
                high + 16,
                backend + 1
            );
        }
    }
    text
}

/// Longest turns by job, as the machine says: microseconds without waiting for a CPU.
async fn longest(machine: &Machine) -> Vec<(String, u64, u64)> {
    let status = machine.get("/v1/status").await.json();
    let turns = status["management"].as_array().unwrap().clone();
    turns
        .iter()
        .map(|of| {
            let us = |key: &str| of[key].as_u64().unwrap();
            (of["job"].as_str().unwrap().to_owned(), us("longest_us"), us("longest_wall_us"))
        })
        .collect()
}

#[test]
fn a_reload_of_all_services_holds_nobody_up() {
    test("large::a_reload_of_all_services_holds_nobody_up", async |place| {
        let begun = Instant::now();
        let machine = Machine::start(place, &large(place, 1));
        let answered = machine.get("/v1/ready").await;
        assert_eq!(answered.status, 503, "its tables are not made yet");
        // Everything runs on this thread, the start as well.
        println!("first answer after {:?}", begun.elapsed());
        let patience = Duration::from_secs(120);
        let wait = async {
            while machine.get("/v1/ready").await.status != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(patience, wait).await.unwrap();
        println!("ready after {:?}: {:?}", begun.elapsed(), longest(&machine).await);

        std::fs::write(machine.place.join("config.toml"), large(place, 3)).unwrap();
        let begun = Instant::now();
        let mut reload = Box::pin(machine.send("POST", "/v1/reload?wait=true&timeout_ms=60000", "", b""));
        let mut answers = Vec::new();
        let reloaded = loop {
            tokio::select! {
                done = &mut reload => break done,
                () = tokio::time::sleep(Duration::from_millis(5)) => {
                    let asked = Instant::now();
                    assert_eq!(machine.get("/v1/ready").await.status, 200, "it serves by its last view");
                    answers.push(asked.elapsed());
                }
            }
        };
        drop(reload);
        assert_eq!((reloaded.status, &reloaded.json()["acknowledged"]), (200, &true.into()));
        let plan = &reloaded.json()["plan"]["services"];
        assert!(plan.as_array().unwrap().iter().all(|of| of["slots_moved"].as_u64() > Some(0)));
        answers.sort_unstable();
        let turns = longest(&machine).await;
        println!(
            "reloaded in {:?}; {} answers meanwhile, median {:?}, longest {:?}; {turns:?}",
            begun.elapsed(),
            answers.len(),
            answers[answers.len() / 2],
            answers.last().unwrap()
        );
        let metrics = machine.get("/metrics").await;
        assert!(metrics.body.contains("guideway_management_longest_turn_seconds{job=\"question\"}"));
        println!("{} bytes of metrics; {:?}", metrics.body.len(), longest(&machine).await);
        // 300 ms here, where nothing is optimized and a CPU is shared; 100 are promised, and measured in a release build.
        let is_long = |(_, us, _): &&(String, u64, u64)| *us > 300_000;
        assert_eq!(turns.iter().find(is_long), None);
        machine.stop().await;
    });
}

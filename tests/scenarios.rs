//! Every folder of tests/scenarios: the real `guideway replay` against what scapy says must come out.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The program under test: `GUIDEWAY` in the environment, else built here.
fn guideway() -> PathBuf {
    if let Some(path) = std::env::var_os("GUIDEWAY") {
        return path.into();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--package", "guideway", "--bin", "guideway"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo starts");
    assert!(built.success(), "guideway builds");
    // This test is target/<profile>/deps/scenarios-…; cargo build without flags makes target/debug/guideway.
    let here = std::env::current_exe().expect("own path");
    let target = here.ancestors().nth(3).expect("target directory");
    target.join("debug/guideway")
}

#[test]
fn every_scenario_comes_out_as_scapy_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let folders = testkit::scenario::folders(&root).expect("tests/scenarios is readable");
    assert!(folders.len() >= 20, "only {} scenarios found below {}", folders.len(), root.display());
    let guideway = guideway();
    let mut failed = 0;
    for folder in &folders {
        let name = folder.file_name().expect("name").to_string_lossy().into_owned();
        let scratch = std::env::temp_dir().join(format!("guideway-scenario-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&scratch).expect("scratch directory");
        let faults = testkit::scenario::run(&guideway, folder, &scratch).unwrap_or_else(|e| vec![e]);
        std::fs::remove_dir_all(&scratch).expect("scratch directory goes");
        println!("{} {name}", if faults.is_empty() { "ok  " } else { "FAIL" });
        for fault in &faults {
            println!("       {}", fault.replace('\n', "\n       "));
        }
        failed += usize::from(!faults.is_empty());
    }
    assert_eq!(failed, 0, "{failed} of {} scenarios failed", folders.len());
}

//! docs/first-hour.md as a reader meets it: every command is run, in order, and what it prints is compared.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "first_hour/page.rs"]
mod page;

use guideway_lab::command::LabError;
use guideway_lab::{Sandbox, cleanup};
use page::{Block, blocks, compare, matches, script};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the whole page may take.
const LIMIT: Duration = Duration::from_secs(60);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_first_hour_is_as_it_is_written() {
    let document = std::fs::read_to_string(root().join("docs/first-hour.md")).unwrap();
    let (builds, run): (Vec<Block>, Vec<Block>) =
        blocks(&document).into_iter().partition(|block| block.kind == "build");
    // The one block that is not run: the programs under test are there.
    assert_eq!(builds.len(), 1, "{builds:?}");
    assert!(builds[0].commands.contains("cargo build --release"), "{builds:?}");
    let strange = run.iter().find(|block| !block.kind.is_empty());
    assert_eq!(strange, None, "a block of a kind that nobody knows");
    assert!(run.len() >= 15, "only {} blocks were found", run.len());

    let sandbox = Sandbox::new().unwrap();
    let pages = cleanup::huge_pages_reserved().unwrap();
    let begun = Instant::now();
    let printed = match sandbox.run(&script(&run), root(), LIMIT) {
        Ok(printed) => printed,
        Err(LabError::Command { status, output, .. }) => {
            panic!("docs/first-hour.md: the last block below failed ({status}):\n{output}")
        }
        Err(error) => panic!("{error}"),
    };
    let wrong = compare(&run, &printed);
    assert!(wrong.is_empty(), "docs/first-hour.md:\n{}", wrong.join("\n"));
    println!("{} blocks in {} ms", run.len(), begun.elapsed().as_millis());
    // The page takes back what it did to the machine; of the rest nothing is outside of the sandbox.
    assert_eq!(cleanup::huge_pages_reserved().unwrap(), pages, "the page leaves huge pages behind");
}

#[test]
fn what_a_failing_page_did_is_undone() {
    let document = "```sh\n\
                    ip netns add first-hour-fails\n\
                    mkdir /run/first-hour-fails\n\
                    echo $(($(cat /proc/sys/vm/nr_hugepages) + 1)) > /proc/sys/vm/nr_hugepages\n\
                    ip netns exec first-hour-fails sleep 4711 &\n\
                    echo so far\n\
                    false\n\
                    ```\n\
                    ```sh\n\
                    echo never\n\
                    ```\n";
    let blocks = blocks(document);
    let sandbox = Sandbox::new().unwrap();
    let pages = cleanup::huge_pages_reserved().unwrap();
    let error = sandbox.run(&script(&blocks), root(), LIMIT).unwrap_err();
    let LabError::Command { output, .. } = &error else { panic!("{error}") };
    assert!(output.contains("so far") && !output.contains("never"), "{output}");
    let slow = sandbox.run("sleep 4711", root(), Duration::from_secs(1)).unwrap_err();
    drop(sandbox);

    assert!(matches!(slow, LabError::Command { .. }), "{slow}");
    assert_eq!(cleanup::huge_pages_reserved().unwrap(), pages);
    for path in ["/run/netns/first-hour-fails", "/run/first-hour-fails"] {
        assert!(!Path::new(path).exists(), "{path}");
    }
    assert_eq!(cleanup::traces(std::process::id()), [""; 0]);
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        assert_ne!(line, "sleep\x004711\0", "still there: {}", entry.path().display());
    }
}

#[test]
fn blocks_are_found_with_what_they_must_print() {
    let document = "# A\n```text\na picture\n```\n```sh build\nmake\n```\n```sh\necho 1\n```\nand\n\
                    ```text\n1\n```\n```sh\ntrue\n```\n## B\n```text\nanother picture\n```\n";
    let block = |line, kind: &str, commands: &str, expected: &str| Block {
        line,
        kind: kind.into(),
        commands: commands.into(),
        expected: expected.into(),
    };
    let found = blocks(document);
    let wanted =
        [block(6, "build", "make\n", ""), block(9, "", "echo 1\n", "1\n"), block(16, "", "true\n", "")];
    assert_eq!(found, wanted);
    let printed = "\n=== block of line 9\n1\n\n=== block of line 16\n";
    assert_eq!(compare(&found[1..], printed), [""; 0]);
    assert_eq!(compare(&found[1..], "\n=== block of line 9\n1\n"), ["line 16: not run"]);
    let wrong = compare(&found[1..], "\n=== block of line 9\n2\n\n=== block of line 16\nnoise\n");
    assert!(wrong[0].starts_with("line 9: expected\n1\n") && wrong[1].contains("nothing"), "{wrong:?}");
}

#[test]
fn expectations_match_what_they_say_and_nothing_else() {
    for (expected, text) in [
        ("", "\n"),
        ("a  b", "  a b\n\n"),
        ("…", ""),
        ("a … c", "a b b c"),
        ("…\nlast", "1\n2\nlast"),
        ("web…", "web1"),
        ("a…a", "aba ba"),
    ] {
        assert!(matches(expected, text), "{expected:?} {text:?}");
    }
    for (expected, text) in
        [("", "a"), ("a", ""), ("a…c", "a b"), ("…\nlast", "last\n1"), ("a\nb", "b\na"), ("web1", "web12")]
    {
        assert!(!matches(expected, text), "{expected:?} {text:?}");
    }
}

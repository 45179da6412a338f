use super::*;

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("token"), "0123456789abcdef\nmore\n").unwrap();
    std::fs::set_permissions(place.path().join("token"), PermissionsExt::from_mode(0o600)).unwrap();
    place
}

/// `text` with `TOKEN` for the path of a good token file.
fn loaded(place: &tempfile::TempDir, text: &str) -> Result<LoadedAgentConfig, Vec<Diagnostic>> {
    load(&text.replace("TOKEN", &place.path().join("token").display().to_string()))
}

const WHOLE: &str = r#"
[agent]
name = "host5"
socket = "/run/a.sock"
machines = ["10.9.0.1:7481", "lb2.example:7481", "[2001:db8::1]:7481"]
addresses = ["10.1.0.5", "10.2.0.0/30"]
state_file = "/var/lib/a.json"
[[service]]
name = "web"
token_file = "TOKEN"
[[backend]]
service = "web"
name = "web-1"
address = "10.2.0.1"
weight = 2
port = 8080
capacity = 1000
load_file = "/run/web-1.load"
[command.check-db]
argv = ["/usr/lib/check-db", "-x"]
"#;

#[test]
fn a_whole_file() {
    let place = place();
    let LoadedAgentConfig { config, warnings } = loaded(&place, WHOLE).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.machines.len(), 3);
    let addresses: Vec<_> = config.addresses.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.1.0.5", "10.2.0.0", "10.2.0.1", "10.2.0.2", "10.2.0.3"]);
    assert_eq!(config.services["web"].bytes(), b"0123456789abcdef");
    assert_eq!(format!("{:?}", config.services["web"]), "Token", "never printed");
    assert_eq!(config.commands["check-db"], ["/usr/lib/check-db", "-x"]);
    let backend = &config.backends[0];
    assert_eq!((backend.weight, backend.port, backend.capacity), (2, Some(8080), Some(1000)));
}

#[test]
fn the_least_file_has_defaults() {
    let place = place();
    let text =
        "[agent]\nname = \"h\"\nmachines = [\"a:1\"]\n[[service]]\nname = \"web\"\ntoken_file = \"TOKEN\"\n";
    let config = loaded(&place, text).unwrap().config;
    assert_eq!(config.socket, PathBuf::from("/run/guideway-agent/agent.sock"));
    assert_eq!(config.state_file, PathBuf::from(STATE_FILE));
    assert_eq!((config.addresses, config.tls, config.backends.len()), (None, None, 0));
}

#[test]
fn every_mistake_is_told_with_its_place_and_remedy() {
    let place = place();
    let cases = [
        ("name = \"host5\"", "name = \"host 5\"", "no name", 3),
        ("\"lb2.example:7481\"", "\"lb2.example\"", "not an address or name with a port", 5),
        ("\"lb2.example:7481\"", "\"10.9.0.1:7481\"", "named twice", 5),
        ("\"10.2.0.0/30\"", "\"10.2.0.1/30\"", "bits behind", 6),
        ("\"10.2.0.0/30\"", "\"10.0.0.0/8\"", "more than 1024", 6),
        ("\"10.2.0.0/30\"", "\"x\"", "not an IPv4", 6),
        ("address = \"10.2.0.1\"", "address = \"10.2.0.9\"", "not among agent.addresses", 14),
        ("service = \"web\"", "service = \"mail\"", "no service \"mail\"", 12),
        ("weight = 2", "weight = 0", "weight 0", 11),
        ("weight = 2", "wieght = 2", "unknown field `wieght`", 15),
        ("load_file = \"/run", "load_file = \"run", "absolute", 11),
        ("\"/usr/lib/check-db\"", "\"check-db\"", "absolute path", 20),
        ("socket = \"/run", "socket = \"run", "absolute", 4),
        ("\"TOKEN\"", "\"/no/such\"", "token file /no/such", 10),
        (
            "machines = [\"10.9.0.1:7481\", \"lb2.example:7481\", \"[2001:db8::1]:7481\"]",
            "machines = []",
            "0 machines",
            5,
        ),
        ("name = \"host5\"\n", "name = \"host5\"\ntls = { ca = \"/no/such\" }\n", "/no/such", 4),
        (
            "name = \"host5\"\n",
            "name = \"host5\"\ntls = { ca = \"/no/such\", key = \"x\" }\n",
            "one of `cert` and `key`",
            4,
        ),
        ("name = \"web-1\"", "name = \"web-1", "", 13),
    ];
    for (from, to, expected, line) in cases {
        assert!(WHOLE.contains(from), "{from}");
        let found = loaded(&place, &WHOLE.replace(from, to)).unwrap_err();
        let first = &found[0];
        assert!(first.message.contains(expected), "{to}: {first:?}");
        assert_eq!(first.line, line, "{to}: {first:?}");
        assert!(!first.help.is_empty(), "{first:?}");
    }
}

#[test]
fn twice_is_once_too_often() {
    let place = place();
    let again = WHOLE.replace(
        "[command.check-db]",
        "[[backend]]\nservice = \"web\"\nname = \"web-1\"\naddress = \"10.2.0.1\"\n[command.check-db]",
    );
    let found = loaded(&place, &again).unwrap_err();
    assert_eq!(found.len(), 2, "{found:?}");
    let again =
        WHOLE.replace("[[backend]]", "[[service]]\nname = \"web\"\ntoken_file = \"TOKEN\"\n[[backend]]");
    assert!(loaded(&place, &again).unwrap_err()[0].message.contains("twice"));
}

#[test]
fn tokens() {
    let place = place();
    let path = place.path().join("token");
    for (text, fits) in [
        (&b"0123456789abcde\n"[..], false),
        (b"0123456789abcdef", true),
        (b"0123456789abcdef\r\n", true),
        (b"\n0123456789abcdef\n", false),
        (&[b'x'; 256], true),
        (&[b'x'; 257], false),
    ] {
        std::fs::write(&path, text).unwrap();
        let got = token(&path);
        assert_eq!(got.is_ok(), fits, "{text:?}");
        if let Ok(token) = got {
            assert!(!token.bytes().ends_with(b"\r"));
        }
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&path, "0123456789abcdef").unwrap();
    let warnings = loaded(&place, WHOLE).unwrap().warnings;
    assert!(warnings[0].message.contains("everybody"), "{warnings:?}");
}

#[test]
fn the_example_is_good_as_it_is_and_with_all_its_keys() {
    let place = place();
    let token = place.path().join("token").display().to_string();
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/agent.toml"))
        .replace("/etc/guideway-agent/web.token", &token);
    load(&text).unwrap();
    // TLS needs files; the other keys are uncommented.
    let all: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("#tls"))
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .collect();
    let config = load(&all.join("\n")).unwrap().config;
    assert_eq!((config.backends.len(), config.commands.len()), (1, 1));
    assert_eq!(config.addresses.map(|addresses| addresses.len()), Some(257));
}

//! Our commands on DPDK's telemetry socket: `dpdk-telemetry.py`, or Telegraf's dpdk input, get our numbers beside the
//! drivers'. The management core publishes JSON; DPDK's telemetry thread turns the latest into its own format when asked.

use crate::eal::Eal;
use crate::errno::Errno;
use core::ffi::{CStr, c_char, c_int};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Mutex, PoisonError};

/// Commands and their help.
pub const COMMANDS: &[(&CStr, &CStr)] = &[
    (c"/guideway/summary", c"Returns totals of this balancer. No parameters"),
    (c"/guideway/vips", c"Returns services. Optional parameter: start of a name"),
    (c"/guideway/backends", c"Returns backends. Optional parameter: start of a name"),
    (c"/guideway/drops", c"Returns dropped frames by reason. Optional parameter: start of a reason"),
    (c"/guideway/workers", c"Returns what each worker counted. Optional parameter: start of a name"),
];

/// DPDK's limits for a dictionary.
const ENTRIES_MAX: usize = dpdk_sys::RTE_TEL_MAX_DICT_ENTRIES as usize;
const STRING_MAX: usize = dpdk_sys::RTE_TEL_MAX_STRING_LEN as usize - 1;
/// Nesting followed in published JSON.
const DEPTH_MAX: usize = 4;

static PUBLISHED: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Registers the commands.
///
/// # Errors
/// The number DPDK gave.
pub fn register(_eal: &Eal) -> Result<(), Errno> {
    for (command, help) in COMMANDS {
        // SAFETY: C strings, which DPDK copies, and a function that lives as long as the process.
        let result =
            unsafe { dpdk_sys::rte_telemetry_register_cmd(command.as_ptr(), Some(answer), help.as_ptr()) };
        Errno::check(result)?;
    }
    Ok(())
}

/// Publishes the latest JSON of a command; one that is not in [`COMMANDS`] is kept and never asked for.
pub fn publish(command: &str, json: String) {
    PUBLISHED.lock().unwrap_or_else(PoisonError::into_inner).insert(command.to_owned(), json);
}

/// Called on DPDK's telemetry thread.
unsafe extern "C" fn answer(
    command: *const c_char,
    parameters: *const c_char,
    data: *mut dpdk_sys::rte_tel_data,
) -> c_int {
    // SAFETY: DPDK gives the command as a C string.
    let command = unsafe { CStr::from_ptr(command) }.to_string_lossy();
    let start = if parameters.is_null() {
        String::new()
    } else {
        // SAFETY: DPDK gives the parameters as a C string, or null.
        unsafe { CStr::from_ptr(parameters) }.to_string_lossy().into_owned()
    };
    // SAFETY: `data` is DPDK's own answer under construction.
    unsafe { dpdk_sys::rte_tel_data_start_dict(data) };
    let json = PUBLISHED.lock().unwrap_or_else(PoisonError::into_inner).get(command.as_ref()).cloned();
    let value = json.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or(Value::Null);
    for entry in entries(&value, &start) {
        add(data, &entry);
    }
    0
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Scalar {
    Unsigned(u64),
    Signed(i32),
    Text(CString),
}

type DictEntry = (CString, Scalar);

fn add(data: *mut dpdk_sys::rte_tel_data, (name, value): &DictEntry) {
    // A refused entry is left out: there is nobody to tell.
    match value {
        Scalar::Unsigned(value) => {
            // SAFETY: `data` is a dictionary under construction, the name is copied.
            unsafe { dpdk_sys::rte_tel_data_add_dict_u64(data, name.as_ptr(), *value) };
        }
        Scalar::Signed(value) => {
            // SAFETY: as above.
            unsafe { dpdk_sys::rte_tel_data_add_dict_int(data, name.as_ptr(), *value) };
        }
        Scalar::Text(value) => {
            // SAFETY: as above; the value is copied too.
            unsafe { dpdk_sys::rte_tel_data_add_dict_string(data, name.as_ptr(), value.as_ptr()) };
        }
    }
}

/// The scalars of a JSON value by path (`web/b1/packets`), as far as a dictionary holds them; what does not fit is
/// counted in a last entry `omitted`.
fn entries(value: &Value, start: &str) -> Vec<DictEntry> {
    let mut all = Vec::new();
    flatten("", value, 0, &mut all);
    all.retain(|(path, _)| path.starts_with(start));
    let omitted = all.len().saturating_sub(ENTRIES_MAX);
    if omitted > 0 {
        all.truncate(ENTRIES_MAX - 1);
        all.push(("omitted".to_owned(), Scalar::Unsigned(omitted as u64 + 1)));
    }
    all.into_iter().filter_map(|(path, value)| Some((CString::new(path).ok()?, value))).collect()
}

fn flatten(path: &str, value: &Value, depth: usize, out: &mut Vec<(String, Scalar)>) {
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
    match value {
        Value::Object(_) | Value::Array(_) if depth == DEPTH_MAX => {}
        Value::Object(map) => {
            for (name, value) in map {
                flatten(&join(name), value, depth + 1, out);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&join(&item_name(item, index)), item, depth + 1, out);
            }
        }
        scalar => {
            if let Some(scalar) = as_scalar(scalar) {
                out.push((legal_name(path), scalar));
            }
        }
    }
}

/// What an item of a list is called: by its names, else by its position.
fn item_name(item: &Value, index: usize) -> String {
    let text = |key: &str| item.get(key).and_then(Value::as_str);
    match (text("service"), text("name")) {
        (Some(service), Some(name)) => format!("{service}/{name}"),
        (None, Some(name)) => name.to_owned(),
        (Some(service), None) => match text("backend") {
            Some(backend) => format!("{service}/{backend}"),
            None => service.to_owned(),
        },
        (None, None) => match ["reason", "core", "id"].iter().find_map(|key| item.get(key)) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => index.to_string(),
        },
    }
}

/// DPDK takes letters, digits, `_` and `/` in names.
fn legal_name(path: &str) -> String {
    let legal = |char: char| if char.is_ascii_alphanumeric() || char == '/' { char } else { '_' };
    path.chars().take(STRING_MAX).map(legal).collect()
}

fn as_scalar(value: &Value) -> Option<Scalar> {
    let text = |text: &str| {
        // 22.11 writes strings as they are: no byte may end or break the JSON string.
        let plain = |char: char| {
            if char.is_ascii_graphic() && !matches!(char, '"' | '\\') || char == ' ' { char } else { '_' }
        };
        let cut: String = text.chars().take(STRING_MAX).map(plain).collect();
        CString::new(cut).ok().map(Scalar::Text)
    };
    match value {
        Value::Bool(value) => Some(Scalar::Unsigned(u64::from(*value))),
        Value::Number(number) => {
            match (number.as_u64(), number.as_i64().and_then(|number| i32::try_from(number).ok())) {
                (Some(number), _) => Some(Scalar::Unsigned(number)),
                (None, Some(number)) => Some(Scalar::Signed(number)),
                (None, None) => text(&number.to_string()),
            }
        }
        Value::String(string) => text(string),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(value: &Value, start: &str) -> Vec<(String, Scalar)> {
        entries(value, start).into_iter().map(|(name, value)| (name.into_string().unwrap(), value)).collect()
    }

    #[test]
    fn nested_json_becomes_one_dictionary() {
        let value = json!({
            "ready": true, "rx": 7, "delta": -3, "share": 0.5, "name": "lb\"1\n", "none": null,
            "backends": [{"service": "web", "name": "b-1", "packets": 1}, {"core": 1, "turns": 2}],
        });
        let text = |text: &str| Scalar::Text(CString::new(text).unwrap());
        let got: BTreeMap<String, Scalar> = names(&value, "").into_iter().collect();
        let want = BTreeMap::from([
            ("ready".to_owned(), Scalar::Unsigned(1)),
            ("rx".to_owned(), Scalar::Unsigned(7)),
            ("delta".to_owned(), Scalar::Signed(-3)),
            ("share".to_owned(), text("0.5")),
            ("name".to_owned(), text("lb_1_")),
            ("backends/web/b_1/service".to_owned(), text("web")),
            ("backends/web/b_1/name".to_owned(), text("b-1")),
            ("backends/web/b_1/packets".to_owned(), Scalar::Unsigned(1)),
            ("backends/1/core".to_owned(), Scalar::Unsigned(1)),
            ("backends/1/turns".to_owned(), Scalar::Unsigned(2)),
        ]);
        assert_eq!(got, want);
    }

    #[test]
    fn a_parameter_selects_and_a_limit_holds() {
        let map: serde_json::Map<String, Value> = (0..1000).map(|n| (format!("n{n:04}"), json!(n))).collect();
        let value = Value::Object(map);
        let all = names(&value, "");
        assert_eq!(all.len(), ENTRIES_MAX);
        assert_eq!(all.last(), Some(&("omitted".to_owned(), Scalar::Unsigned(745))));
        assert_eq!(names(&value, "n000").len(), 10);
        assert!(names(&Value::Null, "").is_empty());
    }
}

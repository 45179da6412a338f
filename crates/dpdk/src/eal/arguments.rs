//! The EAL command line: from the configuration, in a form that can be pasted into testpmd.

/// What the EAL command line is made from.
#[derive(Clone, Debug, Default)]
pub struct EalArguments<'a> {
    /// First word.
    pub program: &'a str,
    /// `--file-prefix`.
    pub file_prefix: &'a str,
    /// CPUs the main lcore (0) floats on; at least one.
    pub management_cpus: &'a [u16],
    /// CPU of each worker; lcores 1, 2, ….
    pub worker_cpus: &'a [u16],
    /// Device strings of the ports.
    pub devices: Vec<&'a str>,
    /// `dpdk.eal_args`: before ours.
    pub configured: &'a [String],
    /// After `--` on the command line: behind ours.
    pub extra: &'a [String],
}

/// Why an EAL argument is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ArgumentError {
    /// Guideway sets it.
    #[error("EAL argument {argument} is set by guidewayd itself; {help}")]
    Reserved {
        /// As given.
        argument: String,
        /// The key to use instead.
        help: &'static str,
    },
}

/// Options that the program derives from its configuration, and the keys that do so.
const RESERVED: &[(&str, &str)] = &[
    ("-c", "use workers.cpus and workers.management_cpus"),
    ("-l", "use workers.cpus and workers.management_cpus"),
    ("-s", "service cores are not used; remove it"),
    ("-S", "service cores are not used; remove it"),
    ("--lcores", "use workers.cpus and workers.management_cpus"),
    ("--main-lcore", "the main lcore is always 0, on workers.management_cpus"),
    ("--file-prefix", "it is guideway-<machine.name>; use machine.name"),
    ("--proc-type", "guidewayd is always the primary process; remove it"),
];

impl EalArguments<'_> {
    /// The words, program first.
    ///
    /// # Errors
    /// [`ArgumentError::Reserved`] when a passed-through argument is one of ours.
    pub fn build(&self) -> Result<Vec<String>, ArgumentError> {
        let passed: Vec<&String> = self.configured.iter().chain(self.extra).collect();
        for argument in &passed {
            refuse_reserved(argument)?;
        }
        let mut words = vec![self.program.to_owned()];
        words.extend_from_slice(self.configured);
        words.extend(["--lcores".to_owned(), self.lcores()]);
        words.extend(["--file-prefix".to_owned(), self.file_prefix.to_owned()]);
        for device in &self.devices {
            let option = if is_hardware(device) { "-a" } else { "--vdev" };
            words.extend([option.to_owned(), (*device).to_owned()]);
        }
        // Without a list of devices EAL takes every bound NIC of the machine.
        let hardware = self.devices.iter().any(|device| is_hardware(device));
        if !hardware && !passed.iter().any(|argument| selects_hardware(argument)) {
            words.push("--no-pci".to_owned());
        }
        words.extend_from_slice(self.extra);
        Ok(words)
    }

    /// `0@(0,3),1@1,2@2`: logical cores on CPUs.
    fn lcores(&self) -> String {
        let cpus: Vec<String> = self.management_cpus.iter().map(u16::to_string).collect();
        let mut text = format!("0@({})", cpus.join(","));
        for (index, cpu) in self.worker_cpus.iter().enumerate() {
            text.push_str(&format!(",{}@{cpu}", index + 1));
        }
        text
    }
}

fn refuse_reserved(argument: &str) -> Result<(), ArgumentError> {
    let name = argument.split('=').next().unwrap_or(argument);
    let found = RESERVED.iter().find(|(option, _)| {
        // A short option may have its value glued on: -l0-3.
        if option.starts_with("--") { name == *option } else { argument.starts_with(option) }
    });
    match found {
        Some((_, help)) => Err(ArgumentError::Reserved { argument: argument.to_owned(), help }),
        None => Ok(()),
    }
}

fn selects_hardware(argument: &str) -> bool {
    let name = argument.split('=').next().unwrap_or(argument);
    matches!(name, "--no-pci" | "--allow" | "--block")
        || (argument.starts_with("-a") || argument.starts_with("-b")) && !argument.starts_with("--")
}

/// Whether a device string names hardware (`-a`) and not a virtual device (`--vdev`): a PCI address with or without
/// domain, or a bus prefix such as `pci:` or `auxiliary:`.
pub fn is_hardware(device: &str) -> bool {
    let name = device.split(',').next().unwrap_or(device);
    if let Some((bus, _)) = name.split_once(':')
        && matches!(bus, "pci" | "auxiliary" | "vmbus" | "fslmc" | "dpaa_bus" | "ifpga" | "platform")
    {
        return true;
    }
    let (address, function) = match name.rsplit_once('.') {
        Some(parts) => parts,
        None => return false,
    };
    let parts: Vec<&str> = address.split(':').collect();
    let hex = |text: &str, len_max: usize| {
        !text.is_empty() && text.len() <= len_max && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let address_ok = match parts.as_slice() {
        [bus, device] => hex(bus, 2) && hex(device, 2),
        [domain, bus, device] => hex(domain, 8) && hex(bus, 2) && hex(device, 2),
        _ => false,
    };
    address_ok && hex(function, 1)
}

/// The value of `--file-prefix` in a built command line.
pub(super) fn file_prefix(words: &[String]) -> Option<String> {
    let mut words = words.iter();
    let mut found = None;
    while let Some(word) = words.next() {
        if word == "--file-prefix" {
            found = words.next().cloned();
        } else if let Some(value) = word.strip_prefix("--file-prefix=") {
            found = Some(value.to_owned());
        }
    }
    found
}

/// The words as one line for a shell.
pub fn quote(words: &[String]) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=.,:/@+%".contains(&byte);
            if !word.is_empty() && word.bytes().all(plain) {
                word.clone()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        })
        .collect();
    quoted.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn order_is_configured_ours_extra() {
        let configured = words(&["--no-huge", "-m", "64"]);
        let extra = words(&["--log-level=eal:debug"]);
        let arguments = EalArguments {
            program: "guidewayd",
            file_prefix: "guideway-lb1",
            management_cpus: &[0, 3],
            worker_cpus: &[1, 2],
            devices: vec!["net_af_xdp0,iface=p0", "net_pcap1,rx_pcap=a b.pcap"],
            configured: &configured,
            extra: &extra,
        };
        assert_eq!(
            quote(&arguments.build().unwrap()),
            "guidewayd --no-huge -m 64 --lcores '0@(0,3),1@1,2@2' --file-prefix guideway-lb1 \
             --vdev net_af_xdp0,iface=p0 --vdev 'net_pcap1,rx_pcap=a b.pcap' --no-pci --log-level=eal:debug"
        );
    }

    #[test]
    fn hardware_is_allowed_by_name_and_then_nothing_else_is_taken() {
        let none = Vec::new();
        let arguments = EalArguments {
            program: "guidewayd",
            file_prefix: "x",
            management_cpus: &[0],
            worker_cpus: &[1],
            devices: vec!["0000:3b:00.0,mprq_en=1", "net_tap9"],
            configured: &none,
            extra: &none,
        };
        let built = arguments.build().unwrap();
        assert!(built.windows(2).any(|pair| pair == ["-a", "0000:3b:00.0,mprq_en=1"]));
        assert!(!built.contains(&"--no-pci".to_owned()));
    }

    #[test]
    fn device_strings() {
        for device in [
            "0000:3b:00.0",
            "3b:00.1",
            "3b:00.0,arg=1",
            "pci:0000:01:00.0",
            "auxiliary:mlx5_core.sf.4",
            "vmbus:x",
        ] {
            assert!(is_hardware(device), "{device}");
        }
        for device in [
            "net_null0",
            "net_af_xdp0,iface=eth0.100",
            "virtio_user0,path=/dev/vhost-net",
            "net_pcap0,iface=a:b.c",
            "eth_tap.1",
            "",
        ] {
            assert!(!is_hardware(device), "{device}");
        }
    }

    #[test]
    fn our_own_options_are_refused_by_name() {
        for argument in [
            "-l",
            "-l0-3",
            "--lcores=1@1",
            "--file-prefix",
            "--file-prefix=x",
            "--proc-type=auto",
            "-c3",
            "-s1",
        ] {
            let configured = words(&[argument]);
            let arguments =
                EalArguments { configured: &configured, management_cpus: &[0], ..EalArguments::default() };
            let error = arguments.build().unwrap_err();
            assert!(error.to_string().contains(argument), "{error}");
        }
        for argument in [
            "--log-level=8",
            "--in-memory",
            "--legacy-mem",
            "-n",
            "4",
            "--socket-mem=128",
            "--single-file-segments",
        ] {
            assert_eq!(refuse_reserved(argument), Ok(()), "{argument}");
        }
    }

    #[test]
    fn prefix_is_found_again() {
        assert_eq!(file_prefix(&words(&["x", "--file-prefix", "a"])), Some("a".to_owned()));
        assert_eq!(file_prefix(&words(&["x", "--file-prefix=b"])), Some("b".to_owned()));
        assert_eq!(file_prefix(&words(&["x"])), None);
    }
}

//! Finds libdpdk, generates bindings for the names we use, compiles the shim.

#[path = "libdpdk.rs"]
mod libdpdk;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

/// Functions used by the `dpdk` crate; nothing else is bound.
const FUNCTIONS: &[&str] = &[
    "shim_.*",
    // EAL
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_eal_has_hugepages",
    "rte_eal_remote_launch",
    "rte_eal_wait_lcore",
    "rte_eal_get_lcore_state",
    "rte_get_next_lcore",
    "rte_get_main_lcore",
    "rte_lcore_to_socket_id",
    "rte_get_tsc_hz",
    "rte_strerror",
    "rte_version",
    "rte_openlog_stream",
    "rte_log_cur_msg_loglevel",
    "fopencookie",
    "setvbuf",
    "fflush",
    // devices and ports
    "rte_dev_probe",
    "rte_eal_hotplug_remove",
    "rte_dev_name",
    "rte_eth_find_next",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_get_name_by_port",
    "rte_eth_dev_info_get",
    "rte_eth_dev_configure",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_rx_queue_setup",
    "rte_eth_tx_queue_setup",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_close",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_set_mtu",
    "rte_eth_macaddr_get",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_promiscuous_enable",
    "rte_eth_promiscuous_disable",
    "rte_eth_link_get_nowait",
    "rte_eth_stats_get",
    // memory
    "rte_pktmbuf_pool_create",
    "rte_pktmbuf_free_bulk",
    "rte_mempool_free",
    "rte_mempool_avail_count",
    "rte_malloc_socket",
    // tables and rings that measurements compare ours with
    "rte_hash_create",
    "rte_hash_free",
    "rte_hash_reset",
    "rte_hash_count",
    "rte_hash_add_key_data",
    "rte_hash_del_key",
    "rte_hash_lookup_bulk_data",
    "rte_ring_create",
    "rte_ring_free",
    // observation
    "rte_telemetry_register_cmd",
    "rte_tel_data_start_dict",
    "rte_tel_data_add_dict_string",
    "rte_tel_data_add_dict_u64",
    "rte_tel_data_add_dict_int",
    "rte_pdump_init",
    "rte_pdump_uninit",
];

fn main() -> ExitCode {
    for file in ["build.rs", "libdpdk.rs", "wrapper.h", "shim.h", "shim.c"] {
        println!("cargo:rerun-if-changed={file}");
    }
    // Emits -L and -l for every rte library; the linker's --as-needed keeps the few that are used. The drivers are
    // loaded by EAL from Debian's plug-in directory (docs/adr/0002).
    let library = match libdpdk::find(true) {
        Ok(library) => library,
        Err(message) => {
            println!("cargo::error={message}");
            return ExitCode::SUCCESS;
        }
    };

    let mut flags: Vec<String> =
        library.include_paths.iter().map(|path| format!("-I{}", path.display())).collect();
    flags.extend(header_flags());
    flags.push("-D_GNU_SOURCE".to_owned()); // fopencookie

    let bindings = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(&flags)
        .use_core()
        .rust_edition(bindgen::RustEdition::Edition2024)
        .wrap_unsafe_ops(true)
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .layout_tests(true)
        .generate_comments(false)
        .derive_default(true)
        .allowlist_function(FUNCTIONS.join("|"))
        .allowlist_var("shim_.*|RTE_ETH_NAME_MAX_LEN|RTE_MAX_ETHPORTS|RTE_MAX_LCORE|RTE_PKTMBUF_HEADROOM")
        .allowlist_var("SOCKET_ID_ANY|RTE_TEL_MAX_DICT_ENTRIES|RTE_TEL_MAX_STRING_LEN|RTE_ETH_LINK_UP|_IOLBF")
        .allowlist_type("rte_mbuf|rte_lcore_state_t")
        // Packed and aligned at once, which Rust cannot say; only pointers to them are needed.
        .opaque_type("rte_arp_hdr|rte_arp_ipv4|rte_gtp_psc_generic_hdr|rte_l2tpv2_combined_msg_hdr")
        .generate();
    let bindings = match bindings {
        Ok(bindings) => bindings,
        Err(error) => {
            eprintln!("bindgen could not read DPDK's headers: {error}");
            eprintln!("It needs libclang. On Debian 12: apt-get install clang libclang-dev");
            return ExitCode::FAILURE;
        }
    };
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else {
        eprintln!("OUT_DIR is not set; build with cargo.");
        return ExitCode::FAILURE;
    };
    if let Err(error) = bindings.write_to_file(out.join("bindings.rs")) {
        eprintln!("cannot write the bindings: {error}");
        return ExitCode::FAILURE;
    }

    let mut shim = cc::Build::new();
    shim.file("shim.c").includes(&library.include_paths).opt_level(3).flag("-Wno-deprecated-declarations");
    for flag in header_flags() {
        shim.flag(flag);
    }
    if let Err(error) = shim.try_compile("guideway_dpdk_shim") {
        eprintln!("cannot compile shim.c: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Flags that libdpdk.pc asks for and the pkg-config crate does not hand on: the headers rely on both.
fn header_flags() -> Vec<String> {
    let output = std::process::Command::new(env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into()))
        .args(["--cflags-only-other", "libdpdk"])
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

//! One test for every kind of mistake: the report must name the place and the remedy.

use super::{BARE, BASE, edited, refused};

fn report(base: &str, edits: &[(&str, &str)]) -> String {
    let report = refused(&edited(base, edits));
    assert!(report.diagnostics().iter().all(|d| !d.help.is_empty()));
    report.to_plain()
}

macro_rules! mistakes {
    ($($name:ident: $base:ident $($from:literal => $to:expr),+;)*) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), report($base, &[$(($from, $to)),+]));
        }
    )*};
}

mistakes! {
    syntax_unquoted: BASE r#"name = "web""# => "name = web";
    syntax_duplicate_key: BASE "port = 80" => "port = 80\nport = 81";
    syntax_unclosed_header: BASE "[workers]" => "[workers";
    unknown_key_misspelt: BASE r#"address = "10.0.2.11""# => r#"adress = "10.0.2.11""#;
    unknown_key_elsewhere: BASE "[workers]" => "[workers]\nmtu = 1500";
    unknown_key_in_backend: BASE r#"address = "10.0.2.21""# => "address = \"10.0.2.21\"\nwieght = 2";
    unknown_key_in_health: BASE r#"kind = "http""# => "kind = \"http\"\ntimeout = 5";
    unknown_table: BASE "[dpdk]" => "[cluster]\nx = 1\n[dpdk]";
    table_for_list: BASE "[[port]]" => "[port]";
    list_for_table: BASE "[workers]" => "[[workers]]";
    value_for_table: BASE "[machine]" => "timeouts = 3\n[machine]", "[timeouts]\n" => "";
    value_for_list: BASE r#"eal_args = ["--no-pci"]"# => r#"eal_args = "--no-pci""#;
    machine_missing: BASE "[machine]\nname = \"lb1\"\naddress = \"10.0.2.11\"\naddress6 = \"fd00:2::11\"\ncluster_key = \"5f0c3a9be1d24776a8b9c0d1e2f30415\"\n" => "", r#"mode = "ipip""# => r#"mode = "l2""#;
    machine_name_missing: BASE "name = \"lb1\"\n" => "";
    machine_name_charset: BASE r#""lb1""# => r#""lb 1/a""#;
    machine_name_empty: BASE r#""lb1""# => r#""""#;
    machine_address_bad: BASE "\"10.0.2.11\"\naddress6" => "\"10.0.2\"\naddress6";
    machine_address_family: BASE "address = \"10.0.2.11\"\naddress6 = \"fd00:2::11\"" => r#"address = "fd00:2::11""#;
    machine_address6_family: BASE r#""fd00:2::11""# => r#""10.0.2.12""#;
    machine_address_loopback: BASE "\"10.0.2.11\"\naddress6" => "\"127.0.0.1\"\naddress6", "exception_addresses = [\"10.0.2.11/24\"]\nexception_gateway = \"10.0.2.1\"\n" => "";
    next_hop_mac_bad: BASE "address6" => "next_hop_mac = \"02-00-00-00-00-01\"\naddress6";
    next_hop_mac_multicast: BASE "address6" => "next_hop_mac = \"01:00:5e:00:00:01\"\naddress6";
    cluster_key_short: BASE "5f0c3a9b" => "5f0c";
    cluster_key_type: BASE r#"cluster_key = "5f0c3a9be1d24776a8b9c0d1e2f30415""# => "cluster_key = 5";
    state_dir_relative: BASE r#"cluster_key = "5f0c3a9be1d24776a8b9c0d1e2f30415""# => "cluster_key = \"5f0c3a9be1d24776a8b9c0d1e2f30415\"\nstate_dir = \"var/guideway\"";
    socket_path_long: BASE "[api]" => &format!("[api]\nsocket = \"/{}\"", "x".repeat(107));
    socket_relative: BASE "[api]" => "[api]\nsocket = \"lb.sock\"";
    api_listen_without_token: BASE "[api]" => "[api]\nlisten = \"127.0.0.1:8080\"";
    api_listen_without_tls: BASE "[api]" => "[api]\nlisten = \"10.0.2.11:8080\"\ntoken_file = \"/etc/token\"";
    api_listen_bad: BASE "[api]" => "[api]\nlisten = \"localhost:8080\"\ntoken_file = \"/etc/token\"";
    api_listen_port_0: BASE "[api]" => "[api]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"/etc/token\"";
    api_tls_without_key: BASE "[api]" => "[api]\nlisten = \"127.0.0.1:8080\"\ntoken_file = \"/t\"\ntls = { cert = \"/c\" }";
    api_and_metrics_same: BASE "[api]" => "[api]\nlisten = \"127.0.0.1:8080\"\ntoken_file = \"/t\"", "[metrics]" => "[metrics]\nlisten = \"127.0.0.1:8080\"";
    timeout_zero: BASE "[timeouts]" => "[timeouts]\nudp_s = 0";
    timeout_fraction: BASE "[timeouts]" => "[timeouts]\ntcp_established_s = 1.5";
    fragment_long: BASE "[timeouts]" => "[timeouts]\nfragment_ms = 60001";
    eal_lcores: BASE r#""--no-pci""# => r#""--lcores", "0@0""#;
    eal_l: BASE r#""--no-pci""# => r#""-l0-3""#;
    eal_file_prefix: BASE r#""--no-pci""# => r#""--file-prefix=x""#;
    eal_vdev_of_port: BASE r#""--no-pci""# => r#""--vdev=net_af_xdp0,iface=p1""#;
    eal_double_dash: BASE r#""--no-pci""# => r#""--""#;
    eal_not_a_string: BASE r#""--no-pci""# => "4";
    cpus_empty: BASE "cpus = [1]" => "cpus = []";
    cpus_twice: BASE "cpus = [1]" => "cpus = [1, 2, 1]";
    cpus_range: BASE "cpus = [1]" => "cpus = [1, 1024]";
    cpus_many: BASE "cpus = [1]" => &format!("cpus = {:?}", (0..65).collect::<Vec<_>>());
    idle_unknown: BASE "cpus = [1]" => "cpus = [1]\nidle = \"adaptve\"";
    flows_small: BASE "cpus = [1]" => "cpus = [1]\nflows = 1000";
    flows_large: BASE "cpus = [1]" => "cpus = [1]\nwide_flows = 67108865";
    port_missing: BARE "[[port]]\nname = \"data0\"\ndevice = \"net_null0\"\n" => "";
    port_name_missing: BASE "name = \"data0\"\n" => "";
    port_name_twice: BASE "[[service]]" => "[[port]]\nname = \"data0\"\ndevice = \"net_null0\"\n[[service]]";
    port_device_twice: BASE "[[service]]" => "[[port]]\nname = \"data1\"\ndevice = \"net_af_xdp0,iface=p1\"\n[[service]]";
    port_device_missing: BASE "device = \"net_af_xdp0,iface=p0\"\n" => "";
    port_device_unknown: BASE r#""net_af_xdp0,iface=p0""# => r#""eth0""#;
    port_device_empty: BASE r#""net_af_xdp0,iface=p0""# => r#""""#;
    port_mtu_range: BASE "mtu = 1500" => "mtu = 9001";
    port_mtu_ipv6: BASE "mtu = 1500" => "mtu = 1000", r#""10.0.2.22""# => r#""fd00:2::22""#;
    port_mac_zero: BASE "mtu = 1500" => r#"mac = "00:00:00:00:00:00""#;
    ports_many: BASE "[[service]]" => &((0..16).map(|i| format!("[[port]]\nname = \"p{i}\"\ndevice = \"net_null{i}\"\n")).collect::<String>() + "[[service]]");
    exception_long: BASE r#"exception = "gw0""# => r#"exception = "gateway-of-data0""#;
    exception_charset: BASE r#"exception = "gw0""# => r#"exception = "gw/0""#;
    exception_lo: BASE r#"exception = "gw0""# => r#"exception = "lo""#;
    exception_twice: BASE "[[service]]" => "[[port]]\nname = \"data1\"\ndevice = \"net_null0\"\nexception = \"gw0\"\n[[service]]";
    exception_addresses_alone: BASE "exception = \"gw0\"\n" => "", r#"kind = "http""# => r#"kind = "none""#, "[machine]" => "[machine]\nnext_hop_mac = \"02:00:00:00:00:01\"";
    exception_address_without_length: BASE r#""10.0.2.11/24""# => r#""10.0.2.11""#, "exception_gateway = \"10.0.2.1\"\n" => "";
    exception_address_length: BASE r#""10.0.2.11/24""# => r#""10.0.2.11/33""#, "exception_gateway = \"10.0.2.1\"\n" => "";
    exception_gateway_outside: BASE r#""10.0.2.1""# => r#""10.0.3.1""#;
    exception_gateway_self: BASE r#""10.0.2.1""# => r#""10.0.2.11""#;
    exception_gateway_family: BASE r#""10.0.2.1""# => r#""fd00:2::1""#;
    exception_gateway_twice: BASE "[[service]]" => "[[port]]\nname = \"data1\"\ndevice = \"net_null0\"\nexception = \"gw1\"\nexception_addresses = [\"10.0.4.1/24\"]\nexception_gateway = \"10.0.4.2\"\n[[service]]";
    service_name_missing: BASE "name = \"web\"\n" => "";
    service_name_twice: BASE "[[service]]" => "[[service]]\nname = \"web\"\nvip = \"203.0.113.11\"\nport = 80\n[[service.backend]]\nname = \"b1\"\naddress = \"10.0.2.21\"\n[[service]]";
    service_same_vip: BASE "[[service]]" => "[[service]]\nname = \"www\"\nvip = \"203.0.113.10\"\nport = 80\n[[service.backend]]\nname = \"b1\"\naddress = \"10.0.2.21\"\n[[service]]";
    vip_missing: BASE "vip = \"203.0.113.10\"\n" => "";
    vip_bad: BASE r#""203.0.113.10""# => r#""203.0.113.256""#;
    vip_host_bits: BASE r#""203.0.113.10""# => r#""203.0.113.10/24""#;
    vip_prefix_length: BASE r#""203.0.113.10""# => r#""203.0.113.0/40""#;
    vip_ipv6_short_prefix: BASE r#""203.0.113.10""# => r#""2001:db8::/64""#;
    vip_multicast: BASE r#""203.0.113.10""# => r#""224.0.0.5""#;
    vip_unspecified: BASE r#""203.0.113.10""# => r#""0.0.0.0/0""#;
    vip_loopback: BASE r#""203.0.113.10""# => r#""::1""#;
    vip_mapped: BASE r#""203.0.113.10""# => r#""::ffff:203.0.113.10""#;
    vip_is_machine: BASE r#""203.0.113.10""# => r#""10.0.2.11""#;
    vip_contains_machine: BASE r#""203.0.113.10""# => r#""10.0.0.0/8""#;
    service_port_missing: BASE "port = 80\n" => "";
    service_port_range: BASE "port = 80" => "port = 65536";
    service_port_quoted: BASE "port = 80" => r#"port = "80""#;
    protocol_unknown: BASE r#""tcp""# => r#""tpc""#;
    protocol_sctp: BASE r#""tcp""# => r#""sctp""#;
    mode_unknown: BASE r#""ipip""# => r#""dnat""#;
    gue_port_in_ipip: BASE r#"mode = "ipip""# => "mode = \"ipip\"\ngue_port = 6080";
    vni_in_gue: BASE r#"mode = "ipip""# => "mode = \"gue\"\nvni = 5";
    vni_range: BASE r#"mode = "ipip""# => "mode = \"vxlan\"\nvni = 16777216", r#"address = "10.0.2.21""# => "address = \"10.0.2.21\"\nmac = \"02:00:00:00:00:21\"", r#"address = "10.0.2.22""# => "address = \"10.0.2.22\"\nmac = \"02:00:00:00:00:22\"";
    maglev_not_prime: BASE r#"mode = "ipip""# => "mode = \"ipip\"\nmaglev_size = 65536";
    maglev_small: BASE r#"mode = "ipip""# => "mode = \"ipip\"\nmaglev_size = 127";
    maglev_below_backends: BARE "port = 80\n" => "port = 80\nmaglev_size = 251\n", "[[service.backend]]\nname = \"b1\"\naddress = \"10.0.2.21\"\n" => &(0..251).map(|i| format!("[[service.backend]]\nname = \"b{i}\"\naddress = \"10.0.4.{i}\"\n")).collect::<String>();
    hash_unknown: BASE r#"mode = "ipip""# => "mode = \"ipip\"\nhash = \"destination\"";
    on_down_reset: BASE r#"mode = "ipip""# => "mode = \"ipip\"\non_down = \"reset\"";
    on_down_unknown: BASE r#"mode = "ipip""# => "mode = \"ipip\"\non_down = \"kep\"";
    service_state_unknown: BASE r#"mode = "ipip""# => "mode = \"ipip\"\nstate = \"exception\"";
    on_empty_unknown: BASE r#"mode = "ipip""# => "mode = \"ipip\"\non_empty = \"reject\"";
    panic_percent_range: BASE r#"mode = "ipip""# => "mode = \"ipip\"\npanic_percent = 101";
    drain_timeout_negative: BASE r#"mode = "ipip""# => "mode = \"ipip\"\ndrain_timeout_ms = -1";
    announce_prefix: BASE r#""203.0.113.10""# => "\"203.0.113.0/24\"\nannounce = \"kernel\"";
    announce_without_exception: BARE "port = 80" => "port = 80\nannounce = \"kernel\"";
    service_mtu_above_port: BASE r#"mode = "ipip""# => "mode = \"ipip\"\nmtu = 1501";
    service_mtu_ipv6: BASE r#""203.0.113.10""# => "\"2001:db8::10\"\nmtu = 1290";
    port_mtu_ipv6_vip: BASE "mtu = 1500" => "mtu = 1300", r#""203.0.113.10""# => r#""2001:db8::10""#, r#""10.0.2.21""# => r#""fd00:2::21""#;
    health_kind_unknown: BASE r#"kind = "http""# => r#"kind = "ping""#;
    health_path_with_tcp: BASE r#"kind = "http""# => "kind = \"tcp\"\npath = \"/\"";
    health_send_with_http: BASE r#"kind = "http""# => "kind = \"http\"\nsend = \"x\"";
    health_sni_with_http: BASE r#"kind = "http""# => "kind = \"http\"\nsni = \"x\"";
    health_path_relative: BASE r#"kind = "http""# => "kind = \"http\"\npath = \"healthz\"";
    health_timeout_above_interval: BASE r#"kind = "http""# => "kind = \"http\"\ninterval_ms = 200\ntimeout_ms = 300";
    health_interval_range: BASE r#"kind = "http""# => "kind = \"http\"\ninterval_ms = 5";
    health_fall_range: BASE r#"kind = "http""# => "kind = \"http\"\nfall = 0";
    health_status_range: BASE r#"kind = "http""# => "kind = \"http\"\nexpect_status = 600";
    health_status_backwards: BASE r#"kind = "http""# => "kind = \"http\"\nexpect_status = [\"299-200\"]";
    health_status_empty: BASE r#"kind = "http""# => "kind = \"http\"\nexpect_status = []";
    health_expect_empty: BASE r#"kind = "http""# => "kind = \"http\"\nexpect = \"\"";
    health_host_space: BASE r#"kind = "http""# => "kind = \"http\"\nhost = \"a b\"";
    health_port_missing: BASE "port = 80" => "port = 0";
    health_without_via: BARE "[[service.backend]]" => "[service.health]\nkind = \"tcp\"\n[[service.backend]]";
    health_via_long: BASE r#"kind = "http""# => "kind = \"http\"\nvia = \"interface-number-1\"";
    health_tunnel_without_exception: BARE "[[service.backend]]" => "[service.health]\nkind = \"tcp\"\nvia = \"eth1\"\nroute = \"tunnel\"\n[[service.backend]]";
    health_tunnel_via: BASE r#"kind = "http""# => "kind = \"http\"\nvia = \"eth1\"\nroute = \"tunnel\"";
    health_tunnel_prefix: BASE r#""203.0.113.10""# => r#""203.0.113.0/24""#, r#"kind = "http""# => "kind = \"http\"\nroute = \"tunnel\"";
    backend_name_missing: BASE "name = \"b1\"\n" => "";
    backend_name_twice: BASE r#""b2""# => r#""b1""#;
    backend_address_missing: BASE "address = \"10.0.2.21\"\n" => "";
    backend_address_bad: BASE r#""10.0.2.21""# => r#""backend.example.com""#;
    backend_address_twice: BASE r#""10.0.2.22""# => r#""10.0.2.21""#;
    backend_address_multicast: BASE r#""10.0.2.21""# => r#""ff02::1""#;
    backend_address_vip: BASE r#""10.0.2.21""# => r#""203.0.113.10""#;
    backend_address_machine: BASE r#""10.0.2.21""# => r#""10.0.2.11""#;
    backend_weight_range: BASE r#"address = "10.0.2.21""# => "address = \"10.0.2.21\"\nweight = 65536";
    backend_weight_fraction: BASE r#"address = "10.0.2.21""# => "address = \"10.0.2.21\"\nweight = 0.5";
    backend_state_unknown: BASE r#"address = "10.0.2.21""# => "address = \"10.0.2.21\"\nstate = \"draining\"";
    backend_mac_bad: BASE r#"address = "10.0.2.21""# => "address = \"10.0.2.21\"\nmac = \"02:00:00:00:00\"";
    backend_without_next_hop: BARE "next_hop_mac = \"02:00:00:00:00:01\"\n" => "";
    backend_l2_family: BASE r#"mode = "ipip""# => r#"mode = "l2""#, r#""10.0.2.22""# => r#""fd00:2::22""#;
    source_missing: BASE "address = \"10.0.2.11\"\naddress6" => "address6";
    source6_missing: BASE "address6 = \"fd00:2::11\"\n" => "", r#""10.0.2.22""# => r#""fd00:2::22""#;
}

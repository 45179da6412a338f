#!/usr/bin/env bash
# Installs the Debian packages Guideway needs. Does nothing, and asks the network nothing, when all are there.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: packages.sh [--runtime | --build | --development] [--dry-run]

  --runtime      what guidewayd needs to run: DPDK's libraries, drivers and tools
  --build        that, and what building needs: headers, clang, a recent cargo (the default)
  --development  that, and what the tests and the demo need: nginx, wrk, tcpdump, tshark, nftables, promtool, scapy ...
  --dry-run      print what would be installed and exit 0
  -h, --help     this text

Debian 12 (bookworm). Safe to run again.
USAGE
}

level=build
dry_run=no
while [ $# -gt 0 ]; do
    case "$1" in
        --runtime) level=runtime ;;
        --build) level=build ;;
        --development) level=development ;;
        --dry-run) dry_run=yes ;;
        -h | --help) usage; exit 0 ;;
        *) echo "packages.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
    shift
done

command -v apt-get >/dev/null || {
    echo "packages.sh: there is no apt-get here; install DPDK 22.11 and the packages named in this file by hand" >&2
    exit 1
}

# Debian's dpdk recommends its drivers and depends on no library of its own: the two meta packages bring the network and
# mempool drivers, librte-pdump23 what guidewayd links; dpdk-devbind.py and dpdk-pmdinfo.py import elftools.
runtime=(dpdk librte-meta-net librte-meta-mempool librte-pdump23 python3-pyelftools iproute2 kmod pciutils)
# etcd's protocol is compiled from .proto files, which include those of libprotobuf-dev.
build=(build-essential pkg-config protobuf-compiler libprotobuf-dev libdpdk-dev clang llvm libclang-dev ca-certificates)
development=(etcd-server etcd-client libfaketime libbpf-dev bpftool dpdk-dev iputils-ping python3 nginx-light iperf3 wrk tcpdump tshark ethtool nftables curl jq prometheus python3-scapy strace valgrind procps psmisc shellcheck mount util-linux)

wanted=("${runtime[@]}")
[ "$level" = runtime ] || wanted+=("${build[@]}")
[ "$level" = development ] && wanted+=("${development[@]}")

installed() { [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=()
for package in "${wanted[@]}"; do
    installed "$package" || missing+=("$package")
done

# A cargo that is at least this recent, from wherever; else Debian's newest, which the security archive carries.
minimum=1.95
recent_cargo() {
    local version
    version=$(cargo --version 2>/dev/null | awk '{print $2}') || return 1
    [ -n "$version" ] && [ "$(printf '%s\n%s\n' "$minimum" "$version" | sort -V | head -n 1)" = "$minimum" ]
}
if [ "$level" != runtime ]; then
    compiler=()
    recent_cargo || compiler=(rustc-web cargo-web)
    if [ "$level" = development ]; then
        # A cargo from elsewhere brings its own.
        if [ ${#compiler[@]} -gt 0 ] || installed cargo-web; then
            compiler+=(rustfmt-web rust-web-clippy)
        fi
    fi
    for package in "${compiler[@]}"; do
        installed "$package" || missing+=("$package")
    done
fi

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
echo "packages.sh: missing: ${missing[*]}"
[ "$dry_run" = yes ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "packages.sh: needs root to install them: sudo $0 --$level" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
own_policy=no
# Packages like nginx and prometheus start a service on installation; only their programs are wanted here.
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    own_policy=yes
fi
cleanup() { if [ "$own_policy" = yes ]; then rm -f "$policy"; fi; }
trap cleanup EXIT

apt-get update -qq
if ! apt-get install -y -qq --no-install-recommends "${missing[@]}" >/tmp/guideway-apt.$$ 2>&1; then
    tail -n 30 "/tmp/guideway-apt.$$" >&2
    rm -f "/tmp/guideway-apt.$$"
    echo "packages.sh: apt-get install failed; its last lines are above" >&2
    exit 1
fi
rm -f "/tmp/guideway-apt.$$"
hash -r
if [ "$level" != runtime ] && ! recent_cargo; then
    echo "packages.sh: cargo is older than $minimum ($(cargo --version 2>&1)); enable bookworm-security, or install Rust from rustup.rs" >&2
    exit 1
fi
echo "packages.sh: installed ${#missing[@]} packages"

#!/usr/bin/env bash
# What a newcomer's machine says: a bare Debian 12 in a chroot, with a clean clone in it. Your own machine hides what an
# install step forgets.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bare_machine.sh run COMMAND...   run a command in a clean clone of this repository, on a bare machine
       bare_machine.sh packages         what packages.sh --runtime brings is enough for every program of the release build,
                                        and a build without DPDK says what is missing

Needs root. The machine has Debian's required packages, apt, git and certificates: no cargo, no compiler, no headers.
It uses this machine's package sources. BARE_DIR (below /tmp or /var/tmp) says where it is made; it is removed at the end.
USAGE
}

top=$(dirname "$(dirname "$(readlink -f "$0")")")
root=${BARE_DIR:-/var/tmp/guideway-bare-$$}
fail() { echo "bare_machine.sh: $*" >&2; exit "${code:-1}"; }
case "${1:-}" in
    run) shift; [ $# -gt 0 ] || { usage >&2; exit 2; }; action=run ;;
    packages) action=packages ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
[ "$(id -u)" -eq 0 ] || fail "needs root"
case "$root" in /tmp/?* | /var/tmp/?*) ;; *) code=2 fail "BARE_DIR must be below /tmp or /var/tmp" ;; esac

unmount() {
    # The last mounted first; lazily, because /dev and /sys are the machine's own.
    awk -v root="$root/" 'index($2, root) == 1 {print $2}' /proc/mounts | sort -r | while read -r below; do
        umount -l "$below" 2>/dev/null || true
    done
}
clean() {
    unmount
    # Never across a mount: what could not be unmounted is the machine's own.
    rm -rf --one-file-system "$root"
}
trap clean EXIT
trap 'exit 130' INT TERM HUP

command -v mmdebstrap >/dev/null || {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null
}
clean
sources=()
for file in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list; do [ -s "$file" ] && sources+=("$file"); done
mmdebstrap --quiet --variant=minbase --include=ca-certificates,git --aptopt='Apt::Install-Recommends "false"' \
    bookworm "$root" "${sources[@]}"
cp -a /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
cp -a /etc/apt/auth.conf.d/. "$root/etc/apt/auth.conf.d/" 2>/dev/null || true
# What reports to a desktop or a container's builder is not in the root.
rm -f "$root"/etc/apt/apt.conf.d/*packagekit "$root"/etc/apt/apt.conf.d/docker-*
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
cp -L /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
cp -L /etc/hosts "$root/etc/hosts" 2>/dev/null || true
mount -t proc proc "$root/proc"
for directory in sys dev; do
    mount --rbind "/$directory" "$root/$directory"
    mount --make-rslave "$root/$directory"
done
mount -t tmpfs tmpfs "$root/run"
git clone -q --no-local "$top" "$root/root/guideway"

inside() {
    env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb CI="${CI:-}" \
        chroot "$root" /bin/bash -c 'cd /root/guideway && exec "$@"' bash "$@" </dev/null
}

if [ "$action" = run ]; then
    start=$SECONDS
    status=0
    inside "$@" || status=$?
    echo "bare_machine.sh: '$*': exit status $status after $((SECONDS - start)) s"
    exit "$status"
fi

programs=(guidewayd guideway guideway-agent guideway-bench)
for program in "${programs[@]}"; do
    file=${CARGO_TARGET_DIR:-$top/target}/release/$program
    [ -x "$file" ] || fail "there is no $file: run cargo build --release first"
    install -D -m 0755 "$file" "$root/usr/bin/$program"
done
inside ./dpdk-setup/packages.sh --runtime
lacking=0
for program in "${programs[@]}"; do
    libraries=$(inside ldd "/usr/bin/$program")
    echo "$program: $(wc -l <<<"$libraries") libraries, $(grep -c 'not found' <<<"$libraries" || true) not found"
    ! grep 'not found' <<<"$libraries" || lacking=1
    inside "/usr/bin/$program" --version >/dev/null || fail "$program does not start"
done
[ "$lacking" -eq 0 ] || fail "packages.sh --runtime forgets libraries"
# EAL loads its drivers by itself: it must find the ones that a card and a lab need, and DPDK's own scripts must run.
for driver in net_af_packet net_af_xdp net_ixgbe net_ice net_mlx5 net_virtio net_tap mempool_ring; do
    inside sh -c "ls /usr/lib/*/dpdk/pmds-*/librte_$driver.so.*" >/dev/null || fail "no driver $driver"
done
inside dpdk-devbind.py --status >/dev/null || fail "dpdk-devbind.py does not run"

# Everything that a build needs but DPDK's headers.
inside sh -c 'DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends cargo-web rustc-web \
    build-essential pkg-config protobuf-compiler libprotobuf-dev clang llvm libclang-dev >/dev/null'
said=$(inside cargo build 2>&1) && fail "it builds without libdpdk-dev"
[ "$(grep -c libdpdk <<<"$said")" -eq 1 ] || fail "one message was expected, not: $said"
grep libdpdk <<<"$said"
for name in libdpdk-dev dpdk-setup/packages.sh; do
    grep libdpdk <<<"$said" | grep -q "$name" || fail "the message does not name $name"
done
echo "bare_machine.sh: programs start with packages.sh --runtime alone; a build without DPDK names what is missing"

#!/usr/bin/env bash
# Puts what `cargo build --release` made where the systemd unit expects it.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

usage() {
    cat <<'USAGE'
usage: install.sh [--destdir DIR]            install the programs, unit, sample configuration, man pages and completions
       install.sh --undo                     remove them; /etc/guideway and /var/lib/guideway stay
       install.sh --agent [--destdir DIR]    on a host of backends: install the agent alone, its unit and sample file
       install.sh --agent --undo             remove it; /etc/guideway-agent and /var/lib/guideway-agent stay

Build first: cargo build --release && cargo xtask dist
An existing /etc/guideway/guideway.toml is never overwritten; a new one gets a cluster_key of its own (on
further machines of a cluster write that of the first). Creates the group guideway, whose members may use the
API's socket; with --agent, the user guideway-agent, whose group may use the agent's socket. Does not enable or start
the service. Safe to run again.
USAGE
}

fail() { echo "install.sh: $*" >&2; exit "${code:-1}"; }
destdir=
undo=no
agent=no
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --undo) undo=yes ;;
        --agent) agent=yes ;;
        --destdir)
            [ $# -ge 2 ] || code=2 fail "--destdir needs a directory"
            destdir=$2
            shift
            ;;
        *) code=2 fail "unknown argument '$1' (see --help)" ;;
    esac
    shift
done
[ -n "$destdir" ] || [ "$(id -u)" -eq 0 ] || fail "needs root (or --destdir)"

target=${CARGO_TARGET_DIR:-target}/release
unit=$destdir/lib/systemd/system/guideway.service
reload() { if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi; }

if [ "$agent" = yes ]; then
    unit=$destdir/lib/systemd/system/guideway-agent.service
    if [ "$undo" = yes ]; then
        if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then systemctl disable --now guideway-agent.service 2>/dev/null || true; fi
        rm -f "$destdir/usr/bin/guideway-agent" "$unit"
        reload
        echo "install.sh: removed; kept $destdir/etc/guideway-agent and $destdir/var/lib/guideway-agent"
        exit 0
    fi
    [ -x "$target/guideway-agent" ] || fail "there is no $target/guideway-agent: run cargo build --release -p guideway-agent first"
    install -D -m 0755 "$target/guideway-agent" "$destdir/usr/bin/guideway-agent"
    install -D -m 0644 dpdk-setup/guideway-agent.service "$unit"
    install -d -m 0750 "$destdir/etc/guideway-agent" "$destdir/var/lib/guideway-agent"
    [ -e "$destdir/etc/guideway-agent/agent.toml" ] || install -m 0640 configs/agent.toml "$destdir/etc/guideway-agent/agent.toml"
    if [ -z "$destdir" ]; then
        getent passwd guideway-agent >/dev/null || useradd --system --no-create-home --shell /usr/sbin/nologin guideway-agent
        chown guideway-agent:guideway-agent /var/lib/guideway-agent
        chgrp -R guideway-agent /etc/guideway-agent
        reload
    fi
    echo "install.sh: installed. Next: edit $destdir/etc/guideway-agent/agent.toml, guideway-agent check-config, systemctl enable --now guideway-agent"
    exit 0
fi

if [ "$undo" = yes ]; then
    if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then systemctl disable --now guideway.service 2>/dev/null || true; fi
    rm -f "$destdir"/usr/bin/guidewayd "$destdir"/usr/bin/guideway "$destdir"/usr/bin/guideway-bench "$unit" \
        "$destdir"/usr/share/man/man1/guideway*.1 \
        "$destdir"/usr/share/bash-completion/completions/guideway "$destdir"/usr/share/zsh/vendor-completions/_guideway \
        "$destdir"/usr/share/fish/vendor_completions.d/guideway.fish
    reload
    echo "install.sh: removed; kept $destdir/etc/guideway and $destdir/var/lib/guideway"
    exit 0
fi

for program in guidewayd guideway guideway-bench; do
    [ -x "$target/$program" ] || fail "there is no $target/$program: run cargo build --release first"
    install -D -m 0755 "$target/$program" "$destdir/usr/bin/$program"
done
install -D -m 0644 dpdk-setup/guideway.service "$unit"
if [ ! -e "$destdir/etc/guideway/guideway.toml" ]; then
    # The sample's key is published, so every machine gets one of its own. It stands in the file and nowhere else.
    key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    [ "${#key}" -eq 32 ] || fail "cannot make a key of 32 hexadecimal digits from /dev/urandom"
    install -d -m 0755 "$destdir/etc/guideway"
    (umask 0027 && sed "s/^cluster_key = .*/cluster_key = \"$key\" # made at installation; a cluster's machines have the same/" \
        configs/guideway.toml >"$destdir/etc/guideway/guideway.toml.new")
    chmod 0640 "$destdir/etc/guideway/guideway.toml.new"
    mv "$destdir/etc/guideway/guideway.toml.new" "$destdir/etc/guideway/guideway.toml"
fi
install -d -m 0750 "$destdir/var/lib/guideway"
dist=${CARGO_TARGET_DIR:-target}/dist
for page in "$dist"/*.1; do [ -e "$page" ] && install -D -m 0644 "$page" "$destdir/usr/share/man/man1/$(basename "$page")"; done

if [ -e "$dist/guideway.bash" ]; then
    install -D -m 0644 "$dist/guideway.bash" "$destdir/usr/share/bash-completion/completions/guideway"
    install -D -m 0644 "$dist/_guideway" "$destdir/usr/share/zsh/vendor-completions/_guideway"
    install -D -m 0644 "$dist/guideway.fish" "$destdir/usr/share/fish/vendor_completions.d/guideway.fish"
fi
if [ -z "$destdir" ]; then
    getent group guideway >/dev/null || groupadd --system guideway
    reload
fi
echo "install.sh: installed. Next: edit $destdir/etc/guideway/guideway.toml, guideway check, guideway doctor, systemctl enable --now guideway"

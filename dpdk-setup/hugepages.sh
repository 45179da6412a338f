#!/usr/bin/env bash
# Reserves 2 MiB huge pages now and for the next boot, the way Debian's dpdk.service reads it.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: hugepages.sh PAGES [NODE]   reserve PAGES huge pages of 2 MiB (on NUMA node NODE), now and at boot
       hugepages.sh --show         print what is reserved and free, per node
       hugepages.sh --undo         free them again and take our lines out of the boot configuration
       hugepages.sh --no-boot ...  with PAGES: change only the running system

The boot configuration is /etc/dpdk/dpdk.conf (NR_2M_PAGES), which the Debian package dpdk applies at start.
How many: guidewayd prints at start what its tables and buffers take; 512 (1 GiB) are enough to begin with.
Safe to run again: the second run changes nothing.
USAGE
}

root=${GUIDEWAY_ROOT:-}                      # tests point this at a scratch directory
boot_file=$root/etc/dpdk/dpdk.conf
begin='# begin guideway (hugepages.sh)'
end='# end guideway'
fail() { echo "hugepages.sh: $*" >&2; exit "${code:-1}"; }

pages_file() {                               # the kernel's knob for a node, or the global one
    if [ -n "${1:-}" ]; then
        echo "$root/sys/devices/system/node/node$1/hugepages/hugepages-2048kB/nr_hugepages"
    else
        echo "$root/proc/sys/vm/nr_hugepages"
    fi
}

show() {
    local d
    for d in "$root"/sys/devices/system/node/node*/hugepages/hugepages-2048kB; do
        [ -d "$d" ] || continue
        echo "$(echo "$d" | grep -o 'node[0-9]*' | tail -n 1): $(cat "$d/nr_hugepages") reserved, $(cat "$d/free_hugepages") free (2 MiB each)"
    done
    echo "vm.nr_hugepages = $(cat "$root/proc/sys/vm/nr_hugepages")"
}

without_ours() { if [ -f "$boot_file" ]; then sed "/^$begin\$/,/^$end\$/d" "$boot_file"; fi; }

undo() {
    if [ -f "$boot_file" ] && grep -qxF "$begin" "$boot_file"; then
        local rest
        rest=$(without_ours)
        printf '%s\n' "$rest" >"$boot_file.new"
        mv "$boot_file.new" "$boot_file"
    fi
    echo 0 >"$(pages_file)" || fail "cannot free the huge pages"
    show
}

boot=yes
pages=''
node=''
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --show) show; exit 0 ;;
        --undo) [ "$(id -u)" -eq 0 ] || fail "needs root"; undo; exit 0 ;;
        --no-boot) boot=no ;;
        -*) code=2 fail "unknown option '$1' (see --help)" ;;
        *)
            case "$1" in *[!0-9]*) code=2 fail "'$1' is not a number (see --help)" ;; esac
            if [ -z "$pages" ]; then pages=$1
            elif [ -z "$node" ]; then node=$1
            else code=2 fail "too many arguments (see --help)"; fi
            ;;
    esac
    shift
done
[ -n "$pages" ] || { usage >&2; exit 2; }
if [ "$pages" -lt 1 ] || [ "$pages" -gt 1048576 ]; then
    code=2 fail "PAGES must be between 1 and 1048576; --undo frees them"
fi
[ "$(id -u)" -eq 0 ] || fail "needs root"
knob=$(pages_file "$node")
[ -e "$knob" ] || fail "there is no $knob: ${node:+no NUMA node $node, or }no 2 MiB huge pages in this kernel"

if [ "$(cat "$knob")" != "$pages" ]; then
    echo "$pages" >"$knob" || fail "the kernel refused $pages pages"
fi
got=$(cat "$knob")
if [ "$got" -lt "$pages" ]; then
    fail "the kernel gave $got of $pages pages: memory is short or fragmented; try again after a reboot, or with fewer"
fi

if [ "$boot" = yes ]; then
    # dpdk-init takes one number for the whole machine, or one word for each node, in order.
    value=$pages
    if [ -n "$node" ]; then
        words=()
        n=0
        while [ -e "$(pages_file "$n")" ]; do
            words+=("$(cat "$(pages_file "$n")")")
            n=$((n + 1))
        done
        value=${words[*]}
    fi
    block=$(printf '%s\nNR_2M_PAGES="%s"\n%s' "$begin" "$value" "$end")
    rest=$(without_ours)
    if printf '%s\n' "$rest" | grep -q '^NR_2M_PAGES='; then
        fail "$boot_file already sets NR_2M_PAGES outside our block; change it there, or remove the line and run this again"
    fi
    mkdir -p "$(dirname "$boot_file")"
    printf '%s\n' ${rest:+"$rest"} "$block" >"$boot_file.new"
    if [ -f "$boot_file" ] && cmp -s "$boot_file" "$boot_file.new"; then rm "$boot_file.new"; else mv "$boot_file.new" "$boot_file"; fi
fi
show

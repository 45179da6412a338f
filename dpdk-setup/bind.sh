#!/usr/bin/env bash
# Gives a network card to DPDK, now and for the next boot, with DPDK's own dpdk-devbind.py.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bind.sh PCI [DRIVER]   bind the device at PCI (0000:04:00.0) to DRIVER (vfio-pci), now and at boot
       bind.sh --undo PCI     give it back to its kernel driver and take it out of the boot configuration (also of a
                              card that is no longer there)
       bind.sh --status       what dpdk-devbind.py --status prints
       bind.sh --force ...    bind even though the device has an address or a route (you may lose your connection)

The boot configuration is /etc/dpdk/interfaces, which the Debian package dpdk applies at start.
vfio-pci needs the IOMMU: intel_iommu=on (or amd_iommu=on) and iommu=pt on the kernel's command line. A machine that
has none takes DRIVER uio_pci_generic, which does not keep the card from any memory.

Mellanox and NVIDIA cards (mlx4, mlx5) are never bound: their driver is bifurcated, the kernel's mlx5_core stays and
DPDK works beside it. Use the PCI address as the port's device and leave the card alone; this script refuses to bind them.
The same holds for AF_XDP and AF_PACKET ports, which use a kernel interface by name.
Safe to run again: the second run changes nothing.
USAGE
}

root=${GUIDEWAY_ROOT:-}                      # tests point this at a scratch directory
boot_file=$root/etc/dpdk/interfaces
devbind=${DPDK_DEVBIND:-dpdk-devbind.py}
fail() { echo "bind.sh: $*" >&2; exit "${code:-1}"; }

action=bind
force=no
arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --status) exec "$devbind" --status ;;
        --undo) action=undo ;;
        --force) force=yes ;;
        -*) code=2 fail "unknown option '$1' (see --help)" ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
if [ ${#arguments[@]} -lt 1 ] || [ ${#arguments[@]} -gt 2 ]; then
    usage >&2
    exit 2
fi
pci=${arguments[0]}
driver=${arguments[1]:-vfio-pci}
[[ $pci =~ ^[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$ ]] && pci=0000:$pci
[[ $pci =~ ^[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$ ]] ||
    code=2 fail "'$pci' is not a PCI address like 0000:04:00.0 (see: bind.sh --status)"
pci=${pci,,}
[[ $driver =~ ^[a-z0-9_-]+$ ]] || code=2 fail "'$driver' is not a driver name"
device=$root/sys/bus/pci/devices/$pci
[ "$(id -u)" -eq 0 ] || fail "needs root"

forget() {
    [ -f "$boot_file" ] || return 0
    awk -v id="$pci" '!($1 == "pci" && tolower($2) == id)' "$boot_file" >"$boot_file.new"
    if cmp -s "$boot_file" "$boot_file.new"; then rm "$boot_file.new"; else mv "$boot_file.new" "$boot_file"; fi
}

if [ "$action" = undo ] && [ ! -e "$device" ]; then
    # The card was taken out: what would bind it at the next boot goes all the same.
    forget
    echo "$pci: no such device; taken out of $boot_file"
    exit 0
fi
[ -e "$device" ] || fail "there is no device $pci (see: bind.sh --status)"
command -v "$devbind" >/dev/null || fail "there is no $devbind: run packages.sh --runtime"

current=
[ -L "$device/driver" ] && current=$(basename "$(readlink "$device/driver")")

if [ "$action" = undo ]; then
    forget
    case "$current" in
        vfio-pci | uio_pci_generic | igb_uio)
            "$devbind" --unbind "$pci"
            echo "$pci" >"$root/sys/bus/pci/drivers_probe" || fail "no kernel driver took $pci"
            ;;
    esac
    echo "$pci: $( [ -L "$device/driver" ] && basename "$(readlink "$device/driver")" || echo 'no driver')"
    exit 0
fi

case "$current" in
    mlx4_core | mlx5_core)
        fail "$pci has the bifurcated driver $current: nothing to bind, use '$pci' as the port's device as it is"
        ;;
esac
if [ "$force" = no ]; then
    for interface in "$device"/net/*; do
        [ -e "$interface" ] || continue
        name=$(basename "$interface")
        if ip -brief address show dev "$name" 2>/dev/null | awk '{for (i = 3; i <= NF; i++) if ($i !~ /^fe80:/) found = 1} END {exit !found}'; then
            fail "$name ($pci) has an address: binding would cut it off. Move the address, or use --force"
        fi
    done
fi
if [ "$driver" = vfio-pci ] && [ -z "$(ls -A "$root/sys/kernel/iommu_groups" 2>/dev/null)" ]; then
    fail "the IOMMU is off, vfio-pci needs it: add intel_iommu=on iommu=pt (or amd_iommu=on) to the kernel's command line and reboot; on a machine without one: bind.sh $pci uio_pci_generic"
fi
if [ "$current" != "$driver" ]; then
    modprobe "$driver" || fail "cannot load the kernel module $driver (is the package kmod installed?)"
    options=("--bind=$driver")
    [ "$force" = no ] || options+=(--force)
    "$devbind" "${options[@]}" "$pci"
fi
line="pci $pci $driver"
if ! grep -qxF "$line" "$boot_file" 2>/dev/null; then
    mkdir -p "$(dirname "$boot_file")"
    forget
    echo "$line" >>"$boot_file"
fi
echo "$pci: $driver"

#!/usr/bin/env bash
# Tests of dpdk-setup/*.sh on a scratch root: no card, no DPDK and nothing of the machine is touched. Needs root, as they do.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export GUIDEWAY_ROOT=$scratch
passed=0
fail() { echo "scripts.sh: $*" >&2; exit 1; }
is() { [ "$1" = "$2" ] || fail "$3: '$1', not '$2'"; passed=$((passed + 1)); }
boot_file=$scratch/etc/dpdk/interfaces
pci=0000:3b:00.0

# A card that a driver of the kernel has, and a dpdk-devbind.py that moves it.
mkdir -p "$scratch/sys/bus/pci/devices/$pci" "$scratch/sys/bus/pci/drivers" "$scratch/sys/kernel/iommu_groups/1" "$scratch/bin"
touch "$scratch/sys/bus/pci/drivers_probe"
drive() { ln -sfn "../../drivers/$1" "$scratch/sys/bus/pci/devices/$pci/driver"; }
drive e1000
cat >"$scratch/bin/devbind" <<DEVBIND
#!/bin/sh
case "\$1" in
    --bind=*) ln -sfn "../../drivers/\${1#--bind=}" "$scratch/sys/bus/pci/devices/\$2/driver" ;;
    --unbind) rm -f "$scratch/sys/bus/pci/devices/\$2/driver" ;;
esac
DEVBIND
printf '#!/bin/sh\nexit 0\n' >"$scratch/bin/modprobe"
chmod +x "$scratch/bin/devbind" "$scratch/bin/modprobe"
export DPDK_DEVBIND=$scratch/bin/devbind PATH="$scratch/bin:$PATH"

is "$(dpdk-setup/bind.sh $pci)" "$pci: vfio-pci" "bound"
is "$(cat "$boot_file")" "pci $pci vfio-pci" "boot line"
dpdk-setup/bind.sh $pci >/dev/null
is "$(wc -l <"$boot_file")" 1 "a second run adds no line"
is "$(dpdk-setup/bind.sh --undo $pci)" "$pci: no driver" "given back"
is "$(cat "$boot_file")" "" "the boot line went"

# The card is taken out: what would bind it at the next boot goes all the same, other lines stay.
printf 'pci 0000:01:00.0 vfio-pci\npci %s vfio-pci\n' "$pci" >"$boot_file"
rm -r "$scratch/sys/bus/pci/devices/$pci"
dpdk-setup/bind.sh --undo $pci >/dev/null || fail "--undo of a card that is gone"
is "$(cat "$boot_file")" "pci 0000:01:00.0 vfio-pci" "only its own line went"
dpdk-setup/bind.sh $pci >/dev/null 2>"$scratch/said" && fail "a card that is gone was bound"
grep -q "there is no device" "$scratch/said" || fail "$(cat "$scratch/said")"

# Without an IOMMU vfio-pci is refused, with what works there.
mkdir -p "$scratch/sys/bus/pci/devices/$pci"
drive e1000
rmdir "$scratch/sys/kernel/iommu_groups/1"
dpdk-setup/bind.sh $pci >/dev/null 2>"$scratch/said" && fail "bound to vfio-pci without an IOMMU"
grep -q "bind.sh $pci uio_pci_generic" "$scratch/said" || fail "$(cat "$scratch/said")"
is "$(dpdk-setup/bind.sh $pci uio_pci_generic)" "$pci: uio_pci_generic" "bound without an IOMMU"

# A new configuration has a key of its own, which is nobody else's to read; one that is there stays.
key_of() { sed -n 's/^cluster_key = "\([0-9a-f]*\)".*/\1/p' "$1/etc/guideway/guideway.toml"; }
mkdir -p "$scratch/target/release"
for program in guidewayd guideway guideway-bench; do
    printf '#!/bin/sh\n' >"$scratch/target/release/$program"
    chmod +x "$scratch/target/release/$program"
done
for root in one two; do CARGO_TARGET_DIR=$scratch/target dpdk-setup/install.sh --destdir "$scratch/$root" >/dev/null; done
one=$(key_of "$scratch/one")
is "${#one}" 32 "a key of 32 digits"
[ "$one" != "$(key_of "$scratch/two")" ] || fail "two installations have the same key"
[ "$one" != "$(sed -n 's/^cluster_key = "\([0-9a-f]*\)".*/\1/p' configs/guideway.toml)" ] || fail "the published key was installed"
is "$(stat -c %a "$scratch/one/etc/guideway/guideway.toml")" 640 "mode of the configuration"
is "$(diff configs/guideway.toml "$scratch/one/etc/guideway/guideway.toml" | grep -c '^>')" 1 "only the key differs"
CARGO_TARGET_DIR=$scratch/target dpdk-setup/install.sh --destdir "$scratch/one" >/dev/null
is "$(key_of "$scratch/one")" "$one" "a configuration that is there stays"

echo "$passed passed, 0 failed"

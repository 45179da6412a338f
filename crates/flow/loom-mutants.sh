#!/bin/sh
# Takes the orderings of the lock-free code away, one at a time, in a copy of the sources, and expects loom to object.
# Usage: crates/flow/loom-mutants.sh [NUMBER]  (from anywhere; all of them some minutes)
# With a number, every tenth: ten numbers in a row have all. Exit 0 when every mutant was caught. LOOM.md explains the mutants.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 1' INT TERM
# Beside what `cargo xtask ci` builds for loom: other people's crates are the same.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}/loom"
export RUSTFLAGS="--cfg loom"

(cd "$root" && tar cf - --exclude=./target --exclude=./.git .) | (cd "$copy" && tar xf -)
survivors=0
number=${1:-}
count=0

# mutant NAME PACKAGE FILE SED-EXPRESSION
mutant() {
    count=$((count + 1))
    if [ -n "$number" ] && [ $((count % 10)) -ne $((number % 10)) ]; then
        return
    fi
    file="$copy/crates/$3"
    cp "$file" "$copy/original"
    sed -i "$4" "$file"
    if cmp -s "$file" "$copy/original"; then
        echo "BROKEN   $1: the expression matches nothing in $3"
        survivors=$((survivors + 1))
        return
    fi
    if (cd "$copy" && timeout 900 cargo test -q -p "$2" --profile loom --lib loom) >"$copy/log" 2>&1; then
        echo "SURVIVED $1"
        survivors=$((survivors + 1))
    elif grep -q 'test result: FAILED' "$copy/log"; then
        echo "caught   $1: $(sed -n 's/^    \(.*loom_[a-z0-9_]*\)$/\1/p' "$copy/log" | sed 's/.*:://' | sort -u | tr '\n' ' ')"
    else
        echo "BROKEN   $1: did not build or did not end"
        tail -n 20 "$copy/log"
        survivors=$((survivors + 1))
    fi
    cp "$copy/original" "$file"
    touch "$file"
}

bucket=flow/src/bucket.rs
mutant 'W-odd removed' flow $bucket '\|// W-odd$|d'
mutant 'W-fence removed' flow $bucket '\|// W-fence$|d'
mutant 'W-even relaxed' flow $bucket '\|// W-even$|s/Release/Relaxed/'
mutant 'W-overflow relaxed' flow $bucket '\|// W-overflow$|s/Release/Relaxed/'
mutant 'R-begin relaxed' flow $bucket '\|// R-begin$|s/Acquire/Relaxed/'
mutant 'R-odd check removed' flow $bucket 's|return None; // R-odd|();|'
mutant 'R-fence removed' flow $bucket '\|// R-fence$|d'
mutant 'R-end check removed' flow $bucket '\|// R-end$|s/(self.*== meta)/true/'
mutant 'R-again check removed' flow flow/src/cells.rs '/in_second.is_some() ||/s/(in_second.*)/true/'
model=statesync/src/spsc/model.rs
mutant 'writer-sees-head relaxed' statesync $model '\|// writer-sees-head$|s/Acquire/Relaxed/'
mutant 'writer-publishes-tail relaxed' statesync $model '\|// writer-publishes-tail$|s/Release/Relaxed/'
mutant 'reader-sees-tail relaxed' statesync $model '\|// reader-sees-tail$|s/Acquire/Relaxed/'
mutant 'reader-publishes-head relaxed' statesync $model '\|// reader-publishes-head$|s/Release/Relaxed/'
# Under the mailbox: of the head's two orderings it has no need, see LOOM.md.
mutant 'writer-publishes-tail relaxed, mailbox' worker $model '\|// writer-publishes-tail$|s/Release/Relaxed/'
mutant 'reader-sees-tail relaxed, mailbox' worker $model '\|// reader-sees-tail$|s/Acquire/Relaxed/'
mutant 'overtaken value dropped instead of sent home' worker worker/src/view/mailbox.rs \
    's/let Err(overtaken) = self.home.push(overtaken)/let Err(overtaken) = Err::<(), _>(overtaken)/'

echo "$survivors not caught"
[ "$survivors" -eq 0 ]

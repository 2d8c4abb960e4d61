#!/bin/sh
# Two processes take turns under one lock, on the embedded store: nothing is installed, no server
# runs. Called by `make demo`; TENURE names the command.
set -eu
# What the commands say belongs between what this script says.
exec 2>&1

tenure=${TENURE:-target/debug/tenure}
command -v "$tenure" >/dev/null || {
    echo "demo: $tenure is missing; build it with: cargo build -p tenure-cli" >&2
    exit 1
}
case $tenure in
    */*) tenure=$(cd "$(dirname "$tenure")" && pwd)/$(basename "$tenure") ;;
esac

place=$(mktemp -d "${TMPDIR:-/tmp}/tenure-demo.XXXXXX")
running=
cleanup() {
    for pid in $running; do
        kill "$pid" 2>/dev/null || true
    done
    rm -rf "$place"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$place"

# What a test of the configuration may have left in the environment must not matter here.
for name in $(env | sed -n 's/^\(TENURE__[A-Za-z0-9_]*\)=.*/\1/p'); do
    unset "$name"
done
export TENURE__BACKEND__URL="file:$place/locks"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
# Runs a command, shown as a person would type it, and shows its exit code.
try() {
    printf '$ tenure'
    for word in "$@"; do
        case $word in
            *' '*) printf " '%s'" "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    code=0
    "$tenure" "$@" || code=$?
    printf '  exit code %s\n' "$code"
}
# Waits until the lock has a holder with that label.
held_by() {
    tries=0
    until "$tenure" --output json status demo | grep -q "\"label\":\"$1\""; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || { echo "demo: $1 never got the lock"; exit 1; }
        sleep 0.05
    done
}

say '1. Two processes take turns: each works three times, under the lock "demo".'
cat >work.sh <<'WORK'
mkdir alone || { echo '    two at once'; exit 1; }
sleep 0.3
rmdir alone
echo "    $1 worked alone, token $TENURE_TOKEN"
WORK
worker() {
    for _ in 1 2 3; do
        "$tenure" run --label "$1" demo -- sh work.sh "$1" || return
    done
}
worker anna &
first=$!
running=$first
worker otto &
second=$!
running="$running $second"
wait "$first"
wait "$second"
running=
echo '  Each waited for the other, and the tokens rise: a resource that remembers the highest one'
echo '  can refuse a writer that comes too late.'

say '2. While the lock is held, others can wait, give up, or look.'
"$tenure" run --label 'nightly backup' demo -- sleep 3 &
holder=$!
running=$holder
held_by 'nightly backup'
try status demo
try run --no-wait demo -- echo 'never printed'
try run --wait 500ms demo -- echo 'never printed'

say '3. The holder is killed with SIGKILL. Its command dies with it, and the lock is free again'
echo '   once the TTL of its lease has passed (2 seconds here).'
kill "$holder"
wait "$holder" 2>/dev/null || true
"$tenure" run --ttl 2s --kill-after 200ms demo -- sleep 60 &
holder=$!
running=$holder
held_by sleep
kill -KILL "$holder"
wait "$holder" 2>/dev/null || true
running=
try run --ttl 2s --kill-after 200ms demo -- echo 'it is my turn now'

say '4. The exit code is that of the command, and tells what went wrong otherwise.'
try run demo -- sh -c 'exit 3'
try run demo -- no-such-command

say 'What to try next'
cat <<'NEXT'
  target/debug/tenure run my-lock -- sleep 20    in one terminal, and the same in another
  target/debug/tenure status my-lock             who holds it, who waits
  target/debug/tenure watch my-lock              each change as it happens
  target/debug/tenure run --help                 every option, with examples
  docs/cli.md                                    exit codes, JSON, what a guardian can and cannot do
NEXT

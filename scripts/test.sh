#!/bin/sh
# Every test, in two lanes at once: one mostly waits (routers, relays, whole systems), the other
# mostly works. Each prints as one piece; both must pass.
set -eu

cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
waiting="tests/nat tests/system"
working="tests/contract tests/fuzz tests/property tests/simulation tests/unit"

said=$(mktemp)
trap 'rm -f "$said"; [ -z "${lane:-}" ] || kill "$lane" 2>/dev/null || true' EXIT
# shellcheck disable=SC2086 # lists of folders
"$python" -m pytest $working -p no:cacheprovider >"$said" 2>&1 &
lane=$!

status=0
# shellcheck disable=SC2086
"$python" -m pytest $waiting || status=$?
echo "-- the other lane: $working"
wait "$lane" || status=$?
lane=
cat "$said"
exit "$status"

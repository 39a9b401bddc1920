#!/usr/bin/env bash
# The demo: three cities on this machine, a node and a visitor in each, one
# deploy; who waits how long, what a sleeping machine costs, and a city that falls.
# scripts/demo.sh DIR; KEEP=1 leaves the cloud running.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(cd "${1:-bin}" && pwd)
perigee=$bin/perigee

if [ "$(id -u)" != 0 ]; then
  exec sudo --preserve-env=KEEP "$0" "$bin"
fi

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

work=$(mktemp -d)
lab=$work/lab
cities="iad fra syd"
export PERIGEE_LOGIN=$work/login.json PERIGEE_ADDR=unix://$lab/nodes/iad-1/sock

finish() {
  status=$?
  if [ "${KEEP:-}" = 1 ] && [ $status = 0 ]; then
    echo
    echo "The cloud runs. To talk to it: export PERIGEE_LOGIN=$PERIGEE_LOGIN PERIGEE_ADDR=$PERIGEE_ADDR"
    echo "To look at its cities:         $perigee lab status --dir $lab"
    echo "To visit from Sydney:          $perigee lab exec --dir $lab syd -- curl -H 'Host: hello.perigee.localhost' http://${at[syd-1]}/"
    echo "To end it:                     $perigee lab down --dir $lab && rm -r $work"
    return
  fi
  [ $status = 0 ] || tail -n 20 "$lab"/nodes/*/log >&2 || true
  "$perigee" lab down --dir "$lab" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

say '$ perigee lab up --cities iad,fra,syd --nodes 1'
"$perigee" lab up --dir "$lab" --cities iad,fra,syd --nodes 1 -- --pause-after 1h

say '$ perigee nodes'
"$perigee" nodes

cp -r examples/hello "$work/hello"
cp "$(command -v busybox)" "$work/hello/busybox"
cd "$work/hello"
sed -i '1i regions = ["iad", "fra", "syd"]' perigee.toml

say '$ perigee deploy          # regions = ["iad", "fra", "syd"]'
"$perigee" deploy

# address NODE prints where the node's edge is reached.
address() {
  "$perigee" lab exec --dir "$lab" "$1" -- ip -4 -o addr show scope global | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -1
}

# ask VISITOR NODE prints the seconds to the first byte of one answer, on a new
# connection.
ask() {
  "$perigee" lab exec --dir "$lab" "$1" -- curl -sS --fail --max-time 20 -o /dev/null -w '%{time_starttransfer}\n' -H 'Host: hello.perigee.localhost' "http://${at[$2]}/"
}

# first_byte VISITOR NODE is the median of five, after one that does not count.
first_byte() {
  ask "$1" "$2" >/dev/null
  for _ in 1 2 3 4 5; do ask "$1" "$2"; done | sort -n | sed -n 3p
}

declare -A at
for city in $cities; do at[$city-1]=$(address "$city-1"); done

say 'Time to the first byte of the answer, connection included, for a visitor in each city:'
printf '  %-8s %22s %26s\n' visitor 'at the city'\''s own edge' 'all served from Ashburn'
for city in $cities; do
  near=$(first_byte "visitor-$city" "$city-1")
  far=$(first_byte "visitor-$city" iad-1)
  awk -v c="$city" -v n="$near" -v f="$far" 'BEGIN { printf "  %-8s %19.1f ms %23.1f ms", c, n * 1000, f * 1000; if (c != "iad") printf "   %.0f %% sooner", 100 * (1 - n / f); print "" }'
done

say 'And asleep: the request is held while the machine of the city wakes.'
id=$("$perigee" machine list --json | tr -d '\n ' | grep -o '{"id":"[^"]*"[^{]*' | grep '"region":"iad"' | sed 's/{"id":"\([^"]*\)".*/\1/' | head -1)
asleep() { # verb, words
  "$perigee" machine "$1" "$id" >/dev/null
  sleep 1
  awk -v n="$2" -v s="$(ask visitor-iad iad-1)" 'BEGIN { printf "  %-28s %7.1f ms\n", n, s * 1000 }'
}
asleep pause 'paused, its memory kept'
asleep suspend 'suspended to disk'

say '$ perigee lab cut fra          # Frankfurt falls off the world'
"$perigee" lab cut --dir "$lab" fra >/dev/null
for city in $cities; do
  well=0
  for _ in $(seq 10); do ask "visitor-$city" "$city-1" >/dev/null 2>&1 && well=$((well + 1)); done
  echo "  $city: $well of 10 requests answered"
done
"$perigee" lab heal --dir "$lab" >/dev/null

say '$ perigee status'
"$perigee" status

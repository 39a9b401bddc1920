#!/usr/bin/env bash
# The demo: a one-node cloud, the example app built from its Dockerfile, and
# how it answers when it is warm, paused, suspended and stopped.
# scripts/demo.sh DIR; KEEP=1 leaves the cloud running.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(cd "${1:-bin}" && pwd)
perigee=$bin/perigee

if [ "$(id -u)" != 0 ]; then
  exec sudo --preserve-env=KEEP "$0" "$bin"
fi

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

free_port() { # the first free port from $1 on
  local p=$1
  while (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; do p=$((p + 1)); done
  echo "$p"
}

work=$(mktemp -d)
http=127.0.0.1:$(free_port 8080)
https=127.0.0.1:$(free_port 8443)
api=127.0.0.1:$(free_port 4280)
export PERIGEE_LOGIN=$work/login.json PERIGEE_ADDR=unix://$work/api.sock

finish() {
  status=$?
  if [ "${KEEP:-}" = 1 ] && [ $status = 0 ]; then
    echo
    echo "The cloud runs on: http://hello.perigee.localhost:${http##*:}/"
    echo "To talk to it: export PERIGEE_LOGIN=$PERIGEE_LOGIN PERIGEE_ADDR=$PERIGEE_ADDR"
    echo "To end it:     $perigee down --machines --data $work/data && rm -r $work"
    return
  fi
  [ $status = 0 ] || tail -n 30 "$work/data/perigeed.log" >&2 || true
  "$perigee" down --machines --data "$work/data" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

say '$ perigee up'
"$perigee" up --data "$work/data" --socket "$work/api.sock" --listen "$api" --http "$http" --https "$https" \
  -- --network-prefix pgdemo --ipv6 fdad::/16 --pause-after 2s

cp -r examples/hello "$work/hello"
cp "$(command -v busybox)" "$work/hello/busybox"
cd "$work/hello"

say '$ perigee deploy'
"$perigee" deploy

get() { # prints the seconds to the first byte of the answer
  curl -sS --fail --max-time 20 -o "$work/answer" -w '%{time_starttransfer}' -H 'Host: hello.perigee.localhost' "http://$http/"
}
state() { "$perigee" machine list --json | sed -n 's/^ *"state": "\(.*\)",$/\1/p' | head -1; }
until_state() { for _ in $(seq 200); do [ "$(state)" = "$1" ] && return; sleep 0.1; done; echo "the machine is $(state), not $1" >&2; exit 1; }

say "\$ curl http://hello.perigee.localhost:${http##*:}/"
get >/dev/null
sed -n 's/<h1>\(.*\)<\/h1>/\1/p' "$work/answer"
warm=$(get)

say 'Nobody asks for two seconds: the machine is paused, its memory kept.'
until_state paused
paused=$(get)

say '$ perigee machine suspend: its memory goes to disk, no process is left.'
id=$("$perigee" machine list --json | sed -n 's/^    "id": "\(.*\)",$/\1/p' | head -1)
"$perigee" machine suspend "$id"
suspended=$(get)

say '$ perigee machine stop: only its image is left.'
"$perigee" machine stop "$id"
stopped=$(get)

say 'Time to the first byte of the answer, the request held while the machine wakes:'
row() { awk -v n="$1" -v s="$2" 'BEGIN { printf "  %-28s %7.1f ms\n", n, s * 1000 }'; }
row 'running' "$warm"
row 'paused' "$paused"
row 'suspended to disk' "$suspended"
row 'stopped (cold start)' "$stopped"

say '$ perigee status'
"$perigee" status

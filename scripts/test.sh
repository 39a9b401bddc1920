#!/usr/bin/env bash
# Runs the tests against the programs in DIR: scripts/test.sh DIR [cities|builds]
# Without the second word, all but those of test/cities, which take five minutes, and
# builds in gVisor, which take one.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(cd "${1:-bin}" && pwd)
export CGO_ENABLED=0 PERIGEE_BIN=$bin
export GOFLAGS=-trimpath # as in build.sh: with other flags everything would be compiled once more
[ "$(id -u)" = 0 ] || echo "not root: the tests that start machines skip themselves" >&2
if [ "${2:-}" = cities ]; then
  exec go test -count=1 -timeout 20m ./test/cities
fi
if [ "${2:-}" = builds ]; then
  # Every RUN step in gVisor, as a node runs them.
  ln -sf perigee-sandbox "$bin/perigee-oci"
  PERIGEE_TEST_RUNTIME=$bin/perigee-oci exec go test -count=1 -timeout 10m ./build
fi
go vet ./...
# Stock runsc, for the tests that look at machine networks without our supervisor.
go -C cmd/perigee-sandbox build -o "$bin/runsc" gvisor.dev/gvisor/runsc
export PERIGEE_TEST_RUNSC=$bin/runsc
# -p 1: the rooms' tests start real sandboxes, builders and servers; side by
# side on a small machine they would only measure each other.
go list ./... | grep -v '/test/cities$' | xargs go test -p 1 -timeout 20m
go -C cmd/perigee-sandbox vet ./...
go -C cmd/perigee-sandbox test -timeout 10m ./...

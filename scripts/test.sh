#!/usr/bin/env bash
# Runs every test against the programs in DIR: scripts/test.sh DIR
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(cd "${1:-bin}" && pwd)
export CGO_ENABLED=0 PERIGEE_BIN=$bin
export GOFLAGS=-trimpath # as in build.sh: with other flags everything would be compiled once more
[ "$(id -u)" = 0 ] || echo "not root: the tests that start machines skip themselves" >&2
go vet ./...
# Stock runsc, for the tests that look at machine networks without our supervisor.
go -C cmd/perigee-sandbox build -o "$bin/runsc" gvisor.dev/gvisor/runsc
export PERIGEE_TEST_RUNSC=$bin/runsc
# -p 1: the rooms' tests start real sandboxes, builders and servers; side by
# side on a small machine they would only measure each other.
go test -p 1 -timeout 20m ./...
# Builds once more with every RUN step in gVisor, as a node runs them.
ln -sf perigee-sandbox "$bin/perigee-oci"
PERIGEE_TEST_RUNTIME=$bin/perigee-oci go test -count=1 -timeout 10m ./build
go -C cmd/perigee-sandbox vet ./...
go -C cmd/perigee-sandbox test -timeout 10m ./...

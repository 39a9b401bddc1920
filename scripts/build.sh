#!/usr/bin/env bash
# Builds the three programs: scripts/build.sh DIR VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-bin} version=${2:-dev}
mkdir -p "$out"
out=$(cd "$out" && pwd)
export CGO_ENABLED=0
flags="-s -w -X github.com/perigee-run/perigee/internal/version.Version=$version"
go build -trimpath -ldflags "$flags" -o "$out/" ./cmd/perigee ./cmd/perigeed
# gVisor's restore check compares this version: without it a snapshot of one
# gVisor would be offered to another.
gvisor=$(go -C cmd/perigee-sandbox list -m -f '{{.Version}}' gvisor.dev/gvisor)
go -C cmd/perigee-sandbox build -trimpath -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=$gvisor" -o "$out/perigee-sandbox" .

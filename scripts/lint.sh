#!/usr/bin/env bash
# Formatting, vet and, where it is installed, golangci-lint with .golangci.yml.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$bad" ] || { echo "gofmt would change:"; echo "$bad"; exit 1; }
go vet ./...
go -C cmd/perigee-sandbox vet ./...
if command -v golangci-lint >/dev/null; then golangci-lint run; fi

#!/usr/bin/env bash
# Installs what this machine lacks: scripts/deps.sh run|test|bench
set -euo pipefail
want=${1:-run}
GO_VERSION=1.26.8

sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo

say() { printf '\033[2m· %s\033[0m\n' "$*" >&2; }

packages="ca-certificates curl git busybox-static iproute2 e2fsprogs"
case $want in
test)  packages="$packages erofs-utils mmdebstrap skopeo buildah runc nftables wireguard-tools chromium bird2 bind9-dnsutils knot-dnsutils openssh-client" ;;
bench) packages="$packages erofs-utils mmdebstrap skopeo runc docker.io nginx-light wrk"
       command -v npm >/dev/null || packages="$packages npm" ;; # it may have come with another Node.js
esac

missing=""
for p in $packages; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
if [ -n "$missing" ]; then
  command -v apt-get >/dev/null || {
    echo "cannot install:$missing: this machine has no apt-get; hint: install them with its own package manager" >&2
    exit 1
  }
  say "installing$missing"
  # A service that a package brings (nginx) must not start and take ports 80 and 443.
  policy=/usr/sbin/policy-rc.d
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null; $sudo chmod +x $policy; trap '$sudo rm -f $policy' EXIT; }
  $sudo apt-get update -qq
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

have=$(PATH="/usr/local/go/bin:$PATH" go env GOVERSION 2>/dev/null || true)
if [ -z "$have" ] || [ "$(printf '%s\n' "go$GO_VERSION" "$have" | sort -V | head -1)" != "go$GO_VERSION" ]; then
  arch=$(dpkg --print-architecture)
  say "installing Go $GO_VERSION into /usr/local/go"
  tmp=$(mktemp -d)
  curl -fsSL "https://go.dev/dl/go$GO_VERSION.linux-$arch.tar.gz" -o "$tmp/go.tgz"
  $sudo rm -rf /usr/local/go
  $sudo tar -C /usr/local -xzf "$tmp/go.tgz"
  rm -rf "$tmp"
fi

# An S3 server for the tests of snapshots: a program beside ours, not a part of them.
if [ "$want" = test ] && [ ! -x bin/versitygw ]; then
  say "building versitygw, an S3 server"
  PATH="/usr/local/go/bin:$PATH" GOBIN="$PWD/bin" CGO_ENABLED=0 go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
fi

#!/usr/bin/env bash
# helm, by which the tests render and lint the chart: built once into the cache from Go modules that tests/modules pins by checksum.
# Sourced (after common.sh and setup.sh) it gives `setup_helm`, and sets WHERRY_TEST_HELM, by which the tests find it.
# Run by itself it builds it and prints the path.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  . "$(dirname "$0")/common.sh"
  . "$top/scripts/lib/setup.sh"
  helm_alone=1
fi

# What is built follows from the pins: another pin, another folder.
helm_home=$cache/helm-$(sha256sum <"$top/tests/modules/helm/go.sum" | cut -c1-12)
export WHERRY_TEST_HELM=$helm_home/bin/helm

setup_helm() {
  [ ! -e "$helm_home/done" ] || return 0
  command -v go >/dev/null || die "go is missing: helm, which renders the chart in the tests, is built with it; install Go 1.26 or newer"
  mkdir -p "$cache"
  local log=$cache/helm.log fresh
  fresh=$(mktemp -d "$cache/helm.XXXXXX")
  say "building helm into $helm_home (once; some minutes)"
  # Into a folder of its own and then moved: a build that was interrupted leaves nothing that looks finished.
  strictly helm_build "$fresh" >"$log" 2>&1
  [ "$status" = 0 ] || { rm -rf "$fresh"; die "helm could not be built: see $log"; }
  mv -T "$fresh" "$helm_home" 2>/dev/null || rm -rf "$fresh" # another run was faster
}

helm_build() {
  local to=$1
  cd "$top/tests/modules/helm"
  CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "-s -w" -o "$to/bin/" helm.sh/helm/v3/cmd/helm
  touch "$to/done"
}

if [ -n "${helm_alone:-}" ]; then
  setup_helm >&2
  echo "$WHERRY_TEST_HELM"
fi

#!/usr/bin/env bash
# The tests' stand-ins for Azure Blob Storage (azurite, an npm package) and Google Cloud Storage (fake-gcs-server, a Go
# module), pinned with all they need by tests/modules, in the cache. Sourced (after common.sh and setup.sh) it gives
# `setup_clouds`, and sets WHERRY_TEST_AZURITE and WHERRY_TEST_FAKE_GCS, by which the tests find them.
# Run by itself it installs them and prints the paths.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  . "$(dirname "$0")/common.sh"
  . "$top/scripts/lib/setup.sh"
  clouds_alone=1
fi

# What is built follows from the pins: another pin, another folder.
clouds_home=$cache/clouds-$(cat "$top/tests/modules/azurite/package-lock.json" "$top/tests/modules/fake-gcs/go.sum" | sha256sum | cut -c1-12)
export WHERRY_TEST_AZURITE=$clouds_home/node_modules/.bin/azurite-blob
export WHERRY_TEST_FAKE_GCS=$clouds_home/bin/fake-gcs-server

setup_clouds() {
  [ ! -e "$clouds_home/done" ] || return 0
  command -v node >/dev/null && command -v npm >/dev/null || install_packages nodejs npm
  command -v go >/dev/null || die "go is missing: fake-gcs-server is built with it; install Go 1.26 or newer"
  mkdir -p "$cache"
  local log=$cache/clouds.log fresh
  fresh=$(mktemp -d "$cache/clouds.XXXXXX")
  say "installing azurite and fake-gcs-server into $clouds_home (once)"
  # Into a folder of its own and then moved: a setup that was interrupted leaves nothing that looks finished.
  strictly clouds_build "$fresh" >"$log" 2>&1
  [ "$status" = 0 ] || { rm -rf "$fresh"; die "azurite or fake-gcs-server could not be installed: see $log"; }
  mv -T "$fresh" "$clouds_home" 2>/dev/null || rm -rf "$fresh" # another run was faster
}

clouds_build() {
  local to=$1
  cp "$top"/tests/modules/azurite/package*.json "$to/"
  npm ci --prefix "$to" --omit=dev --omit=optional --no-audit --no-fund --ignore-scripts
  cd "$top/tests/modules/fake-gcs"
  CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "-s -w" -o "$to/bin/" github.com/fsouza/fake-gcs-server
  touch "$to/done"
}

if [ -n "${clouds_alone:-}" ]; then
  setup_clouds >&2
  printf '%s\n' "$WHERRY_TEST_AZURITE" "$WHERRY_TEST_FAKE_GCS"
fi

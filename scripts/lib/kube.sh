#!/usr/bin/env bash
# The API server of the tests: etcd and kube-apiserver, built once into the cache from Go modules that tests/modules pins
# by checksum, and the custom resources of Velero and of the snapshot controller beside them.
# Sourced (after common.sh and setup.sh) it gives `setup_kube`, and sets WHERRY_TEST_KUBE, by which the tests find them.
# Run by itself it builds them and prints the folder.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  . "$(dirname "$0")/common.sh"
  . "$top/scripts/lib/setup.sh"
  kube_alone=1
fi

kube_version=v1.34.4
# What is built follows from the pins and from this script: another version, another folder.
kube_home=$cache/kube-$(cat "$top/tests/modules/"{etcd,kube,crds}/go.sum "$top/scripts/lib/kube.sh" | sha256sum | cut -c1-12)
export WHERRY_TEST_KUBE=$kube_home

setup_kube() {
  [ ! -e "$kube_home/done" ] || return 0
  command -v go >/dev/null || die "go is missing: the Kubernetes API server of the tests is built with it; install Go 1.26 or newer"
  command -v openssl >/dev/null || install_packages openssl
  need_space "$cache" 6
  local log=$cache/kube.log fresh
  fresh=$(mktemp -d "$cache/kube.XXXXXX")
  say "building etcd and kube-apiserver $kube_version into $kube_home (once; some minutes)"
  # Into a folder of its own and then moved: a build that was interrupted leaves nothing that looks finished.
  strictly kube_build "$fresh" >"$log" 2>&1
  [ "$status" = 0 ] || { rm -rf "$fresh"; die "the Kubernetes API server could not be built: see $log"; }
  mv -T "$fresh" "$kube_home" 2>/dev/null || rm -rf "$fresh" # another run was faster
}

# kube_build DIR: bin/ and crds/ of it.
kube_build() {
  local to=$1 pkg=k8s.io/component-base/version modules=$top/tests/modules module dir
  export CGO_ENABLED=0 GOFLAGS=-mod=readonly
  mkdir -p "$to/bin" "$to/crds"
  cd "$modules/etcd"
  go build -trimpath -ldflags "-s -w" -o "$to/bin/etcd" .
  cd "$modules/kube"
  go build -trimpath -o "$to/bin/" \
    -ldflags "-s -w -X $pkg.gitVersion=$kube_version -X $pkg.gitMajor=1 -X $pkg.gitMinor=34 -X $pkg.gitTreeState=clean" \
    k8s.io/kubernetes/cmd/kube-apiserver
  cd "$modules/crds"
  for module in github.com/vmware-tanzu/velero github.com/kubernetes-csi/external-snapshotter/client/v8; do
    go mod download "$module"
    dir=$(go list -m -f '{{.Dir}}' "$module")
    find "$dir/config/crd" \( -name 'snapshot.storage.k8s.io_*.yaml' -o -name 'velero.io_*.yaml' \) -exec install -m 644 -t "$to/crds" {} +
  done
  "$to/bin/kube-apiserver" --version
  touch "$to/done"
}

if [ -n "${kube_alone:-}" ]; then
  setup_kube >&2
  echo "$WHERRY_TEST_KUBE"
fi

#!/usr/bin/env bash
# What the test cluster is built from, beside kube.sh's etcd and kube-apiserver: four groups, each built once into a folder
# of its own in the cache, named by what it is made of. Go modules are pinned by tests/modules and their sums checked.
#   node    kubelet, controller manager, scheduler, kubectl; containerd, runc, CNI plugins and busybox of Debian, unpacked
#           and not installed: nothing of the machine changes, and no service is started
#   csi     provisioner, snapshotter, snapshot controller, snapshot metadata, and the custom resource of the last
#   velero  Velero's server, which is its command line too, and its plugin for S3
#   s3      a second S3 server, versitygw, for figures: it computes a third of what SeaweedFS does for each byte
# Sourced (after common.sh, setup.sh and kube.sh) it gives `setup_cluster GROUP...`; run by itself it builds those named.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  . "$(dirname "$0")/common.sh"
  . "$top/scripts/lib/setup.sh"
  . "$top/scripts/lib/kube.sh"
  cluster_build_alone=1
fi

velero_version=v1.18.3
node_packages=(containerd runc containernetworking-plugins busybox-static)

# cluster_hash FILE...: of files of tests/modules, and of what else settles what is built.
cluster_hash() { { cat "${@/#/$top/tests/modules/}" && echo "$kube_version $velero_version ${node_packages[*]}"; } | sha256sum | cut -c1-12; }
cluster_node=$cache/cluster-node-$(cluster_hash kube/go.mod kube/go.sum)
cluster_csi=$cache/cluster-csi-$(cluster_hash csi/go.mod csi/go.sum)
cluster_s3=$cache/cluster-s3-$(cluster_hash versitygw/go.mod versitygw/go.sum)
cluster_velero=$cache/cluster-velero-$(cluster_hash velero/go.mod velero/go.sum velero-plugin-for-aws/go.mod velero-plugin-for-aws/go.sum)

setup_cluster() {
  local group home fresh
  command -v go >/dev/null || die "go is missing: Kubernetes is built with it; install Go 1.26 or newer"
  for group; do
    home=cluster_$group
    home=${!home}
    [ ! -e "$home/done" ] || continue
    need_space "$cache" 8
    fresh=$(mktemp -d "$cache/cluster-$group.XXXXXX")
    say "building the cluster's part \"$group\" into $home (once; some minutes)"
    # Into a folder of its own and then moved: a build that was interrupted leaves nothing that looks finished.
    strictly "build_$group" "$fresh" >"$cache/cluster-$group.log" 2>&1
    [ "$status" = 0 ] || { rm -rf "$fresh"; die "the cluster's part \"$group\" could not be built: see $cache/cluster-$group.log"; }
    touch "$fresh/done"
    chmod 755 "$fresh"
    mv -T "$fresh" "$home" 2>/dev/null || rm -rf "$fresh" # another run was faster
  done
}

# go_build TO MODULE FLAGS-OF-LINKER PACKAGE...: nice, for a machine that has something else to do as well.
go_build() {
  local to=$1 module=$2 flags=$3
  shift 3
  cd "$top/tests/modules/$module"
  CGO_ENABLED=0 GOFLAGS=-mod=readonly nice -n 19 go build -p 2 -trimpath -ldflags "-s -w $flags" -o "$to/bin/" "$@"
}

build_node() {
  local to=$1 pkg=k8s.io/component-base/version name
  mkdir -p "$to/bin" "$to/packages"
  apt-get update -qq || true # without it a machine whose lists are good enough goes on
  (cd "$to/packages" && apt-get download -q "${node_packages[@]}")
  for name in "$to"/packages/*.deb; do dpkg-deb -x "$name" "$to/debian"; done
  rm -r "$to/packages"
  "$to/debian/usr/bin/containerd" --version
  "$to/debian/usr/sbin/runc" --version
  # The version is what a client is told; without it the kubelet calls itself v0.0.0 and is refused by some.
  go_build "$to" kube "-X $pkg.gitVersion=$kube_version -X $pkg.gitMajor=1 -X $pkg.gitMinor=34 -X $pkg.gitTreeState=clean" \
    k8s.io/kubernetes/cmd/{kubelet,kube-controller-manager,kube-scheduler,kubectl}
}

build_csi() {
  local to=$1 kubernetes_csi=github.com/kubernetes-csi dir
  mkdir -p "$to/bin" "$to/crds"
  go_build "$to" csi "" $kubernetes_csi/external-provisioner/v5/cmd/csi-provisioner \
    $kubernetes_csi/external-snapshotter/v8/cmd/{csi-snapshotter,snapshot-controller} \
    $kubernetes_csi/external-snapshot-metadata/cmd/csi-snapshot-metadata
  dir=$(go list -m -f '{{.Dir}}' $kubernetes_csi/external-snapshot-metadata/client)
  install -m 644 -t "$to/crds" "$dir"/config/crd/cbt.storage.k8s.io_*.yaml
}

build_s3() { go_build "$1" versitygw "" github.com/versity/versitygw/cmd/versitygw; }

build_velero() {
  local to=$1 vmware=github.com/vmware-tanzu
  mkdir -p "$to/bin"
  go_build "$to" velero "-X $vmware/velero/pkg/buildinfo.Version=$velero_version" $vmware/velero/cmd/velero
  go_build "$to" velero-plugin-for-aws "" $vmware/velero-plugin-for-aws/velero-plugin-for-aws
}

if [ -n "${cluster_build_alone:-}" ]; then
  [ $# != 0 ] || set -- node csi velero
  setup_cluster "$@" >&2
fi

# `scripts/cluster up --kind` and `down --kind`: a cluster in Docker, for who has Docker, kind and kubectl. Never run: the
# machine that this was written on has none of them. Source common.sh and setup.sh first.

kind_disks=${WHERRY_CLUSTER_DIR:-/var/tmp/wherry-cluster}-kind
kind_size=1G

up_kind() {
  local command name device
  need_root # loop devices
  for command in docker kind kubectl losetup; do
    command -v "$command" >/dev/null || die "$command is missing: without it, scripts/cluster up makes a cluster of its own"
  done
  kind get clusters 2>/dev/null | grep -qx wherry || kind create cluster --config "$top/tests/e2e/kind.yaml" --wait 120s
  mkdir -p "$kind_disks"
  for name in disk-1 disk-2; do
    [ -e "$kind_disks/$name" ] || truncate -s $kind_size "$kind_disks/$name"
    device=$(losetup --noheadings --output NAME --associated "$kind_disks/$name")
    device=${device:-$(losetup --find --show "$kind_disks/$name")}
    kubectl --context kind-wherry apply --filename - <<E2
apiVersion: v1
kind: PersistentVolume
metadata: {name: $name}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  volumeMode: Block
  persistentVolumeReclaimPolicy: Retain
  storageClassName: loopback
  local: {path: $device}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [wherry-control-plane]}]}]}}
E2
  done
  kubectl --context kind-wherry apply --filename - <<E2
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: loopback}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
E2
}

down_kind() {
  local name device
  kind delete cluster --name wherry
  for name in "$kind_disks"/*; do
    device=$(losetup --noheadings --output NAME --associated "$name" 2>/dev/null) || true
    [ -z "$device" ] || losetup --detach "$device"
  done
  rm -rf "$kind_disks"
}

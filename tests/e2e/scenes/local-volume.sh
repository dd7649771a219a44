# local volumes, of which there are no snapshots: a device and a directory, uploaded while their workload runs, restored equal

local_dir=/var/lib/kubelet/e2e-local # of the space; what is left in it goes with the cluster
local_ours=$top/controller/deploy/local-volumes/rights.yaml

# gone: what a scene that failed has left goes, and what this one has made.
local_gone() {
  local name device
  kubectl --namespace velero delete datauploads,datadownloads --selector scene=local --wait --timeout=120s >/dev/null
  for name in local back; do kubectl delete namespace "$name" --ignore-not-found --wait --timeout=180s >/dev/null; done
  kubectl delete persistentvolume local-disk local-files --ignore-not-found --wait --timeout=60s >/dev/null
  kubectl delete --filename "$local_ours" --ignore-not-found >/dev/null
  ! inside mountpoint -q $local_dir/files || inside umount $local_dir/files
  for device in $(inside losetup --list --noheadings --output NAME,BACK-FILE | awk -v at="$local_dir/" 'index($2, at) == 1 {print $1}'); do
    inside losetup --detach "$device"
  done
  inside rm -rf $local_dir
}
# local_pv NAME MODE SIZE PATH: for the PVC of that name of the application.
local_pv() {
  kubectl apply --filename - >/dev/null <<E2
apiVersion: v1
kind: PersistentVolume
metadata: {name: local-$1}
spec:
  capacity: {storage: $3}
  accessModes: [ReadWriteOnce]
  volumeMode: $2
  storageClassName: e2e-local
  persistentVolumeReclaimPolicy: Delete
  local: {path: $4}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]}]}}
  claimRef: {namespace: local, name: $1}
E2
}
# local_upload PVC: makes the DataUpload $round-PVC.
local_upload() {
  kubectl create --filename - >/dev/null <<E2
apiVersion: velero.io/v2alpha1
kind: DataUpload
metadata: {name: $round-$1, namespace: velero, labels: {scene: local}}
spec: {datamover: wherry, snapshotType: Local, sourceNamespace: local, sourcePVC: $1, backupStorageLocation: default, operationTimeout: 10m0s}
E2
}
# local_download PVC: restores what DataUpload $round-PVC has saved.
local_download() {
  kubectl create --filename - >/dev/null <<E2
apiVersion: velero.io/v2alpha1
kind: DataDownload
metadata: {name: $round-$1, namespace: velero, labels: {scene: local}}
spec:
  datamover: wherry
  snapshotID: $(field "dataupload/$round-$1" .status.snapshotID)
  snapshotSize: $(field "dataupload/$round-$1" .status.progress.totalBytes)
  sourceNamespace: local
  targetVolume: {namespace: back, pvc: $1, pv: ""}
  backupStorageLocation: default
  operationTimeout: 10m0s
E2
}
# local_completed KIND: both of this round are.
local_completed() {
  local name phase
  for name in "$1/$round-disk" "$1/$round-files"; do
    phase=$(field "$name" .status.phase)
    [ "$phase" != Failed ] && [ "$phase" != Canceled ] || die "$name is $phase: $(field "$name" .status.message)"
    [ "$phase" = Completed ] || return 1
  done
}
local_is_refused() {
  kubectl --namespace velero get events --field-selector "involvedObject.name=$round-disk,reason=Refused" \
    --output 'jsonpath={.items[*].message}' | grep -q 'persistentvolumes is forbidden'
}
# What of the source may not change: both PVs and PVCs, to the last write.
local_source() {
  kubectl get persistentvolumes local-disk local-files --output 'jsonpath={range .items[*]}{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}'
  kubectl --namespace local get persistentvolumeclaims --output 'jsonpath={range .items[*]}{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}'
}

local_gone
inside mkdir -p $local_dir/files
inside truncate --size 128M $local_dir/disk.image
inside truncate --size 256M $local_dir/files.image
inside mkfs.ext4 -q -F $local_dir/files.image
inside mount -o loop $local_dir/files.image $local_dir/files
local_pv disk Block 128Mi "$(inside losetup --find --show $local_dir/disk.image)"
local_pv files Filesystem 256Mi $local_dir/files
application local e2e-local
contents local >"$log/local"
local_source >"$log/local-source"

headline "without the right to make PVs it waits, says so, and goes on when it has it"
round=$(fresh local)
local_upload disk
local_upload files
until_true 120 "an Event says that it is refused" local_is_refused
kubectl apply --filename "$local_ours" >/dev/null
until_true 300 "both uploads are Completed" local_completed dataupload
for name in disk files; do
  [[ $(field "dataupload/$round-$name" .status.message) == *"read live, without a snapshot: crash-consistent at best"* ]] ||
    die "dataupload $round-$name does not say what it is worth: $(field "dataupload/$round-$name" .status.message)"
done
until_true 120 "nothing is left of the uploads" nothing_is_left 0
local_source | diff "$log/local-source" - || die "something was written to the source"
contents local | diff "$log/local" - || die "the source is not what it was"

headline "restored into a CSI class"
kubectl create namespace back >/dev/null
sed 's/storageClassName: .*/storageClassName: wherry-test\n  selector: {matchLabels: {velero.io\/dynamic-pv-restore: back}}/' "$top/tests/e2e/app.yaml" |
  kubectl --namespace back apply --filename - >/dev/null
local_download disk
local_download files
until_true 300 "both downloads are Completed" local_completed datadownload
expected=$log/local is_equal back $((128 << 20))

headline "the second one has only what has changed; one is canceled, one deleted"
in_app local 'echo more >/files/some/more && dd if=/dev/urandom of=/disk bs=1M count=1 conv=notrunc 2>/dev/null && sync'
round=$(fresh local)
local_upload disk
local_upload files
until_true 300 "both uploads are Completed" local_completed dataupload
is "dataupload/$round-disk" .status.incrementalBytes $((1 << 20)) || die "incrementalBytes is $(field "dataupload/$round-disk" .status.incrementalBytes)"
controllers 0
round=$(fresh local)
local_upload disk
local_upload files
agent STOP
controllers 2
local_exposed() { [ "$(kubectl --namespace velero get pods --selector wherry.io/cr-uid --output name | wc -l)" = 2 ]; }
until_true 120 "both are exposed" local_exposed
kubectl --namespace velero patch "dataupload/$round-disk" --type=merge --patch '{"spec": {"cancel": true}}' >/dev/null
kubectl --namespace velero delete "dataupload/$round-files" --wait --timeout=120s >/dev/null
until_true 120 "the first is Canceled" is "dataupload/$round-disk" .status.phase Canceled
agent CONT
until_true 120 "nothing is left of them" nothing_is_left 2
local_source | diff "$log/local-source" - || die "something was written to the source"
local_gone

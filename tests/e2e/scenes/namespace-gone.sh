# namespace velero is deleted with volumes under way: it hangs, the README's way out ends it, and the next install removes what is left outside

kept_backup
# What a user has of a cluster like this one: the copy of the key, by the README's command.
copy=$cluster/copy && mkdir -p "$copy"
# from_readme BEGIN: runs the one line of README.md that begins so, as it stands there but for its remark.
from_readme() {
  local line
  line=$(awk -v begin="$1" 'index($0, begin) == 1' "$top/README.md" | sed 's/  *# .*//')
  [ -n "$line" ] && [ "$(wc -l <<<"$line")" = 1 ] || die "README.md has not one command that begins with: $1"
  printf '   $ %s\n' "$line" >&2
  (cd "$copy" && inside bash -o pipefail -c "$line")
}
no_namespace() { [ -z "$(field namespace/velero .metadata.name)" ]; }
# free OBJECT...: from all that holds it.
free() { kubectl --namespace velero patch "$@" --type=merge --patch '{"metadata": {"finalizers": null}}' >/dev/null; }
# installed: as scripts/e2e does it, with the key of the copy, before wherry could make an empty one.
installed() {
  local name
  if is namespace/velero .status.phase Terminating; then # where the scene has failed
    fault clear --all
    for name in $(kubectl --namespace velero get pods,datauploads,datadownloads,restores.velero.io --output name); do free "$name" || true; done
    until_true 300 "namespace velero is gone" no_namespace
  fi
  cluster_up
  from_readme 'kubectl replace --force -f wherry-repository.yaml'
  "$top/scripts/cluster" deploy --binaries "$binaries" >"$log/deployed-again" 2>&1 || die "scripts/cluster deploy: see $log/deployed-again"
  agents_with
  until_true 240 "Velero has found backup $kept in the bucket" is "backup/$kept" .status.phase Completed
}
from_readme 'kubectl -n velero get secret wherry-repository -o yaml'
trap '[ -n "${again:-}" ] || installed' EXIT

# At this rate an upload is under way for minutes. There are places for all.
settings uploadRate=200000 slotsPerNode=8
application app
contents app >"$log/app"
# A snapshot of the user's own.
kubectl apply --filename - >/dev/null <<E2
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: mine, namespace: app, labels: {velero.io/exclude-from-backup: "true"}}
spec: {volumeSnapshotClassName: wherry-test, source: {persistentVolumeClaimName: disk}}
E2
until_true 120 "the user's snapshot is ready" is volumesnapshot/mine .status.readyToUse true app
users() {
  kubectl --namespace app get pods,persistentvolumeclaims,volumesnapshots --output 'jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid}{"\n"}{end}' |
    grep -v ' velero-'
  field volumesnapshot/mine .status.boundVolumeSnapshotContentName app
}
users >"$log/users"

headline "a restore: its volumes are written, and not given to their PVCs yet"
back=$(fresh back)
fault set publish-fails
restore_begun "$back" back
until_true 300 "both wait for their volume to be published" have_pods "$back"
# Their pods are held when they are deleted: so the PVs are marked, and stay those of our PVCs.
for uid in $(uids "$back"); do
  kubectl --namespace velero patch "pod/wherry-$uid-1" --type=merge --patch '{"metadata": {"finalizers": ["test.wherry.io/held"]}}' >/dev/null
done
fault clear publish-fails
marked() {
  [ "$(kubectl get persistentvolumes --selector wherry.io/cr-uid --output \
    'jsonpath={range .items[*]}{.spec.persistentVolumeReclaimPolicy} {.metadata.annotations.wherry\.io/target-uid}{"\n"}{end}' | grep -c '^Retain .')" = 2 ] &&
    [ "$(kubectl --namespace velero get pods --selector wherry.io/cr-uid --output 'jsonpath={range .items[*]}{.metadata.deletionTimestamp} {end}' | wc -w)" = 2 ]
}
until_true 300 "both volumes are about to change hands" marked

headline "a backup: its volumes are read"
moving=$(fresh moving)
backup_begun "$moving" app
until_true 300 "both are under way" moves "$moving"

headline "a backup: its storage snapshots are taken over by half"
# A quota refuses the second half: our VolumeSnapshots.
kubectl --namespace velero create quota full --hard=count/volumesnapshots.snapshot.storage.k8s.io=0 >/dev/null
counted() { [[ $(field resourcequota/full .status.used) == *volumesnapshots* ]]; }
until_true 60 "the quota is in force" counted
taken=$(fresh taken)
backup_begun "$taken" app
until_true 300 "both DataUploads are there" has_two "$taken"
until_true 120 "our contents of their snapshots are there" have "$taken" volumesnapshotcontents wherry-
until_true 120 "both are Accepted" reached "$taken" Accepted
reached "$moving" InProgress || die "the uploads of $moving are not under way any more: $(phases "$moving")"

headline "the namespace is deleted, and hangs"
agent STOP
controllers 0
kubectl delete namespace velero --wait=false
for uid in $(uids "$back"); do free "pod/wherry-$uid-1"; done
# Of its content custom resources are left, and each of these is held.
remaining() { field namespace/velero '{.status.conditions[?(@.type=="NamespaceContentRemaining")].message}'; }
hangs() { [[ $(remaining) =~ ^'Some resources are remaining: '([a-z]+\.velero\.io\ has\ [0-9]+\ resource\ instances(,\ )?)+$ ]]; }
until_true 300 "all but custom resources of namespace velero is gone" hangs
say "$(remaining)"

headline "what the README says"
from_readme 'kubectl get namespace velero' | tee "$log/hangs" | sed 's/^/   /'
grep -q 'wherry.io/cleanup' "$log/hangs" || die "that does not say that our finalizer holds it"
from_readme 'kubectl get volumesnapshotcontents,pv -l wherry.io/cr-uid' | tee "$log/outside" | sed 's/^/   /'
# The snapshots of one backup, each by two contents, and the volumes of the restore; of the other backup all went with the namespace.
[ "$(grep -c '^volumesnapshotcontent' "$log/outside")" = 4 ] && [ "$(grep -c '^persistentvolume/' "$log/outside")" = 2 ] ||
  die "these are not what was left outside of the namespace"
from_readme 'kubectl -n velero get datauploads,datadownloads' | sed 's/^/   /'
until_true 120 "the namespace is gone" no_namespace
[ "$(driver_ls | grep -c '^snapshot')" = 3 ] || die "the driver does not store two snapshots of ours and the user's: $(driver_ls)"

headline "installed again, with the copy of the key"
installed
again=1
outside() { kubectl get persistentvolumes,volumesnapshotcontents --selector wherry.io/cr-uid --output name; }
nothing_is_outside() { [ -z "$(outside)" ] && [ "$(driver_ls | grep -c '^snapshot')" = 1 ]; }
until_true 300 "what was left outside is gone" nothing_is_outside
kubectl --namespace velero logs --selector app.kubernetes.io/component=controller --tail=-1 | grep 'left over' | cut -c 1-160 | sed 's/^/   /'
users | diff "$log/users" - || die "something of the user's was touched"
is volumesnapshot/mine .status.readyToUse true app || die "the user's snapshot is not ready any more"
contents app | diff "$log/app" - || die "what is on the user's volumes has changed"
kubectl --namespace app delete volumesnapshot/mine --wait --timeout=60s >/dev/null
until_true 120 "nothing is left" nothing_is_left 2

for name in "$moving" "$taken"; do there_is_no "backup/$name" || die "backup $name, which was not finished, is $(field "backup/$name" .status.phase)"; done

headline "the backup from before, which Velero has found in the bucket, restores, and another one is made"
restore "$(fresh found)" found
backup "$(fresh after)" app
# What was under way is open in the repository, and nobody goes on with it.
end_what_is_open

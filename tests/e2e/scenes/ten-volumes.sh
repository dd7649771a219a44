# ten volumes at once, uploaded and restored, within the memory of the node; never more at once than there are slots

kubectl create namespace ten >/dev/null
# claim N MODE: and what the pod has of it.
{
  mounts='' devices='' volumes=''
  for n in 0 1 2 3 4 5 6 7 8 9; do
    mode=Filesystem
    [ $((n % 2)) = 0 ] || mode=Block
    printf -- '---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: v%s}\nspec: {storageClassName: wherry-test, accessModes: [ReadWriteOnce], volumeMode: %s, resources: {requests: {storage: 384Mi}}}\n' "$n" $mode
    if [ $mode = Block ]; then devices+="{name: v$n, devicePath: /v$n}, "; else mounts+="{name: v$n, mountPath: /v$n}, "; fi
    volumes+="{name: v$n, persistentVolumeClaim: {claimName: v$n}}, "
  done
  cat <<E3
---
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: "wherry.test/busybox:1", command: [/bin/sleep, "1000000000"], volumeMounts: [${mounts%, }], volumeDevices: [${devices%, }]}]
  volumes: [${volumes%, }]
E3
} | kubectl --namespace ten apply --filename - >/dev/null
app_runs ten
# So much noise is on each that nothing small would do. What is on them ends in the bucket, and is read from it.
in_app ten 'set -e; for n in 0 2 4 6 8; do dd if=/dev/urandom of=/v$n/random bs=1M count=256 2>/dev/null; done
  for n in 1 3 5 7 9; do dd if=/dev/urandom of=/v$n bs=1M seek=8 count=256 conv=notrunc 2>/dev/null; done; sync'
sums() { in_app ten 'sha256sum /v?/random /v1 /v3 /v5 /v7 /v9'; }
sums >"$log/ten"

under_way() { kubectl --namespace velero get "$1" --output 'jsonpath={range .items[*]}{.status.phase}{"\n"}{end}' | grep -cxE 'Accepted|Prepared|InProgress' || true; }
has_ten() { [ "$(crs "$1" | wc -w)" = 10 ]; }
under_way_are() { [ "$(under_way "$1")" = "$2" ]; }
pods_are() { [ "$(kubectl --namespace velero get pods --selector wherry.io/cr-uid --output name | wc -l)" = "$1" ]; }
# slots_hold N KIND OF COMMAND...: what the command begins has ten volumes. They are all there before one is accepted, and no volume can
# be published: as many are accepted as there are slots, and no more, until it has ended.
declare -A ended=([dataupload]=backup_ended [datadownload]=restore_ended)
slots_hold() {
  local slots=$1 kind=$2 of=$3 now from
  shift 3
  controllers 0
  fault set publish-fails
  "$@" >/dev/null
  until_true 600 "all ten are there" has_ten "$of"
  controllers 2
  until_true 300 "$slots have a pod" pods_are "$slots"
  under_way_are "$kind" "$slots" || die "$(under_way "$kind") are under way, and there are $slots slots"
  fault clear --all
  from=$SECONDS
  until "${ended[$kind]}" "$of"; do
    [ $((SECONDS - from)) -lt 1800 ] || die "this did not come true: $of has ended"
    now=$(under_way "$kind")
    [ "$now" -le "$slots" ] || die "$now are under way, and there are $slots slots"
    sleep 0.5
  done
  [ "$(phases "$of" | grep -o Completed | wc -l)" = 10 ] || die "not all ten are Completed: $(of_crs "$of" '{.status.phase}: {.status.message}; ')"
  say "$slots were under way at once, never more"
}

headline "uploads: ten slots"
agents_with 2G
settings slotsPerNode=10
name=$(fresh ten)
slots_hold 10 dataupload "$name" velero backup create "$name" --include-namespaces ten --snapshot-move-data --data-mover wherry
is "backup/$name" .status.phase Completed || die "backup $name is not Completed"
until_true 300 "nothing is left of backup $name" nothing_is_left 10
# peak BUDGET: no more than that many MiB and 64 more, so far.
peak() {
  local peak budget=$1
  peak=$(inside bash -c 'grep VmHWM "/proc/$(pgrep -f "^/usr/bin/wherry agent")/status"' | tr -dc 0-9)
  say "the agent's peak: $((peak >> 10)) MiB"
  [ "$peak" -le $(((budget + 64) << 10)) ] || die "that is more than its budget of $budget MiB and 64 MiB"
}
peak 2048

headline "downloads: ten slots"
kubectl delete namespace ten --wait --timeout=180s >/dev/null
until_true 120 "the driver has no volume any more" nothing_is_left 0
slots_hold 10 datadownload "$name-back" velero restore create "$name-back" --from-backup "$name"
is "restore/$name-back" .status.phase Completed || die "restore $name-back is not Completed"
app_runs ten
sums | diff "$log/ten" - || die "what came back is not what was there"
until_true 300 "nothing is left of the restore" nothing_is_left 10
peak 2048

headline "four slots, as they are deployed"
agents_with
settings_default
again=$(fresh again)
slots_hold 4 dataupload "$again" velero backup create "$again" --include-namespaces ten --snapshot-move-data --data-mover wherry
is "backup/$again" .status.phase Completed || die "backup $again is not Completed"
until_true 300 "nothing is left of backup $again" nothing_is_left 10
peak 1024

# ten volumes at once, uploaded and restored, within the slots and the memory of the node

kubectl create namespace ten >/dev/null
# claim N MODE: and what the pod has of it.
{
  mounts='' devices='' volumes=''
  for n in 0 1 2 3 4 5 6 7 8 9; do
    mode=Filesystem
    [ $((n % 2)) = 0 ] || mode=Block
    printf -- '---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: v%s}\nspec: {storageClassName: wherry-test, accessModes: [ReadWriteOnce], volumeMode: %s, resources: {requests: {storage: 64Mi}}}\n' "$n" $mode
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
in_app ten 'for n in 0 2 4 6 8; do dd if=/dev/urandom of=/v$n/random bs=1M count=20 2>/dev/null; done
  for n in 1 3 5 7 9; do dd if=/dev/urandom of=/v$n bs=1M seek=8 count=20 conv=notrunc 2>/dev/null; done; sync'
sums() { in_app ten 'sha256sum /v?/random /v1 /v3 /v5 /v7 /v9'; }
sums >"$log/ten"

# at_most N OF KIND: no more of them than the node has slots for are under way; the most that was seen is in $log/most.
under_way() { kubectl --namespace velero get "$1" --output 'jsonpath={range .items[*]}{.status.phase}{"\n"}{end}' | grep -cxE 'Accepted|Prepared|InProgress' || true; }
until_ended() {
  local most=0 now
  until "$2"_ended "$1"; do
    now=$(under_way "$3")
    [ "$now" -le $most ] || most=$now
    sleep 0.5
  done
  say "at most $most at once"
  [ $most -ge 2 ] && [ $most -le 10 ] || die "$most were under way at once"
}

name=$(fresh ten)
velero backup create "$name" --include-namespaces ten --snapshot-move-data --data-mover wherry >/dev/null
until_ended "$name" backup datauploads
is "backup/$name" .status.phase Completed || die "backup $name is not Completed: $(of_uploads "$name" '{.status.phase}: {.status.message}; ')"
[ "$(phases "$name" | grep -o Completed | wc -l)" = 10 ] || die "not all ten are Completed: $(phases "$name")"
until_true 300 "nothing is left of backup $name" nothing_is_left 10
kubectl delete namespace ten --wait --timeout=180s >/dev/null
until_true 120 "the driver has no volume any more" nothing_is_left 0
velero restore create "$name-back" --from-backup "$name" >/dev/null
until_ended "$name-back" restore datadownloads
is "restore/$name-back" .status.phase Completed || die "restore $name-back is not Completed: $(of_downloads "$name-back" '{.status.phase}: {.status.message}; ')"
app_runs ten
sums | diff "$log/ten" - || die "what came back is not what was there"
peak=$(inside bash -c 'grep VmHWM "/proc/$(pgrep -f "^/usr/bin/wherry agent")/status"' | tr -dc 0-9)
say "the agent's peak: $((peak >> 10)) MiB"
[ "$peak" -le $(((1024 + 64) << 10)) ] || die "that is more than its budget and 64 MiB"

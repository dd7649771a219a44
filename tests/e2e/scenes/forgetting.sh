# a backup is deleted: Jobs forget its snapshots and collect, the bucket shrinks, the other restores; `backups/` emptied: on hold

# Velero compares its Backups with the bucket every five seconds instead of every minute; Jobs are as often as they may be.
location() { kubectl --namespace velero patch backupstoragelocation default --type=merge --patch "{\"spec\": {\"backupSyncPeriod\": $1}}" >/dev/null; }
# The folder of Velero's backups, away and back, by the S3 server's own way of renaming, which does not leave the bucket: a top folder
# that Velero does not know would make the location Unavailable.
away=/buckets/$bucket/plugins/backups-away backups=/buckets/$bucket/backups
move() { inside curl --silent --show-error --fail --max-time 20 --request POST "http://127.0.0.1:8888$2?mv.from=$1"; }
is_away() { inside curl --silent --fail --max-time 20 --output /dev/null --head "http://127.0.0.1:8888$away/"; }
put_back() {
  ! is_away || move $away $backups
  location null
}
trap put_back EXIT
put_back
location '"5s"'

# packed: bytes of all packs.
packed() {
  s3_ask "$s3_url/$bucket/?list-type=2&prefix=plugins%2Fwherry%2Fpacks" | grep -o '<Size>[0-9]*' | cut -c 7- | awk '{ n += $1 } END { print n + 0 }'
}
has_shrunk() { [ $(($1 - $(packed))) -ge $((24 << 20)) ]; }
said_on_hold() { kubectl --namespace velero get events --field-selector reason=ForgettingOnHold --output 'jsonpath={.items[*].message}' | grep -q 'missing-accepted'; }
there_are() { [ "$(kubectl --namespace velero get backups --output name | wc -l)" = "$1" ]; }

application app
first=$(fresh first) second=$(fresh second)
backup "$first" app
# All that the disk had goes: what the first backup has of it no other has.
in_app app 'dd if=/dev/urandom of=/disk bs=1M seek=16 count=32 conv=notrunc 2>/dev/null && sync'
contents app >"$log/app"
backup "$second" app
until_true 120 "nothing is left of the backups" nothing_is_left 2
kubectl delete namespace app --wait --timeout=180s >/dev/null

headline "velero backup delete: forgotten, and collected after the delays"
end_what_is_open
forget_soon 2m 1m
before=$(packed) from=$(date +%s)
velero backup delete "$first" --confirm >/dev/null
until_true 300 "Velero has deleted backup $first" there_is_no "backup/$first"
until_true 600 "its snapshots are forgotten" forgotten "$first"
[ "$(snapshots --tag "backup=$second")" = 2 ] || die "snapshots of $second are gone, too"
until_true 900 "the bucket is smaller by what only $first had" has_shrunk "$before"
[ $(($(date +%s) - from)) -ge 180 ] || die "the bucket is smaller although the delay and the grace are not over"
say "$((before >> 20)) MiB of packs were there, $(($(packed) >> 20)) MiB are; $(result gc)"
velero restore create "$second-back" --from-backup "$second" --wait >/dev/null
restore_is_complete "$second-back"
expected=$log/app is_equal app
kubectl delete namespace app --wait --timeout=180s >/dev/null

headline "more than five backups, and none of them in the bucket any more: on hold"
kubectl create namespace small >/dev/null
kubectl --namespace small apply --filename - >/dev/null <<E2
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files}
spec: {storageClassName: wherry-test, accessModes: [ReadWriteOnce], resources: {requests: {storage: 32Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: "$busybox_image", command: [/bin/sleep, "1000000000"], volumeMounts: [{name: files, mountPath: /files}]}]
  volumes: [{name: files, persistentVolumeClaim: {claimName: files}}]
E2
app_runs small
in_app small 'echo hello >/files/hello && sync'
for n in 1 2 3 4 5 6; do
  name=$second-$n
  backup_begun "$name" small
done
for n in 1 2 3 4 5 6; do
  until_true 600 "backup $second-$n has ended" backup_ended "$second-$n"
  is "backup/$second-$n" .status.phase Completed || die "backup $second-$n is not Completed"
done
# Velero takes its Backups away one by one: no Job looks meanwhile.
settings pause=true
until_true 300 "no Job runs" no_job_runs
all=$(snapshots) backups_there=$(kubectl --namespace velero get backups --output name | wc -l) uid=$(field "backup/$second" .metadata.uid)
move $backups $away
until_true 300 "Velero's sync has taken all Backups away" there_are 0
from=$(date +%s)
settings pause=false
until_true 300 "a Job says that forgetting is on hold" looked forget on-hold "$from"
printf '   %s\n' "$(result forget)"
[ "$(snapshots)" = "$all" ] || die "snapshots were forgotten: $(snapshots) of $all are left"
until_true 60 "an Event says so" said_on_hold

headline "they are there again: Velero's sync makes Backups anew, with other uids, and nothing is forgotten"
move $away $backups
until_true 300 "the Backups are there again" there_are "$backups_there"
[ "$(field "backup/$second" .metadata.uid)" != "$uid" ] || die "the Backup has the uid that it had: Velero has not made it anew"
from=$(date +%s)
until_true 300 "a Job has looked" looked forget done "$from"
[ "$(snapshots)" = "$all" ] || die "snapshots were forgotten: $(snapshots) of $all are left"
velero restore create "$second-again" --from-backup "$second" --wait >/dev/null
restore_is_complete "$second-again"
expected=$log/app is_equal app

# the real Velero expires a backup: forgotten; a name is used again: the new one stays; a backup is deleted while it is restored; no gc for too long is told

# snapshots_are N BACKUP: so many of that name, those that are forgotten not.
snapshots_are() { [ "$(snapshots --tag "backup=$2")" = "$1" ]; }
# has_looked: from now on a Job has looked and said that it is done.
has_looked() {
  local from
  from=$(date +%s)
  until_true 600 "a Job has looked" looked forget done "$from"
}
application app
expiring=$(fresh expiring) reused=$(fresh reused) other=$(fresh other)
backup "$expiring" app --ttl 1m
backup "$reused" app
backup "$other" app
until_true 120 "nothing is left of the backups" nothing_is_left 2
end_what_is_open
forget_soon

headline "expired"
is_expired() { [ "$(date +%s)" -gt "$(date -d "$(field "backup/$expiring" .status.expiration)" +%s)" ]; }
until_true 120 "backup $expiring has expired" is_expired
# Velero looks once an hour, and when it starts.
kubectl --namespace velero rollout restart deployment/velero >/dev/null
kubectl --namespace velero rollout status deployment/velero --timeout=300s >/dev/null
until_true 300 "Velero has deleted backup $expiring" there_is_no "backup/$expiring"
until_true 600 "its snapshots are forgotten" forgotten "$expiring"
snapshots_are 2 "$reused" && snapshots_are 2 "$other" || die "snapshots of other backups are gone, too"

headline "a name is used again before anybody has looked"
settings forgetInterval=0 gcInterval=0
until_true 300 "no Job is at work" no_job_runs
uid=$(field "backup/$reused" .metadata.uid)
velero backup delete "$reused" --confirm >/dev/null
until_true 300 "Velero has deleted backup $reused" there_is_no "backup/$reused"
in_app app 'dd if=/dev/urandom of=/disk bs=1M seek=60 count=2 conv=notrunc 2>/dev/null && sync'
contents app >"$log/app"
backup "$reused" app
[ "$(field "backup/$reused" .metadata.uid)" != "$uid" ] || die "backup $reused is the one from before"
snapshots_are 4 "$reused" || die "those of the deleted one of that name are forgotten already"
forget_soon
until_true 600 "those of the deleted one are forgotten, and those of the new one stay" snapshots_are 2 "$reused"
has_looked
snapshots_are 2 "$reused" || die "snapshots of the new backup of that name are forgotten"
until_true 120 "nothing is left of the backup" nothing_is_left 2
velero restore create "$reused-back" --from-backup "$reused" --namespace-mappings app:back --wait >/dev/null
restore_is_complete "$reused-back"
expected=$log/app is_equal back
kubectl delete namespace back --wait --timeout=180s >/dev/null

headline "a backup is deleted while it is restored"
held_exposed "$other-back" velero restore create "$other-back" --from-backup "$other" --namespace-mappings app:back >/dev/null
velero backup delete "$other" --confirm >/dev/null
until_true 300 "Velero has deleted backup $other" there_is_no "backup/$other"
# With it go its restores, and so their DataDownloads, which ends them.
until_true 300 "Velero has deleted restore $other-back" there_is_no "restore/$other-back"
until_true 300 "nothing is left of the restore" nothing_is_left 2
agent CONT
ours_is_there
until_true 600 "its snapshots are forgotten" forgotten "$other"
snapshots_are 2 "$reused" || die "snapshots of $reused are gone, too"

headline "no gc for too long: an Event and a metric say so, until one has succeeded"
# served METRIC VALUE: by the controller that acts.
served() {
  local address
  for address in $(kubectl --namespace velero get pods --selector app.kubernetes.io/component=controller --output 'jsonpath={.items[*].status.podIP}'); do
    ! inside curl --silent --fail --max-time 20 "http://$address:8081/metrics" | grep -qx "$1 $2" || return 0
  done
  return 1
}
until_true 600 "a gc has succeeded" looked gc done 0
settings gcInterval=1m gcOverdue=1m pause=true
until_true 300 "the metric says that no gc has succeeded for two minutes" served wherry_gc_overdue 1
overdue() { kubectl --namespace velero get events --field-selector reason=GcOverdue,involvedObject.kind=BackupStorageLocation --output 'jsonpath={.items[*].message}' | grep 'has succeeded since'; }
until_true 60 "an Event says so" overdue
from=$(date +%s)
settings pause=false
until_true 600 "another gc has succeeded" looked gc done "$from"
not_overdue() { ! served wherry_gc_overdue 1; }
until_true 60 "the metric says so no more" not_overdue

# the driver says which blocks are read, is cut off, is missing, answers wrongly, has lost the base: what comes back is equal

application app

# said BACKUP: what the DataUpload of the disk says.
said() { of_uploads "$1" '{.status.message}{"\n"}' | sed -n 1p; }
# disk_id BACKUP: the snapshot of the disk, as messages name it.
disk_id() { of_uploads "$1" '{.status.snapshotID}{"\n"}' | cut -d / -f 3 | sed -n 1p; }
# change: 20 MiB of the disk are others, more ranges than one message of the driver has.
change() { in_app app 'dd if=/dev/urandom of=/disk bs=1M seek=96 count=20 conv=notrunc 2>/dev/null && sync'; }
# backup_says NAME WORDS [FAULT...]: a backup whose disk was read so, while the driver misbehaves so.
backup_says() {
  local name=$1 words=$2
  shift 2
  [ $# = 0 ] || fault set "$@"
  backup "$name" app
  # It holds for the deletion of the snapshot, too, which comes after the backup has ended.
  until_true 120 "nothing is left of backup $name" nothing_is_left 2
  fault clear --all
  printf '   %s\n' "$(said "$name")"
  grep -qF "$words" <<<"$(said "$name")" || die "it does not say: $words"
}

headline "the first backup: what is allocated, in streams that break off after each message"
first=$(fresh blocks-first)
backup_says "$first" '; by allocated blocks; ' changed-blocks-cut=1

headline "what has changed, in streams that break off"
change
second=$(fresh blocks-second)
backup_says "$second" '; by changed blocks since ' changed-blocks-cut=1
base=$(disk_id "$first")
grep -qF "since $base" <<<"$(said "$second")" || die "that is not since the first backup, whose snapshot is $base"
new=$(of_uploads "$second" '{.status.incrementalBytes} ' | cut -d ' ' -f 1)
[ "$new" -ge $((20 << 20)) ] && [ "$new" -le $((22 << 20)) ] || die "$new bytes of the disk are new, and 20 MiB were written"
for name in $(of_uploads "$second" '{.metadata.name} '); do
  kubectl --namespace velero get events --field-selector "involvedObject.name=$name,reason=Completed" --output 'jsonpath={.items[*].message}'
done | grep -qF "by changed blocks since $base" || die "no Event says so"

headline "no service, and wrong answers: everything is read"
change
backup_says "$(fresh blocks-missing)" '; everything is read: ' changed-blocks-missing
change
backup_says "$(fresh blocks-order)" '; everything is read: ' changed-blocks-wrong=1
change
backup_says "$(fresh blocks-capacity)" '; everything is read: ' changed-blocks-wrong=3

headline "a driver that needs the base, which is deleted"
change
backup_says "$(fresh blocks-base)" '; by allocated blocks, not by changed ones: the driver gives none since ' delta-needs-base

# Of a snapshot that was deleted meanwhile the driver knows nothing any more.
change
backup_says "$(fresh blocks-anew)" '; by allocated blocks, not by changed ones: '

headline "what has changed, and what comes back"
change
contents app >"$log/blocks-before"
last=$(fresh blocks-last)
backup_says "$last" '; by changed blocks since '
kubectl delete namespace app --wait --timeout=180s >/dev/null
until_true 120 "the driver has no volume any more" nothing_is_left 0
back=$(fresh blocks-back)
velero restore create "$back" --from-backup "$last" --wait | tail -n 2
restore_is_complete "$back"
expected=$log/blocks-before is_equal app
until_true 120 "nothing is left of the restore" nothing_is_left 2

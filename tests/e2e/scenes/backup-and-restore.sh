# a backup, an incremental one, the namespace lost and restored; exposing changes nothing on a volume

application app
first=$(fresh first) second=$(fresh second) back=$(fresh back)

headline "a backup"
# Files that changed in the ten minutes before a storage snapshot are read again by the next backup. Nobody waits for that here.
fault set snapshot-clock-ahead=3600
backup "$first" app
until_true 120 "nothing is left of the first backup" nothing_is_left 2
velero backup describe "$first" --details >"$log/describe"
[ "$(grep -c 'Data Mover: wherry' "$log/describe")" = 2 ] || die "velero backup describe does not say that wherry moved both volumes"

headline "a second one, after a change"
in_app app 'dd if=/dev/urandom of=/disk bs=1M seek=100 count=1 conv=notrunc 2>/dev/null && echo more >/files/more && sync'
contents app >"$log/before"
# Owner, group and time of change, of each file: on the source, and on what the hosting pod has mounted.
marks() { find . ! -name lost+found -exec stat -c '%n %u:%g %a %Y %Z' {} + | sort; }
in_app app "$(declare -f marks); cd /files && marks" >"$log/marks-source"
# The agent is stopped while the volume is exposed, so that it can be looked at.
held_exposed "$second" backup_begun "$second" app
uid=$(of_uploads "$second" '{.metadata.uid} ' | cut -d ' ' -f 2)
pod=$(field "pod/wherry-$uid-1" .metadata.uid)
inside bash -c "$(declare -f marks); cd /var/lib/kubelet/pods/$pod/volumes/kubernetes.io~csi/*/mount && marks" >"$log/marks-exposed"
agent CONT
diff "$log/marks-source" "$log/marks-exposed" || die "exposing has changed owners, rights or times of files"
until_true 600 "the second backup has ended" backup_ended "$second"
backup_is_complete "$second"
until_true 120 "nothing is left of the second backup" nothing_is_left 2
messages=$(of_uploads "$second" '{.status.incrementalBytes} {.status.progress.totalBytes} {.status.message}{"\n"}')
printf '   %s\n' "$messages"
read -r disk files <<<"$(of_uploads "$second" '{.status.incrementalBytes} ')"
[ "$disk" -ge $((1 << 20)) ] && [ "$disk" -le $((4 << 20)) ] || die "$disk bytes of the disk are new, and one MiB was written"
[ "$files" -ge 1 ] && [ "$files" -le 65536 ] || die "$files bytes of files are new, and five were written"
for base in $(grep -o 'based on [0-9a-z-]*' <<<"$messages" | cut -d ' ' -f 3); do
  of_uploads "$first" '{.status.snapshotID} ' | grep -q "$base" || die "$base, on which a message says it is based, is none of the first backup's"
done
[ "$(grep -c 'based on' <<<"$messages")" = 2 ] || die "not both messages say what the snapshot is based on"
for name in $(of_uploads "$second" '{.metadata.name} '); do
  kubectl --namespace velero get events --field-selector "involvedObject.name=$name,reason=Completed" --output name | grep -q . ||
    die "no Event says what became of $name"
done
grep -q '4 files, 3 of them unread' <<<"$messages" || die "files that had not changed were read again, or the message does not say so"
fault clear snapshot-clock-ahead

headline "the namespace is lost, and comes back"
kubectl delete namespace app --wait --timeout=180s
until_true 120 "the driver has no volume any more" nothing_is_left 0
velero restore create "$back" --from-backup "$second" --wait | tail -n 2
is "restore/$back" .status.phase Completed || die "the restore is not Completed"
app_runs app
contents app >"$log/after"
diff "$log/before" "$log/after" || die "what came back is not what was there"
say "equal: $(wc -l <"$log/after") lines of names, rights, times and sums"
until_true 120 "nothing is left of the restore" nothing_is_left 2

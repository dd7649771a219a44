# Velero's own timeout: an upload and a download that take longer are cancelled by it, and all of them is gone

application app
contents app >"$log/app"
# Velero has the timeout from the command line.
late=$(fresh late)
held_exposed "$late" backup_begun "$late" app --item-operation-timeout 1m
until_true 300 "backup $late has ended" backup_ended "$late"
is "backup/$late" .status.phase PartiallyFailed || die "backup $late is $(field "backup/$late" .status.phase), not PartiallyFailed"
until_true 120 "both are Canceled" reached "$late" Canceled
of_uploads "$late" '{.status.message}{"\n"}' | sed 's/^/   /'
agent CONT
ours_is_there
until_true 120 "nothing is left of backup $late" nothing_is_left 2

good=$(fresh good)
backup "$good" app
kubectl delete namespace app --wait --timeout=180s >/dev/null
held_exposed "$late-back" velero restore create "$late-back" --from-backup "$good" --item-operation-timeout 1m >/dev/null
until_true 300 "both are Canceled" reached "$late-back" Canceled
of_downloads "$late-back" '{.status.message}{"\n"}' | sed 's/^/   /'
agent CONT
ours_is_there
until_true 300 "the restore has failed in part" restore_failed "$late-back"
kubectl delete namespace app --wait --timeout=180s >/dev/null
until_true 120 "nothing is left of the restore" nothing_is_left 0
velero restore create "$good-back" --from-backup "$good" --wait >/dev/null
restore_is_complete "$good-back"
expected=$log/app is_equal app

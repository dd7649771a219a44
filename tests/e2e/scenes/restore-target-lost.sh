# the PVC that is restored into is deleted, or replaced by another one, while its volume is written: Failed, saying so

kept_backup
lost=$(fresh lost)
held_exposed "$lost" restore_begun "$lost" lost
kubectl --namespace lost delete pod app --wait --timeout=120s >/dev/null
kubectl --namespace lost delete persistentvolumeclaims --all --wait --timeout=120s >/dev/null
# Only that of the files is there again, with another uid.
sed '/^---$/,$d' "$top/tests/e2e/app.yaml" | kubectl --namespace lost create --filename - >/dev/null
agent CONT
until_true 300 "both DataDownloads have ended" ended "$lost"
phases_are "$lost" "Failed Failed " || die "they have not both failed: $(phases "$lost")"
messages=$(of_downloads "$lost" '{.status.message}{"\n"}')
printf '   %s\n' "$messages"
[[ $messages == *"PVC lost/disk was deleted meanwhile"*"PVC lost/files was deleted or made anew meanwhile"* ]] ||
  die "the messages do not say what became of the PVCs"
until_true 300 "the restore has failed in part" restore_failed "$lost"
# The PVC that is there now goes with its namespace.
kubectl delete namespace lost --wait --timeout=180s >/dev/null
until_true 120 "nothing is left of the restore" nothing_is_left 0

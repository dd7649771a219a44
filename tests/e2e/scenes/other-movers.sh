# Velero's own mover backs up the whole cluster, Velero's namespace included, beside ours: neither touches what is the other's

application app
wait_for_node_agent() { kubectl --namespace velero rollout status daemonset/node-agent --timeout=300s >/dev/null; }
wait_for_node_agent

headline "a backup by ours is exposed, and one by Velero's own mover is of all namespaces"
own=$(fresh own) theirs=$(fresh theirs)
held_exposed "$own" backup_begun "$own" app
velero backup create "$theirs" --snapshot-move-data >/dev/null
until_true 300 "Velero's mover has its DataUploads" has_two "$theirs"
until_true 900 "Velero's mover has ended" ended "$theirs"
until_true 300 "backup $theirs has ended" backup_ended "$theirs"
is "backup/$theirs" .status.phase Completed || die "Velero's own backup is not Completed: $(of_uploads "$theirs" '{.status.phase}: {.status.message}; ')"
[ "$(of_uploads "$theirs" '{.spec.sourceNamespace} ')" = "app app " ] || die "it has backed up volumes of ours"
velero backup describe "$theirs" --details >"$log/describe-theirs"
# Objects by kind, Events left out: they tell what became of others.
awk '/^  v1\/Event:/ { skip = 1; next } /^  [^ ]/ { skip = 0 } !skip' "$log/describe-theirs" >"$log/theirs"
grep -q 'velero/cloud-credentials' "$log/describe-theirs" || die "Velero's backup has no Secret of its namespace: it shows nothing"
! grep -q 'wherry-repository' "$log/theirs" || die "the key of the repository is in the bucket, beside what it opens"
for uid in $(uids "$own"); do
  volume=$(field "persistentvolumeclaim/wherry-$uid-1" .spec.volumeName)
  ! grep -F -e "wherry-$uid" -e "${volume:?}" "$log/theirs" || die "Velero's backup has something of our exposure"
done
grep -qF "$(field persistentvolumeclaim/disk .spec.volumeName app)" "$log/theirs" || die "Velero's backup has no PV of the application: it shows nothing"
reached "$own" Prepared || die "our backup did not stay where it was: $(phases "$own")"
have_pods "$own" && have_claims "$own" && have_pairs "$own" || die "something of ours was taken away"
agent CONT
until_true 600 "backup $own has ended" backup_ended "$own"
backup_is_complete "$own"
until_true 120 "nothing is left of either" nothing_is_left 2

headline "and who wrote what"
# Writes of service accounts are in the audit log: verb, account and object.
writes() {
  python3 - "$log/audit.log" "$1" <<'P'
import json, sys
for line in open(sys.argv[1]):
    try:
        event = json.loads(line)
    except ValueError:
        continue # the last one, while it is being written
    object = event.get("objectRef", {})
    if event["verb"] in ("patch", "update", "delete") and sys.argv[2] in event["user"]["username"] and event["responseStatus"]["code"] < 400:
        print(event["verb"], object.get("resource"), object.get("namespace", "-") + "/" + object.get("name", "-"))
P
}
writes velero:wherry- >"$log/writes-own"
for name in $(of_uploads "$theirs" '{.metadata.name} '); do
  ! grep -F "datauploads velero/$name" "$log/writes-own" || die "we have written to $name, which is not ours"
done
for name in $(of_uploads "$own" '{.metadata.name} '); do
  grep -qF "datauploads velero/$name" "$log/writes-own" || die "the audit log has no write of ours to $name: it shows nothing"
done
! grep -E '(persistentvolumeclaims|pods|secrets) [^v]' "$log/writes-own" | grep -v ' velero/' || die "we have written to PVCs or pods elsewhere"

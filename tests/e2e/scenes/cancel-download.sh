# downloads cancelled, by spec.cancel and by deletion, in each phase, with an agent that works and with one that is silent

kept_backup
# At this rate a download is under way for minutes. While pause is set nothing is accepted.

# cancelled_while NAME [NAMESPACE]: one DataDownload of the restore by spec.cancel, the other by deletion; both end, all is gone.
cancelled_while() {
  cancel_both "$1"
  # The PVCs that are there are the restore's: nobody makes volumes for them.
  all_gone 0
  until_true 300 "restore $1 has failed in part" restore_failed "$1"
  kubectl delete namespace "$2" --wait --timeout=180s >/dev/null
}

headline "New: it is queued"
settings pause=true downloadRate=400000
new=$(fresh new)
restore_begun "$new" new
until_true 300 "both DataDownloads are there" has_two "$new"
[ -z "$(phases "$new" | tr -d ' ')" ] || die "they are not New: $(phases "$new")"
cancelled_while "$new" new
settings pause=false downloadRate=400000

headline "no pod uses the PVC"
waits=$(fresh waits)
restore_begun "$waits" waits --exclude-resources pods
until_true 300 "both DataDownloads are there" has_two "$waits"
until_true 120 "Velero waits for them" given_over "restore/$waits"
cancelled_while "$waits" waits

headline "Accepted: no volume can be made"
fault set create-volume-fails
volume=$(fresh volume)
restore_begun "$volume" volume
until_true 120 "both DataDownloads wait for their PVC" have_claims "$volume"
cancelled_while "$volume" volume
fault clear --all

headline "Accepted: the volume cannot be published"
fault set publish-fails
publish=$(fresh publish)
restore_begun "$publish" publish
until_true 120 "both DataDownloads wait for their pod" have_pods "$publish"
cancelled_while "$publish" publish
fault clear --all

headline "Prepared: the agent is stopped"
prepared=$(fresh prepared)
held_exposed "$prepared" restore_begun "$prepared" prepared
cancelled_while "$prepared" prepared
agent CONT
ours_is_there

headline "InProgress: the agent works"
working=$(fresh working)
restore_begun "$working" working
until_true 300 "both are under way" moves "$working"
cancelled_while "$working" working

headline "InProgress: the agent is stopped, and woken afterwards"
silent=$(fresh silent)
restore_begun "$silent" silent
until_true 300 "both are under way" moves "$silent"
agent STOP
cancel_both "$silent"
until_true 300 "restore $silent has failed in part" restore_failed "$silent"
agent CONT
gone_from_now
all_gone 0
ours_is_there
kubectl delete namespace silent --wait --timeout=180s >/dev/null

headline "the next restore is as if nothing had been"
settings_default
restore "$(fresh after)" after

# downloads cancelled, by spec.cancel and by deletion, in each phase, with an agent that works and with one that is silent

kept_backup
settings downloadRate=400000

# cancelled_while NAME [NAMESPACE]: one DataDownload of the restore by spec.cancel, the other by deletion; both end, all is gone.
cancelled_while() {
  cancel_both "$1"
  until_true 300 "restore $1 has failed in part" restore_failed "$1"
  kubectl delete namespace "$2" --wait --timeout=180s >/dev/null
  until_true 120 "nothing is left of restore $1" nothing_is_left 0
}

headline "Accepted: no pod uses the PVC"
waits=$(fresh waits)
restore_begun "$waits" waits --exclude-resources pods
until_true 300 "both wait" reached "$waits" Accepted
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
ours_is_there
kubectl delete namespace silent --wait --timeout=180s >/dev/null
until_true 120 "nothing is left of restore $silent" nothing_is_left 0

headline "the next restore is as if nothing had been"
settings_default
restore "$(fresh after)" after

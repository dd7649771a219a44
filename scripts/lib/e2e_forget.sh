# Jobs that forget and collect. Source e2e_velero.sh first.

# forget_soon [DELAY [GRACE]]: both Jobs as often as they may be, without delays, or with these.
forget_soon() { settings forgetInterval=1m gcInterval=1m "forgetDelay=${1:-0s}" "gcGrace=${2:-0s}" missingFor=0s; }
# end_what_is_open: agents that other scenes have killed, or whose storage they took away, may have left a backup open in the repository,
# for which gc waits two hours, five minutes in each Job. Nothing may be uploaded meanwhile. A gc ends what it waits for, so there has to be
# something to delete: the first one condemns it at the latest.
end_what_is_open() {
  local run
  for run in 1 2; do
    kubectl --namespace velero exec ds/wherry-agent --container agent -- wherry --memory 256M gc --grace 0s --fence-after 0s >/dev/null || die "wherry gc"
  done
}
# result KIND: of the newest Job. looked KIND STATE SINCE: the newest one ended so, and was made after that (seconds).
result() { field configmap/wherry-jobs "{.data.$1\.default}"; }
looked() {
  local made
  made=$(kubectl --namespace velero get jobs --selector "wherry.io/job=$1" --sort-by=.metadata.creationTimestamp \
    --output 'jsonpath={.items[-1:].metadata.creationTimestamp} {.items[-1:].status.succeeded}')
  [[ $made == *' 1' ]] && [ "$(date -d "${made% 1}" +%s)" -gt "$3" ] && [[ $(result "$1") == *"\"state\":\"$2\""* ]]
}
# snapshots [TAG...]: so many are listed, those that are forgotten not.
snapshots() {
  local found
  found=$(kubectl --namespace velero exec ds/wherry-agent --container agent -- wherry --memory 128M snapshots "$@" --json) || die "wherry snapshots"
  python3 -c 'import json, sys; print(len(json.loads(sys.argv[1])))' "$found"
}
forgotten() { [ "$(snapshots --tag "backup=$1")" = 0 ]; }
there_is_no() { [ -z "$(field "$1" .metadata.name)" ]; }
no_job_runs() { ! kubectl --namespace velero get jobs --output 'jsonpath={range .items[*]}{.status.active}{end}' | grep -q .; }

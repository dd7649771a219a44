# a quota refuses PVCs of an upload, and pods of a download: both wait, say so, and go on when it is raised

application app
contents app >"$log/app"
name=$(fresh quota)

# A quota is in force once it has counted what there is.
quota() {
  kubectl --namespace velero create quota full --hard="$1=0" >/dev/null
  until_true 60 "the quota of $1 is in force" counted "$1"
}
counted() { [ -n "$(field resourcequota/full "{.status.used.$1}")" ]; }
# refused OF: that an Event of each of its CRs has the API server's words.
refused() {
  local cr
  for cr in $(crs "$1"); do
    kubectl --namespace velero get events --field-selector "involvedObject.name=${cr#*/},reason=Refused" \
      --output 'jsonpath={.items[*].message}' | grep -q 'exceeded quota: full' || return 1
  done
  has_two "$1"
}
waits() {
  until_true 300 "Events say that both are refused" refused "$1"
  reached "$1" Accepted || die "they do not wait: $(phases "$1")"
  kubectl --namespace velero get events --field-selector reason=Refused --output 'jsonpath={.items[-1:].message}{"\n"}' | sed 's/^/   /'
  kubectl --namespace velero delete resourcequota full >/dev/null
}

headline "no PVC may be made"
quota persistentvolumeclaims
backup_begun "$name" app
waits "$name"
until_true 600 "backup $name has ended" backup_ended "$name"
backup_is_complete "$name"
until_true 120 "nothing is left of backup $name" nothing_is_left 2

headline "no pod may be made"
quota pods
velero restore create "$name-back" --from-backup "$name" --namespace-mappings app:back >/dev/null
waits "$name-back"
until_true 600 "restore $name-back has ended" restore_ended "$name-back"
restore_is_complete "$name-back"
expected=$log/app is_equal back
until_true 120 "nothing is left of the restore" nothing_is_left 4

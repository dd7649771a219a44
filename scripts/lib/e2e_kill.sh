# Parts that are killed while volumes are moved. Source e2e_velero.sh first.

# everything: what ended because it could not reach another part is started again, as an operator would.
everything() {
  local name
  for name in $(daemon_names); do daemon_start "$name"; done
  until_true 180 "the node is ready" node_is_ready
  ours_is_there
}
node_is_ready() { kubectl wait --for=condition=Ready "node/$node" --timeout=1s >/dev/null 2>&1; }
given_over() { [[ $(field "$1" .status.phase) == WaitingForPluginOperations* ]]; }

# packs: so many are in the repository, none on a new cluster; a listing has a thousand at most, and all scenes make some hundreds.
packs() {
  s3_ask "$s3_url/$bucket/?list-type=2&prefix=plugins%2Fwherry%2Fpacks" | { grep -o '<Key>' || true; } | wc -l
}
has_more_packs() { [ "$(packs)" -gt "$1" ]; }
# went_on OF: that the work that was begun was gone on with, and what had been stored was used.
went_on() { of_crs "$1" '{.status.message}; ' | grep -q 'went on after an interruption' || die "no volume of $1 says that it went on"; }

# As its users look at it; what it prints is that of its last look at the DataUploads.
describes_progress() { velero backup describe "$1" --details 2>/dev/null | grep -qE '^ +Progress: +[1-9][0-9]* of [1-9][0-9]* complete \(Bytes\)'; }

# killed_under_way COMMAND...: does that to an upload of both volumes of an application when a pack has been stored, and to a
# download of them when bytes have been moved; both end Completed, and what came back is equal. At the rate
# that is set each would last for minutes: once that is done to it, it is taken off. Bases are kept, as by default.
killed_under_way() {
  local name before
  local expected=$log/app
  settings uploadRate=400000 downloadRate=400000 keepBase=auto
  application app
  contents app >"$log/app"
  name=$(fresh killed) before=$(packs)
  backup_begun "$name" app
  until_true 300 "both are under way" moves "$name"
  until_true 120 "Velero waits for them" given_over "backup/$name"
  until_true 120 "a pack of them is stored" has_more_packs "$before"
  until_true 60 "velero backup describe says how far it is" describes_progress "$name"
  "$@"
  everything
  settings_live uploadRate=0
  until_true 600 "backup $name has ended" backup_ended "$name"
  backup_is_complete "$name"
  [ -z "${goes_on:-}" ] || went_on "$name"
  printf '   %s\n' "$(of_uploads "$name" '{.status.message}{"\n"}')"
  bases_go 2

  velero restore create "$name-back" --from-backup "$name" --namespace-mappings app:back >/dev/null
  until_true 300 "both are under way" moves "$name-back"
  until_true 120 "Velero waits for them" given_over "restore/$name-back"
  "$@"
  everything
  settings_live downloadRate=0
  until_true 600 "restore $name has ended" restore_ended "$name-back"
  restore_is_complete "$name-back"
  [ -z "${goes_on:-}" ] || went_on "$name-back"
  is_equal back
  until_true 120 "nothing is left of restore $name" nothing_is_left 4
  kubectl delete namespace back --wait --timeout=180s >/dev/null
}

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

# killed_under_way COMMAND...: does that to an upload of both volumes of an application when bytes have been moved, and to a
# download of them; both end Completed, and what came back is equal. The rate makes each last for about a minute.
killed_under_way() {
  local name
  local expected=$log/app
  settings uploadRate=1500000 downloadRate=1500000
  application app
  contents app >"$log/app"
  name=$(fresh killed)
  backup_begun "$name" app
  until_true 300 "both are under way" moves "$name"
  until_true 120 "Velero waits for them" given_over "backup/$name"
  "$@"
  everything
  until_true 600 "backup $name has ended" backup_ended "$name"
  backup_is_complete "$name"
  printf '   %s\n' "$(of_uploads "$name" '{.status.message}{"\n"}')"
  until_true 120 "nothing is left of backup $name" nothing_is_left 2

  velero restore create "$name-back" --from-backup "$name" --namespace-mappings app:back >/dev/null
  until_true 300 "both are under way" moves "$name-back"
  until_true 120 "Velero waits for them" given_over "restore/$name-back"
  "$@"
  everything
  until_true 600 "restore $name has ended" restore_ended "$name-back"
  restore_is_complete "$name-back"
  is_equal back
  until_true 120 "nothing is left of restore $name" nothing_is_left 4
  kubectl delete namespace back --wait --timeout=180s >/dev/null
}

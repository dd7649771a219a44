# How far a backup or restore has come, where it is held, and how it is cancelled. Source e2e_velero.sh first.

# All of a backup or restore: both CRs, and for each PVC, pod, VolumeSnapshot of ours.
has_two() { [ "$(wc -w <<<"$(crs "$1")")" = 2 ]; }
uids() { of_crs "$1" '{.metadata.uid} '; }
have_pairs() { have "$1" volumesnapshots wherry-; }
have_claims() { have "$1" persistentvolumeclaims wherry- -1; }
have_pods() { have "$1" pods wherry- -1; }
have() {
  local uid names=()
  for uid in $(uids "$1"); do names+=("$2/$3$uid${4:-}"); done
  [ ${#names[@]} = 2 ] && kubectl --namespace velero get "${names[@]}" >/dev/null 2>&1
}
# held_exposed OF COMMAND...: begins it by that command, and holds it where both volumes are exposed: the agent is stopped. Not
# before both have their pods: where no agent is ready, nothing is accepted.
held_exposed() {
  local of=$1
  shift
  fault set publish-fails
  "$@"
  until_true 300 "both wait for their volume to be published" have_pods "$of"
  agent STOP
  fault clear publish-fails
  until_true 300 "both volumes are exposed" reached "$of" Prepared
}

# moves OF: both are InProgress, and bytes of one have been moved: a small volume has all of them at once.
moves() {
  local said
  said=$(of_crs "$1" '{.status.phase} {.status.progress.bytesDone} ')
  [[ $said =~ ^(InProgress [0-9]* ){2}$ && $said =~ [1-9] ]]
}

# cancel_both OF: the first by spec.cancel, the second by deletion; waits until both are Canceled, or gone.
cancel_both() {
  begin_to_cancel "$1"
  is_cancelled "$1"
}
begin_to_cancel() {
  read -r first_cr second_cr <<<"$(crs "$1")"
  kubectl --namespace velero patch "$first_cr" --type=merge --patch '{"spec": {"cancel": true}}' >/dev/null
  kubectl --namespace velero delete "$second_cr" --wait=false >/dev/null
}
# Ten seconds are allowed; twenty more are for a machine that is busy with other things.
is_cancelled() {
  local from=$SECONDS phase
  until_true 120 "both are Canceled" both_ended
  say "cancelled after $((SECONDS - from)) s: $first_cr $(field "$first_cr" '{.status.phase}: {.status.message}')"
  [ $((SECONDS - from)) -le 30 ] || die "it took $((SECONDS - from)) s"
  is "$first_cr" .status.phase Canceled || die "$first_cr is $(field "$first_cr" .status.phase), not Canceled"
  [ -n "$(field "$first_cr" .status.message)" ] || die "$first_cr has no message"
}
both_ended() { is_over "$first_cr" && is_over "$second_cr"; }
is_over() {
  case $(field "$1" '{.metadata.name} {.status.phase}') in
  '' | *' Canceled' | *' Completed' | *' Failed') ;;
  *) return 1 ;;
  esac
}

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
  # For `diagnose`, where it does not come true.
  printf '%s %s: %s\n' "$(date +%T)" "$1" "$said" >>"$log/moves"
  [[ $said =~ ^(InProgress [0-9]* ){2}$ && $said =~ [1-9] ]]
}

# Seconds are allowed from the cancel until both have ended, and until all of them is gone. WHERRY_E2E_SLOW multiplies them on a
# machine that is busy with other things.
slow=${WHERRY_E2E_SLOW:-1}
cancelled_limit=$((10 * slow)) gone_limit=$((120 * slow))

# cancel_both OF: the first by spec.cancel, the second by deletion; waits until both are Canceled, or gone.
cancel_both() {
  begin_to_cancel "$1"
  is_cancelled "$1"
}
begin_to_cancel() {
  read -r first_cr second_cr <<<"$(crs "$1")"
  kubectl --namespace velero patch "$first_cr" --type=merge --patch '{"spec": {"cancel": true}}' >/dev/null
  kubectl --namespace velero delete "$second_cr" --wait=false >/dev/null
  gone_from_now
}
is_cancelled() {
  local took
  until both_ended; do
    [ $((SECONDS - cancelled_at)) -lt 120 ] || die "this did not come true: both are Canceled"
    sleep 0.2
  done
  took=$(($(date +%s%3N) - cancelled_at_ms))
  say "cancelled after $took ms: $first_cr $(field "$first_cr" '{.status.phase}: {.status.message}')"
  [ $took -le $((cancelled_limit * 1000)) ] || die "it took $took ms, and $cancelled_limit s are allowed"
  is "$first_cr" .status.phase Canceled || die "$first_cr is $(field "$first_cr" .status.phase), not Canceled"
  [ -n "$(field "$first_cr" .status.message)" ] || die "$first_cr has no message"
}
# The time that is allowed begins now: at the cancel, or when a silent agent was woken. all_gone VOLUMES: within it.
gone_from_now() { cancelled_at=$SECONDS cancelled_at_ms=$(date +%s%3N); }
all_gone() {
  local left=$((gone_limit - (SECONDS - cancelled_at)))
  until_true $((left > 0 ? left : 0)) "all of it is gone within $gone_limit s" nothing_is_left "$1"
  say "all of it was gone after $((SECONDS - cancelled_at)) s"
}
both_ended() { is_over "$first_cr" && is_over "$second_cr"; }
is_over() {
  case $(field "$1" '{.metadata.name} {.status.phase}') in
  '' | *' Canceled' | *' Completed' | *' Failed') ;;
  *) return 1 ;;
  esac
}

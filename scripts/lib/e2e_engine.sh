# The engine that the agents are told to use, and what it moved. Source e2e_velero.sh first; $engine is what all scenes are played with,
# nothing: as it is deployed.

# agents_with [MEMORY [ARGUMENT...]]: they have that much memory (1G, 2G), with room for the rest as in agent.yaml, and these arguments;
# without any as they are deployed, but for the engine of this run.
agents_with() {
  local more=("${@:2}")
  [ -z "$engine" ] || [[ " ${more[*]}" == *" --engine="* ]] || more+=("--engine=$engine")
  kubectl --namespace velero get daemonset wherry-agent --output json |
    python3 -c 'import json, sys
memory, more = sys.argv[1], sys.argv[2:]
container = json.load(sys.stdin)["spec"]["template"]["spec"]["containers"][0]
more += ["--memory=" + memory] if memory != "1G" else []
args = [word for word in container["args"] if not word.startswith(("--engine=", "--memory="))] + more
limit = "%dMi" % (int(memory[:-1]) * 1024 + 256)
if args != container["args"] or limit != container["resources"]["limits"]["memory"]:
    path = "/spec/template/spec/containers/0/"
    print(json.dumps([{"op": "replace", "path": path + "args", "value": args}, {"op": "replace", "path": path + "resources/limits/memory", "value": limit}]))' \
      "${1:-1G}" "${more[@]}" >"$log/agents"
  [ -s "$log/agents" ] || return 0
  note_moved
  kubectl --namespace velero patch daemonset wherry-agent --type=json --patch-file "$log/agents" >/dev/null
  ours_is_there
}
# with_engine NAME: of the agents; auto is as they are deployed.
with_engine() { if [ "$1" = auto ]; then agents_with; else agents_with 1G "--engine=$1"; fi; }

# moved [ENGINE]: what the agent's metric says of volumes that were moved by it: both kinds, from its start on, 0 where there were none.
moved() { inside curl --silent --fail --max-time 20 "http://$(agent_address)/metrics" | grep '^wherry_volumes_moved_total' | grep -F "engine=\"${1:-}"; }
agent_address() { kubectl --namespace velero get pods --selector app.kubernetes.io/component=agent --output 'jsonpath={.items[0].status.podIP}:8081'; }

# note_moved: of an agent that is about to end, with its metrics. Of one that does not answer, or is killed, the CRs tell.
note_moved() { [ -z "$engine" ] || moved >>"$log/moved-by" 2>/dev/null || true; }

# engine_begin, engine_end: that what is moved between them is moved by the engine of this run.
engine_begin() {
  agents_with
  : >"$log/moved-by"
  moved_since=$(date -u +%FT%TZ)
}
# Files are restored by threads, whatever the engine, so io_uring is only asked to have moved something.
engine_end() {
  local messages
  [ -n "$engine" ] || return 0
  inside pkill -CONT -f "$agent_command" || true
  ours_is_there
  moved >>"$log/moved-by"
  # Times in this form are in order as words.
  messages=$(kubectl --namespace velero get datauploads,datadownloads --output \
    'jsonpath={range .items[?(@.status.phase=="Completed")]}{.metadata.creationTimestamp} {.metadata.name}: {.status.message}{"\n"}{end}' |
    awk -v since="$moved_since" '$1 >= since')
  if [ "$engine" = threads ]; then
    ! grep -F 'ring engine' <<<"$messages" || die "with --engine threads these were moved by io_uring"
    ! grep -E 'engine="ring"\} [1-9]' "$log/moved-by" || die "with --engine threads the agent's metric says that io_uring moved volumes"
  fi
  [ -n "$messages" ] || { say "no volume was moved to its end: nothing to say of the engine" && return; }
  grep -qF "$engine engine" <<<"$messages" || die "none of these says that it was moved by engine $engine:"$'\n'"$messages"
  grep -qE "engine=\"$engine\"\} [1-9]" "$log/moved-by" || die "the agent's metric does not say that engine $engine moved volumes: $(cat "$log/moved-by")"
  say "$(grep -cF "$engine engine" <<<"$messages") of the $(wc -l <<<"$messages") volumes that were moved to their end say: engine $engine"
}

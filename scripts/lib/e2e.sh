# What the scenes of scripts/e2e share: waiting, the application that is backed up, faults, what was left behind. Source the
# libraries of scripts/cluster first; $binaries is where the executables are.

ours=app.kubernetes.io/name=wherry

# until_true SECONDS WHAT COMMAND...: waits for a state, never for a time; the seconds only end a run that hangs.
until_true() {
  local limit=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt $limit ] || die "this did not come true: $what"
    sleep 1
  done
}

# field OBJECT JSONPATH: of an object in the namespace of Velero, or `-n NS OBJECT`; nothing where it is not there.
field() { kubectl --namespace "${3:-velero}" get "$1" --ignore-not-found --output "jsonpath=$(jsonpath "$2")"; }
# A bare path needs no braces.
jsonpath() { if [[ $1 == *\{* ]]; then printf %s "$1"; else printf "{%s}" "$1"; fi; }
is() { [ "$(field "$1" "$2" "${4:-velero}")" = "$3" ]; }

# application NAMESPACE [CLASS]: a pod with a Filesystem and a Block volume, and something in both.
application() {
  local size=256Mi
  # mkfs.xfs makes none below 300 MiB.
  [[ ${2:-} != *xfs* ]] || size=320Mi
  kubectl create namespace "$1" >/dev/null
  sed "s/storageClassName: .*/storageClassName: ${2:-wherry-test}/; s/storage: 256Mi/storage: $size/" "$top/tests/e2e/app.yaml" |
    kubectl --namespace "$1" apply --filename - >/dev/null
  app_runs "$1"
  in_app "$1" '
    set -e
    mkdir -p /files/some/folder && cd /files && dd if=/dev/urandom of=some/random bs=1M count=48 2>/dev/null
    echo hello >some/folder/hello && ln -s hello some/folder/link && chmod 751 some/folder && chown 12:34 some/folder/hello
    truncate -s 8M sparse && touch -d "2001-02-03 04:05:06" some/folder/hello
    dd if=/dev/urandom of=/disk bs=1M seek=16 count=32 conv=notrunc 2>/dev/null && sync'
}

app_runs() { kubectl --namespace "$1" wait --for=condition=Ready pod/app --timeout=300s >/dev/null; }
# in_app NAMESPACE SCRIPT: runs it there.
in_app() { kubectl --namespace "$1" exec app -- sh -c "$2"; }

# contents NAMESPACE [BYTES]: what is on both volumes: names, rights, owners, times and content of the files; of the disk all,
# or what it had before it was made larger.
contents() {
  local bytes=${2:-}
  in_app "$1" "
    cd /files && find . ! -name lost+found -exec stat -c '%n %F %a %u:%g %Y %s' {} + | sed '/directory/s/ [0-9]*\$//' | sort
    find . -type f -exec sha256sum {} + | sort -k 2
    cat /disk ${bytes:+| head -c $bytes} | sha256sum" || die "what is on the volumes of namespace $1 cannot be read"
}

fault() { "$binaries/wherry-test-csi" fault "$1" --data-dir "$driver_data" "${@:2}"; }
driver_ls() { "$binaries/wherry-test-csi" ls --data-dir "$driver_data"; }

# namespaces: all that scenes have made.
namespaces() { kubectl get namespaces --output name | grep -Ev '/(default|kube-.*|velero)$' || true; }

# left_behind VOLUMES: whether something of ours is: an object with our label, a finalizer or label of a node on a CR, a
# VolumeSnapshot, a VolumeSnapshotContent, a storage snapshot, a hosting pod; the driver has so many volumes. What it is goes to
# $log/left.
left_behind() {
  local stored
  stored=$(driver_ls)
  {
    kubectl get pods,persistentvolumeclaims,persistentvolumes,volumesnapshots --all-namespaces --selector wherry.io/cr-uid --output name
    kubectl get volumesnapshotcontents,volumesnapshots --all-namespaces --output name
    kubectl get persistentvolumes --output 'jsonpath={range .items[*]}{.metadata.name}{" "}{.metadata.annotations}{"\n"}{end}' | grep -F '"wherry.io/' || true
    kubectl --namespace velero get datauploads,datadownloads --output \
      'jsonpath={range .items[*]}{.metadata.name}: {.metadata.finalizers}{.metadata.labels.wherry\.io/node}{"\n"}{end}' | grep -v ': $' || true
    grep -v '^volume' <<<"$stored" || true
  } >"$log/left" 2>&1
  [ "$(grep -c '^volume' <<<"$stored")" = "$1" ] || printf '%s\n' "volumes of the driver, not $1:" "$stored" >>"$log/left"
  grep -q . "$log/left"
}
nothing_is_left() { ! left_behind "$1"; }

# What is as it was, after each scene: nothing misbehaves, no namespace, nothing stored by the driver.
nothing_is_there() {
  local name
  fault clear --all
  inside pkill -CONT -f "$agent_command" || true
  inside pkill -CONT -f "$velero_command" || true
  kubectl uncordon "$node" >/dev/null
  kubectl --namespace velero delete resourcequota/full pod/wherry-inspect --ignore-not-found >/dev/null
  controllers 2
  agents_with
  settings_default
  for name in $(namespaces); do kubectl delete "$name" --wait --timeout=180s >/dev/null; done
  until_true 120 "nothing is left" nothing_is_left 0
}
# On a cluster of a run that failed: volumes of policy Retain go as well, which nobody else takes away.
begin_of_scenes() {
  local name volume
  fault clear --all
  for name in $(namespaces); do kubectl delete "$name" --wait --timeout=180s >/dev/null; done
  for name in $(kubectl get persistentvolumes --output 'jsonpath={range .items[?(@.spec.persistentVolumeReclaimPolicy=="Retain")]}{.metadata.name} {end}'); do
    volume=$(field "persistentvolume/$name" .spec.csi.volumeHandle)
    kubectl delete "persistentvolume/$name" --wait --timeout=60s >/dev/null
    "$binaries/wherry-test-csi" volume delete --data-dir "$driver_data" --id "$volume"
  done
  nothing_is_there
}
end_of_scene() {
  nothing_is_there
  ! kubectl --namespace velero logs --selector $ours --tail=-1 2>/dev/null | grep -F 'panicked at' || die "something of ours panicked"
}

diagnose() {
  headline "it failed; the cluster says"
  ! left_behind 0 || { echo "still there:" && cat "$log/left"; }
  kubectl get pods --all-namespaces --output wide
  kubectl --namespace velero get datauploads,datadownloads --sort-by=.metadata.creationTimestamp --output \
    'jsonpath={range .items[*]}{.kind} {.metadata.name} {.status.phase} cancel={.spec.cancel} {.status.node}: {.status.message}{"\n"}{end}' | tail -n 20
  kubectl --namespace velero get backups,restores,deletebackuprequests --output 'jsonpath={range .items[*]}{.kind} {.metadata.name} {.status}{"\n"}{end}' |
    tail -n 9
  kubectl get persistentvolumes,volumesnapshotcontents
  kubectl get persistentvolumeclaims,volumesnapshots --all-namespaces
  kubectl get events --all-namespaces --sort-by=.lastTimestamp | tail -n 30
  kubectl --namespace velero logs --selector $ours --tail=60 --prefix
  kubectl --namespace velero logs deployment/velero --tail=30 | cut -c 1-400
  tail -n 30 "$log/csi.log"
  fault list
  # How far was seen that what was looked at last is.
  uniq --skip-fields=1 "$log/moves" 2>/dev/null | tail -n 20
}

# agent SIGNAL: to the agent's process. Stopped, it holds what is under way where it is: nothing rests on how fast a test is.
agent_command='^/usr/bin/wherry agent'
agent() { inside pkill "-$1" -f "$agent_command" || die "no agent runs"; }
# velero_server SIGNAL: all of Velero's server at once. An end that it is told of is none: it ends its plugins first, and an operation whose plugin
# gives no answer is over for it, whatever becomes of the CR.
velero_command='^/velero server'
velero_server() { inside pkill "-$1" -f "$velero_command" || die "no Velero runs"; }

# settings KEY=VALUE...: of ConfigMap wherry, at once: who reads them is started anew. settings_default: as they are deployed.
settings() {
  settings_live "$@"
  ours_anew
}
# settings_live KEY=VALUE...: within a minute.
settings_live() {
  local pairs
  pairs=$(printf '"%s",' "$@" | sed 's/=/": "/g; s/,$//')
  kubectl --namespace velero patch configmap wherry --type=merge --patch "{\"data\": {$pairs}}" >/dev/null
}
settings_default() {
  local said
  # As tests/e2e/deploy has it: after a scene nothing is to be left.
  said=$(sed 's/^  keepBase: auto/  keepBase: never/' "$top/controller/deploy/config.yaml" | kubectl --namespace velero apply --filename -)
  [[ $said == *unchanged* ]] || ours_anew
}
# bases_go VOLUMES: of each volume of the application a base is kept, as by default; they go, and with them all that backups have left;
# so many volumes stay.
bases_go() {
  until_true 120 "a base of each volume is kept" bases_are 2
  settings_live keepBase=never
  until_true 300 "no base is there, and nothing else of backups" nothing_is_left "$1"
}
bases_are() { [ "$(kubectl --namespace velero get volumesnapshots --selector wherry.io/base --output name | wc -l)" = "$1" ]; }
ours_anew() {
  note_moved
  kubectl --namespace velero rollout restart deployment/wherry-controller daemonset/wherry-agent >/dev/null
  ours_is_there
}
ours_is_there() {
  kubectl --namespace velero rollout status deployment/wherry-controller --timeout=300s >/dev/null
  kubectl --namespace velero rollout status daemonset/wherry-agent --timeout=300s >/dev/null
}

# controllers N: so many of them are there; with none nothing is decided.
controllers() {
  ! has_controllers "$1" || return 0
  kubectl --namespace velero scale deployment/wherry-controller --replicas="$1" >/dev/null
  until_true 180 "there are $1 controllers" has_controllers "$1"
}
has_controllers() {
  [ "$(kubectl --namespace velero get pods --selector app.kubernetes.io/component=controller --output name | wc -l)" = "$1" ] &&
    [ "$(field deployment/wherry-controller .status.readyReplicas)" = "${1/#0/}" ]
}

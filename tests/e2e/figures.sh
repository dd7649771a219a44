# one Block volume, beside Velero's own mover: seconds, CPU and memory of a first backup, an unchanged one and a restore; and at rest
# FIGURES_OF="wherry wherry-threads" measures these alone, and nothing at rest.

# $figures is the size of the volume in MiB; five of twelve parts of it have data.
application_of_figures() {
  kubectl create namespace "$1" >/dev/null
  sed "s/storage: 128Mi/storage: ${figures}Mi/" "$top/tests/e2e/app.yaml" | kubectl --namespace "$1" apply --filename - >/dev/null
  app_runs "$1"
  in_app "$1" "dd if=/dev/urandom of=/disk bs=1M seek=16 count=$((figures * 51 / 120)) conv=notrunc 2>/dev/null; sync; sha256sum </disk" >"$log/figures"
}
cold() { sync && echo 3 >/proc/sys/vm/drop_caches; }

# cpu: milliseconds that all pods together have computed, the S3 server, which is no pod, aside.
cpu() {
  local file=/sys/fs/cgroup/cpuacct/$cgroup/kubepods/cpuacct.usage
  if [ -e "$file" ]; then
    echo $(($(cat "$file") / 1000000))
  else
    echo $(($(sed -n 's/^usage_usec //p' "/sys/fs/cgroup/$cgroup/kubepods/cpu.stat") / 1000))
  fi
}
# memory_of PATTERN: writes to $log/peak the most KiB that a process of that command line has had resident, looked at twice a
# second; until it is killed.
memory_of() {
  local pid now most=0
  while sleep 0.5; do
    for pid in $(pgrep -f "$1"); do
      # One that ends meanwhile has none.
      now=$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status" 2>/dev/null) || true
      [ "${now:-0}" -le $most ] || most=$now
    done
    echo $most >"$log/peak.new" && mv "$log/peak.new" "$log/peak"
  done
}

# measured WHAT KIND SELECTOR PATTERN COMMAND...: runs it, and writes what it took: seconds of the CR of the disk from start to
# completion and from creation, CPU of all pods, memory of the mover.
measured() {
  local what=$1 kind=$2 selector=$3 pattern=$4 disk=.spec.sourcePVC created started ended watcher from computed
  shift 4
  [ "$kind" = datauploads ] || disk=.spec.targetVolume.pvc
  cold
  echo 0 >"$log/peak"
  memory_of "$pattern" &
  watcher=$!
  from=$(cpu)
  "$@"
  computed=$(($(cpu) - from))
  kill $watcher || true
  wait $watcher || true
  read -r created started ended <<<"$(kubectl --namespace velero get "$kind" --selector "$selector" --sort-by=$disk --output \
    'jsonpath={range .items[?(@.metadata.labels.velero\.io/async-operation-id)]}{.metadata.creationTimestamp} {.status.startTimestamp} {.status.completionTimestamp}{"\n"}{end}' | head -n 1)"
  [ -n "$ended" ] || die "$what: there is no CR that has ended"
  printf '   %-28s data path %4d s, in all %4d s, CPU %6.1f s, memory %5d MiB\n' "$what" $(($(date -d "$ended" +%s) - $(date -d "$started" +%s))) \
    $(($(date -d "$ended" +%s) - $(date -d "$created" +%s))) "$computed"e-3 $(($(cat "$log/peak") >> 10)) | tee -a "$log/figures-table"
}
# at_rest: resident memory of agent and controllers, and the requests of their accounts, in ten minutes in which nothing is done.
at_rest() {
  local name pid from
  sleep 60
  from=$(wc -l <"$log/audit.log")
  sleep 600
  tail -n "+$((from + 1))" "$log/audit.log" >"$log/at-rest"
  for name in agent controller; do
    printf '   at rest, ten minutes: %-12s %3d requests\n' "$name" "$(grep -c "\"username\":\"system:serviceaccount:velero:wherry-$name\"" "$log/at-rest")"
  done | tee -a "$log/figures-table"
  for pid in $(pgrep -f '^/usr/bin/wherry(-controller run| agent)'); do
    printf '   at rest: %s: %d MiB resident, %d of it its own\n' "$(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c 1-32)" \
      $(($(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status") >> 10)) $(($(sed -n 's/^RssAnon:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status") >> 10))
  done | tee -a "$log/figures-table"
}

# What does not belong to Velero lies where it expects things of plugins: at the top of its bucket it takes the location for broken.
# limit: the S3 server alone takes as many bytes as a first backup sends, in objects of 64 MiB by four clients of curl.
limit() {
  local count=$((figures * 51 / 120 / 64)) from
  head -c $((64 << 20)) /dev/urandom >"$state/object"
  cold
  from=$(date +%s%N)
  seq $count | inside xargs --max-procs=4 -I{} curl --silent --fail --aws-sigv4 aws:amz:us-east-1:s3 --user "$s3_key:$s3_secret" \
    --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --upload-file "$state/object" "$s3_url/$bucket/plugins/limit/{}"
  line "S3 server alone, $((count * 64)) MiB" "$(($(date +%s%N) - from))"
  seq $count | inside xargs --max-procs=4 -I{} curl --silent --fail --aws-sigv4 aws:amz:us-east-1:s3 --user "$s3_key:$s3_secret" \
    --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --request DELETE "$s3_url/$bucket/plugins/limit/{}"
  rm "$state/object"
}
line() { printf '   %-28s data path %6.1f s\n' "$1" "$2"e-9 | tee -a "$log/figures-table"; }

# by_hand WHAT ARGUMENT...: the command line, as it is called without options, with a repository of its own.
by_hand() {
  local what=$1 from
  shift
  cold
  from=$(date +%s%N)
  inside env WHERRY_PASSWORD=figures WHERRY_REPOSITORY="s3://$bucket/plugins/by-hand" AWS_ACCESS_KEY_ID=$s3_key AWS_SECRET_ACCESS_KEY=$s3_secret \
    AWS_ENDPOINT_URL=$s3_url AWS_REGION=us-east-1 WHERRY_CACHE_DIR="$state/by-hand" "$binaries/wherry" --quiet "$@" || die "wherry $* failed"
  line "command line, $what" "$(($(date +%s%N) - from))"
}
# The loop device of the volume, which the application has and does not write to.
device_of_figures() {
  losetup --list --noheadings --output NAME,BACK-FILE | awk -v folder="$driver_data/volumes/" 'index($2, folder) == 1 { print $1 }' | while read -r device; do
    [ "$(blockdev --getsize64 "$device")" != $((figures << 20)) ] || echo "$device"
  done | head -n 1
}
command_line() {
  local device
  device=$(device_of_figures)
  [ -n "$device" ] || die "the volume has no loop device"
  by_hand "init" init
  by_hand "first" backup "$device" --name figures
  by_hand "unchanged" backup "$device" --name figures
  by_hand "restore" restore latest "$driver_data/by-hand.img"
  rm "$driver_data/by-hand.img"
  # Where the S3 server keeps an object in a file, its room is wanted for what comes.
  rm -rf "${state:?}/by-hand" "$state/s3/$bucket/plugins/by-hand"
}

: >"$log/figures-table"
printf 'load of the machine before: %s; S3 server: %s\n' "$(cat /proc/loadavg)" "$(cat "$state/s3-server")" | tee -a "$log/figures-table"
limit
for mover in ${FIGURES_OF:-wherry wherry-threads velero}; do
  arguments=(--snapshot-move-data) pattern='^/velero data-mover' rounds='first unchanged'
  case $mover in
  wherry*)
    arguments+=(--data-mover wherry) pattern=$agent_command rounds='first unchanged all-read'
    with_engine $([ $mover = wherry ] && echo auto || echo threads)
    ;;
  esac
  application_of_figures figures
  for round in $rounds; do
    # Nothing is asked of the driver then: all of the device is read and compared, also what was never written.
    [ $round != all-read ] || settings readAll=true forgetInterval=0 gcInterval=0
    name=$(fresh $mover-$round)
    measured "$mover, $round" datauploads "velero.io/backup-name=$name" "$pattern" \
      velero backup create "$name" --include-namespaces figures "${arguments[@]}" --wait >"$log/figures-out"
    tail -n 1 "$log/figures-out"
    is "backup/$name" .status.phase Completed || die "backup $name is not Completed"
    of_uploads "$name" '{.status.message}{"\n"}' | head -n 1
  done
  settings_default
  [ $mover != wherry ] || command_line
  kubectl delete namespace figures --wait --timeout=300s >/dev/null
  measured "$mover, restore" datadownloads "velero.io/restore-name=$name-back" "$pattern" \
    velero restore create "$name-back" --from-backup "$name" --wait >"$log/figures-out"
  tail -n 1 "$log/figures-out"
  is "restore/$name-back" .status.phase Completed || die "restore $name-back is not Completed"
  app_runs figures
  in_app figures 'sha256sum </disk' | diff "$log/figures" - || die "what came back is not what was there"
  kubectl delete namespace figures --wait --timeout=300s >/dev/null
done
with_engine auto
if [ -z "${FIGURES_OF:-}" ]; then
  settings forgetInterval=0 gcInterval=0
  at_rest
  settings_default
fi
printf 'load of the machine after: %s\n' "$(cat /proc/loadavg)" | tee -a "$log/figures-table"
headline "one Block volume of $figures MiB"
cat "$log/figures-table"

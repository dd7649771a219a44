# seconds of one Block volume, beside Velero's own mover: first backup, unchanged, restore

# $figures is the size of the volume in MiB; five of twelve parts of it have data.
application_of_figures() {
  kubectl create namespace "$1" >/dev/null
  sed "s/storage: 128Mi/storage: ${figures}Mi/" "$top/tests/e2e/app.yaml" | kubectl --namespace "$1" apply --filename - >/dev/null
  app_runs "$1"
  in_app "$1" "dd if=/dev/urandom of=/disk bs=1M seek=16 count=$((figures * 51 / 120)) conv=notrunc 2>/dev/null; sync; sha256sum </disk" >"$log/figures"
}
cold() { sync && echo 3 >/proc/sys/vm/drop_caches; }

# figure WHAT KIND SELECTOR: of the CR of the disk: seconds from start to completion, and from creation.
figure() {
  local created started ended
  read -r created started ended <<<"$(kubectl --namespace velero get "$2" --selector "$3" --sort-by=.spec.sourcePVC --output \
    'jsonpath={range .items[?(@.metadata.labels.velero\.io/async-operation-id)]}{.metadata.creationTimestamp} {.status.startTimestamp} {.status.completionTimestamp}{"\n"}{end}' | head -n 1)"
  printf '   %-32s data path %5d s, in all %5d s\n' "$1" $(($(date -d "$ended" +%s) - $(date -d "$started" +%s))) \
    $(($(date -d "$ended" +%s) - $(date -d "$created" +%s))) | tee -a "$log/figures-table"
}

: >"$log/figures-table"
for mover in wherry velero; do
  arguments=(--snapshot-move-data)
  [ $mover = velero ] || arguments+=(--data-mover wherry)
  application_of_figures figures
  for round in first unchanged; do
    name=$(fresh $mover-$round)
    cold
    velero backup create "$name" --include-namespaces figures "${arguments[@]}" --wait >/dev/null
    is "backup/$name" .status.phase Completed || die "backup $name is not Completed"
    figure "$mover, $round" datauploads "velero.io/backup-name=$name"
  done
  kubectl delete namespace figures --wait --timeout=300s >/dev/null
  cold
  velero restore create "$name-back" --from-backup "$name" --wait >/dev/null
  is "restore/$name-back" .status.phase Completed || die "restore $name-back is not Completed"
  figure "$mover, restore" datadownloads "velero.io/restore-name=$name-back"
  app_runs figures
  in_app figures 'sha256sum </disk' | diff "$log/figures" - || die "what came back is not what was there"
  kubectl delete namespace figures --wait --timeout=300s >/dev/null
done
headline "one Block volume of $figures MiB"
cat "$log/figures-table"

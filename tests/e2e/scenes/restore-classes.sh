# three restores at once, into other classes and sizes, onto volumes full of old bytes; a class with Retain

kept_backup
fault set old-bytes

# modifier NAME CLASS SIZE-OF-DISK SIZE-OF-FILES: for `velero restore create --resource-modifier-configmap`.
modifier() {
  kubectl --namespace velero create configmap "$1" --dry-run=client --output yaml --from-literal=rules="
version: v1
resourceModifierRules:
  - conditions: {groupResource: persistentvolumeclaims}
    patches: [{operation: replace, path: /spec/storageClassName, value: $2}]
  - conditions: {groupResource: persistentvolumeclaims, resourceNameRegex: ^disk\$}
    patches: [{operation: replace, path: /spec/resources/requests/storage, value: $3}]
  - conditions: {groupResource: persistentvolumeclaims, resourceNameRegex: ^files\$}
    patches: [{operation: replace, path: /spec/resources/requests/storage, value: $4}]
" | kubectl apply --filename - >/dev/null
}
modifier immediate-and-larger wherry-test-immediate 192Mi 384Mi
modifier xfs-and-smaller wherry-test-xfs 64Mi 320Mi

plain=$(fresh plain) immediate=$(fresh immediate) smaller=$(fresh smaller)
restore_begun "$plain" plain
restore_begun "$immediate" immediate --resource-modifier-configmap immediate-and-larger
restore_begun "$smaller" smaller --resource-modifier-configmap xfs-and-smaller
for name in "$plain" "$immediate" "$smaller"; do
  until_true 900 "restore $name has ended" restore_ended "$name"
  restore_is_complete "$name"
done
is_equal plain
is_equal immediate $((128 << 20))
# The driver's volumes are full of old bytes, and this one is larger than the disk.
[ "$(in_app immediate "tail -c +$(((128 << 20) + 1)) /disk | tr -d '\\000' | wc -c")" = 0 ] || die "behind the disk there are bytes of somebody else"
is_equal smaller
until_true 120 "nothing is left of the restores" nothing_is_left 6

# What the volumes are like now: that of their class, with nothing of ours on them.
for pair in plain:wherry-test immediate:wherry-test-immediate smaller:wherry-test-xfs; do
  IFS=: read -r namespace class <<<"$pair"
  for claim in disk files; do
    volume=$(field "persistentvolumeclaim/$claim" .spec.volumeName "$namespace")
    [ "$(field "persistentvolume/$volume" '{.spec.storageClassName} {.spec.persistentVolumeReclaimPolicy}')" = "$class Delete" ] ||
      die "PV $volume of $namespace/$claim is not of class $class with policy Delete"
    ! kubectl get "persistentvolume/$volume" --output yaml | grep -E 'wherry.io/(cr-uid|velero-namespace|target-uid|original)|exclude-from-backup' ||
      die "PV $volume of $namespace/$claim has marks of ours"
    ! kubectl --namespace "$namespace" get "persistentvolumeclaim/$claim" --output yaml | grep -E ' wherry.io/|exclude-from-backup' ||
      die "PVC $namespace/$claim has marks of ours"
  done
done

for namespace in plain immediate smaller; do kubectl delete namespace $namespace --wait --timeout=180s >/dev/null; done
fault clear --all

headline "a class with Retain"
# its_volumes_go: nobody deletes a volume of policy Retain: the scene does, with its namespace.
its_volumes_go() {
  local volume handle volumes
  volumes=$(kubectl --namespace retained get persistentvolumeclaims --output 'jsonpath={range .items[*]}{.spec.volumeName} {end}')
  kubectl delete namespace retained --wait --timeout=180s >/dev/null
  for volume in $volumes; do
    is "persistentvolume/$volume" .spec.persistentVolumeReclaimPolicy Retain || die "PV $volume is not of policy Retain"
    handle=$(field "persistentvolume/$volume" .spec.csi.volumeHandle)
    kubectl delete "persistentvolume/$volume" --wait --timeout=60s >/dev/null
    until_true 120 "volume $handle is not in use any more" "$binaries/wherry-test-csi" volume delete --data-dir "$driver_data" --id "$handle" 2>/dev/null
  done
}
application retained wherry-test-retain
contents retained >"$log/retained"
retained=$(fresh retained)
backup "$retained" retained
until_true 120 "nothing is left of the backup" nothing_is_left 2
its_volumes_go
velero restore create "$retained-back" --from-backup "$retained" --wait >/dev/null
restore_is_complete "$retained-back"
expected=$log/retained is_equal retained
until_true 120 "nothing is left of the restore" nothing_is_left 2
its_volumes_go

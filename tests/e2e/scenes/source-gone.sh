# the namespace of the source goes while its volumes are uploaded; with a VolumeSnapshotClass of policy Delete and of policy Retain

for class in wherry-test wherry-test-retain; do
  headline "VolumeSnapshotClass $class"
  application "gone"
  kubectl --namespace gone annotate persistentvolumeclaims --all velero.io/csi-volumesnapshot-class="$class" >/dev/null
  contents gone >"$log/gone"
  name=$(fresh "$class")
  held_exposed "$name" backup_begun "$name" gone
  [ "$(of_uploads "$name" '{.spec.csiSnapshot.snapshotClass} ')" = "$class $class " ] || die "the snapshots are not of class $class"
  kubectl delete namespace gone --wait --timeout=180s >/dev/null
  agent CONT
  until_true 600 "backup $name has ended" backup_ended "$name"
  backup_is_complete "$name"
  until_true 120 "nothing is left, and the driver has no volume any more" nothing_is_left 0
  velero restore create "$name-back" --from-backup "$name" --wait >/dev/null
  restore_is_complete "$name-back"
  expected=$log/gone is_equal gone
  kubectl delete namespace gone --wait --timeout=180s >/dev/null
done

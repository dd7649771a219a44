# a PV that is Available and full of old bytes fits: what is restored onto it is equal all the same; an upload that is bound to it fails, and it stays

kept_backup
stale=$(fresh stale)
old_volume() {
  "$binaries/wherry-test-csi" volume create --data-dir "$driver_data" --id "$stale" --size $((128 << 20)) --block >/dev/null
  kubectl apply --filename - >/dev/null <<E2
apiVersion: v1
kind: PersistentVolume
metadata: {name: $stale}
spec:
  capacity: {storage: 128Mi}
  accessModes: [ReadWriteOnce]
  volumeMode: Block
  persistentVolumeReclaimPolicy: ${2:-Delete}
  storageClassName: $1
  csi: {driver: $driver, volumeHandle: $stale}
E2
  until_true 60 "PV $stale is Available" is "persistentvolume/$stale" .status.phase Available
}
for class in wherry-test wherry-test-immediate; do
  headline "class $class"
  fault set old-bytes
  old_volume $class
  fault clear --all
  name=$(fresh "$class")
  kubectl --namespace velero create configmap "$name" --from-literal=rules="
version: v1
resourceModifierRules:
  - conditions: {groupResource: persistentvolumeclaims}
    patches: [{operation: replace, path: /spec/storageClassName, value: $class}]
" >/dev/null
  restore "$name" stale --resource-modifier-configmap "$name"
  say "PV $stale is $(field "persistentvolume/$stale" '{.status.phase}, of {.spec.claimRef.namespace}/{.spec.claimRef.name}')"
  kubectl --namespace velero delete configmap "$name" >/dev/null
  kubectl delete namespace stale --wait --timeout=180s >/dev/null
  kubectl delete "persistentvolume/$stale" --ignore-not-found --wait --timeout=60s >/dev/null
  "$binaries/wherry-test-csi" volume delete --data-dir "$driver_data" --id "$stale" 2>/dev/null || true
  until_true 120 "nothing is left" nothing_is_left 0
done

# Whatever policy it has: an upload that took it for a copy of the snapshot would back up somebody else's data, and delete it.
for class in wherry-test:Retain wherry-test-immediate:Delete; do
  IFS=: read -r class policy <<<"$class"
  headline "an upload, class $class, a PV of policy $policy"
  application app $class
  fault set old-bytes
  old_volume $class $policy
  fault clear --all
  before=$(sha256sum <"$driver_data/volumes/$stale.img")
  foreign=$(fresh foreign)
  backup_begun "$foreign" app
  until_true 600 "backup $foreign has ended" backup_ended "$foreign"
  said=$(of_uploads "$foreign" '{.status.phase}: {.status.message}{"\n"}')
  printf '   %s\n' "$said"
  [ "$(grep -c "^Failed: .* was bound to PV $stale, which was Available" <<<"$said")" = 1 ] || die "the upload of the disk did not fail for it"
  [ "$(grep -c '^Completed' <<<"$said")" = 1 ] || die "the upload of the files is not Completed"
  until_true 120 "nothing is left of backup $foreign" nothing_is_left 3
  [ "$(field "persistentvolume/$stale" '{.spec.persistentVolumeReclaimPolicy} {.status.phase}')" = "Retain Released" ] ||
    die "PV $stale is $(field "persistentvolume/$stale" '{.spec.persistentVolumeReclaimPolicy} {.status.phase}')"
  [ "$(sha256sum <"$driver_data/volumes/$stale.img")" = "$before" ] || die "somebody wrote to the volume of PV $stale"
  backup "$(fresh after)" app
  until_true 120 "nothing is left of the backup after that" nothing_is_left 3
  kubectl delete namespace app --wait --timeout=180s >/dev/null
  kubectl delete "persistentvolume/$stale" --wait --timeout=60s >/dev/null
  "$binaries/wherry-test-csi" volume delete --data-dir "$driver_data" --id "$stale"
done

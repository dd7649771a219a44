# a PV that is Available and full of old bytes fits what is restored: what comes back is equal all the same, and nobody's bytes are in it

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
  persistentVolumeReclaimPolicy: Delete
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

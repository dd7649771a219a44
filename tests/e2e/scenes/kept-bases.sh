# keepBase auto: one storage snapshot of each volume stays, so that a driver that needs it tells what changed; it goes with the PVC

application app
fault set delta-needs-base

# said, disk_id BACKUP: what the DataUpload of the disk says; the snapshot of the disk, as messages name it.
said() { of_uploads "$1" '{.status.message}{"\n"}' | sed -n 1p; }
disk_id() { of_uploads "$1" '{.status.snapshotID}{"\n"}' | cut -d / -f 3 | sed -n 1p; }
change() { in_app app 'dd if=/dev/urandom of=/disk bs=1M seek=96 count=20 conv=notrunc 2>/dev/null && sync'; }
# kept_are BACKUP: the kept bases are those of its two uploads, and the driver has no other snapshot.
kept_are() {
  local uid
  [ "$(kubectl --namespace velero get volumesnapshots --selector wherry.io/base --output name | sort)" = \
    "$(for uid in $(uids "$1"); do echo "volumesnapshot.snapshot.storage.k8s.io/wherry-$uid"; done | sort)" ] &&
    [ "$(kubectl get volumesnapshots --all-namespaces --output name | wc -l)" = 2 ] && [ "$(driver_ls | grep -c '^snapshot')" = 2 ]
}

headline "kept, and used"
settings keepBase=auto
first=$(fresh kept-first) second=$(fresh kept-second)
backup "$first" app
until_true 120 "one snapshot of each volume is kept, of the first backup" kept_are "$first"
change
contents app >"$log/app"
backup "$second" app
printf '   %s\n' "$(said "$second")"
grep -qF "; by changed blocks since $(disk_id "$first")" <<<"$(said "$second")" || die "what has changed was not asked of the driver"
until_true 120 "one snapshot of each volume is kept, of the second backup" kept_are "$second"

headline "never: they go, although the PVCs are there"
settings_live keepBase=never
until_true 300 "no base is there" nothing_is_left 2

headline "auto again, and the backup is deleted"
settings keepBase=auto
third=$(fresh kept-third) fourth=$(fresh kept-fourth)
backup "$third" app
until_true 120 "one snapshot of each volume is kept, of the third backup" kept_are "$third"
velero backup delete "$third" --confirm >/dev/null
until_true 300 "no base is there" nothing_is_left 2

headline "the PVCs are deleted"
backup "$fourth" app
until_true 120 "one snapshot of each volume is kept, of the fourth backup" kept_are "$fourth"
kubectl delete namespace app --wait --timeout=180s >/dev/null
# What an hour would do: a setting that changes has the controller look.
settings_live prepareTimeout=29m
until_true 300 "no base is there" nothing_is_left 0
is configmap/wherry .data.keepBase auto || die "keepBase is $(field configmap/wherry .data.keepBase)"

headline "what comes back"
fault clear --all
back=$second-back
velero restore create "$back" --from-backup "$second" --wait | tail -n 2
restore_is_complete "$back"
expected=$log/app is_equal app

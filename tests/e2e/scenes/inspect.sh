# looking into backups: the commands of the README in an agent's pod, the pod of inspect.yaml, and with bucket and key alone

need_packages sfdisk:fdisk mkfs.ext4:e2fsprogs
application app
scratch=$cluster/inspect
finish_scene() { ! inside mountpoint --quiet "$scratch/mount" || inside umount --lazy "$scratch/mount"; }
trap finish_scene EXIT
finish_scene
rm -rf "$scratch"
mkdir -p "$scratch/disk/etc" "$scratch/dumped/some"
# A disk with a partition, so that there is something to look into.
echo '/dev/vda1 / ext4 defaults 0 1' >"$scratch/disk/etc/fstab"
truncate -s 128M "$scratch/image"
echo 'start=2048, size=131072, type=83' | sfdisk --quiet "$scratch/image"
mkfs.ext4 -q -d "$scratch/disk" -E offset=$((1 << 20)) "$scratch/image" 65536k
kubectl --namespace app exec --stdin app -- sh -c 'dd of=/disk bs=1M conv=notrunc 2>/dev/null && sync' <"$scratch/image"
name=$(fresh inspect)
backup "$name" app

headline "in the pod of an agent"
wherry() { kubectl --namespace velero exec ds/wherry-agent --container agent -- wherry --memory 128M "$@"; }
# snapshot PVC: the id of that of this backup; volume PVC: the name of its volume.
snapshot() { wherry snapshots --tag "backup=$name" --tag "pvc=$1" --json | json "snapshot"; }
volume() { wherry snapshots --tag "backup=$name" --tag "pvc=$1" --json | json "volume"; }
json() { python3 -c 'import json, sys; (one,) = json.load(sys.stdin); print(one[sys.argv[1]])' "$1"; }
wherry snapshots --tag "backup=$name" | sed 's/^/   /'
disk=$(snapshot disk) files=$(snapshot files)
wherry show "$disk" | grep -q "$name" || die "show does not say which backup it is of"
wherry ls "$disk" /p1/etc | grep -q fstab || die "ls of the disk does not show /p1/etc/fstab"
wherry cat "$disk" /p1/etc/fstab | diff "$scratch/disk/etc/fstab" - || die "cat of the disk gives something else"
wherry ls "$files" some/folder | grep -q hello || die "ls of the files does not show some/folder/hello"
# What is in the folder, not the folder itself.
wherry dump "$files" some | tar -x --same-owner -C "$scratch/dumped/some"
marks() { find "$1" -exec stat -c '%n %F %a %u:%g %Y' {} + | sort && find "$1" -type f -exec sha256sum {} + | sort -k 2; }
in_app app "$(declare -f marks); cd /files && marks some" >"$scratch/there"
(cd "$scratch/dumped" && marks some) | grep -v '^some directory' | diff <(grep -v '^some directory' "$scratch/there") - || die "what was dumped is not what was backed up"

headline "a pod with all of them mounted"
image=$(field daemonset/wherry-agent '{.spec.template.spec.containers[0].image}')
sed "s#image: wherry\$#image: $image#; s#image: busybox.*#image: $busybox_image#" "$top/controller/deploy/inspect.yaml" | kubectl apply --filename - >/dev/null
kubectl --namespace velero wait --for=condition=Ready pod/wherry-inspect --timeout=120s >/dev/null
look() { kubectl --namespace velero exec wherry-inspect --container shell -- sh -c "$1"; }
until_true 60 "the mount is there" look 'ls /mnt/wherry/by-volume' >/dev/null
look "sha256sum </mnt/wherry/by-volume/$(volume disk)/latest/disk.raw" >"$scratch/sum"
sha256sum <"$scratch/image" | diff - "$scratch/sum" || die "the mounted disk is not what was backed up"
look "$(declare -f marks); cd /mnt/wherry/by-volume/$(volume files)/latest/files && marks some" | diff "$scratch/there" - ||
  die "the mounted files are not what was backed up"
! look "touch /mnt/wherry/by-volume/$(volume files)/latest/files/some/more" 2>/dev/null || die "something can be written there"
kubectl --namespace velero delete pod wherry-inspect --wait --timeout=60s >/dev/null
! inside grep -F empty-dir/mount/wherry /proc/mounts || die "the mount is still there"

headline "with the bucket and the key alone"
field secret/wherry-repository .data.key | base64 --decode | install -m 600 /dev/stdin "$scratch/key"
alone() {
  inside env WHERRY_KEY_FILE="$scratch/key" WHERRY_REPOSITORY="s3://$bucket/plugins/wherry" AWS_ACCESS_KEY_ID=$s3_key \
    AWS_SECRET_ACCESS_KEY=$s3_secret AWS_ENDPOINT_URL=$s3_url AWS_REGION=us-east-1 WHERRY_CACHE_DIR="$scratch/cache" "$binaries/wherry" "$@"
}
[ "$(alone snapshots --tag "backup=$name" --tag pvc=disk --json | json snapshot)" = "$disk" ] || die "the snapshot is not listed"
mkdir "$scratch/mount"
alone mount "$scratch/mount" | sed 's/^/   /'
inside cmp "$scratch/image" "$scratch/mount/by-volume/$(volume disk)/latest/disk.raw" || die "the mounted disk is not what was backed up"
inside umount "$scratch/mount"
alone restore "$disk" "$scratch/restored" >/dev/null
cmp "$scratch/image" "$scratch/restored" || die "the disk that was restored is not what was backed up"
mkdir "$scratch/tree"
alone restore "$files" "$scratch/tree" >/dev/null
(cd "$scratch/tree" && marks some) | diff "$scratch/there" - || die "the files that were restored are not what was backed up"
rm -rf "$scratch"

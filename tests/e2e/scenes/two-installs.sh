# another install on the same bucket: without the key, or with another one, it is refused; below a prefix of its own it works

kept_backup
saved=$cluster/wherry-repository.yaml
# As the README says that it is kept. What a new cluster has not are this key and the record of the repository.
save() {
  kubectl --namespace velero get secret wherry-repository --output yaml >"$saved"
  field configmap/wherry-repositories .data.default >"$saved.record"
}
be_new() {
  kubectl --namespace velero delete secret/wherry-repository >/dev/null
  kubectl create --filename "$top/controller/deploy/key.yaml" >/dev/null
  kubectl --namespace velero patch configmap wherry-repositories --type=merge --patch '{"data": {"default": null}}' >/dev/null
}
be_first() {
  kubectl --namespace velero delete secret/wherry-repository --ignore-not-found >/dev/null
  kubectl apply --filename "$saved" >/dev/null
  kubectl --namespace velero patch configmap wherry-repositories --type=merge --patch \
    "$(python3 -c 'import json, sys; print(json.dumps({"data": {"default": open(sys.argv[1]).read(), "other": None}}))' "$saved.record")" >/dev/null
}
finish_scene() {
  be_first
  # With the backups that are in it.
  velero backup-location delete other --confirm >/dev/null 2>&1 || true
}
# refused NAME WORDS: both uploads of the backup have failed, with a message that says so, and nothing was stored.
refused() {
  until_true 600 "backup $1 has ended" backup_ended "$1"
  phases_are "$1" "Failed Failed " || die "they have not both failed: $(phases "$1")"
  [ "$(of_uploads "$1" '{.status.message}{"\n"}' | grep -cF "$2")" = 2 ] || die "the messages do not say why: $(of_uploads "$1" '{.status.message}{"\n"}')"
  of_uploads "$1" '{.status.message}{"\n"}' | sed -n '1s/^/   /p'
  is "backup/$1" .status.phase PartiallyFailed || die "backup $1 is $(field "backup/$1" .status.phase)"
  [ "$(packs)" = "$stored" ] || die "packs were stored in a repository of others"
}
of_other() { of_uploads "$1" '{.spec.backupStorageLocation} '; }

save
trap finish_scene EXIT
application app
contents app >"$log/app"
stored=$(packs)

headline "without the key"
be_new
keyless=$(fresh keyless)
backup_begun "$keyless" app
refused "$keyless" 'bring the Secret back; no new key was made'
[ -z "$(field secret/wherry-repository .data.key)" ] || die "a key was made, although there is a repository"

headline "below a prefix of its own"
# In a folder that Velero knows: any other at the top would make location default Unavailable.
prefix=plugins/$(fresh other)
velero backup-location create other --provider aws --bucket $bucket --prefix "$prefix" --config "region=us-east-1,s3ForcePathStyle=true,s3Url=$s3_url" >/dev/null
until_true 120 "the location is Available" is backupstoragelocation/other .status.phase Available
own=$(fresh own)
backup "$own" app --storage-location other
[ "$(of_other "$own")" = "other other " ] || die "it is not in location other"
[ "$(packs)" = "$stored" ] || die "packs were stored in the repository of others"
! grep -qF "$(field secret/wherry-repository .data.key)" "$saved" || die "that is the key of the first install"

headline "with that key, into the repository of the first"
wrong=$(fresh wrong)
backup_begun "$wrong" app
refused "$wrong" 'the key in Secret wherry-repository does not open the repository'
[ -z "$(field configmap/wherry-repositories .data.default)" ] || die "the repository is recorded, although it was not opened"
velero restore create "$own-back" --from-backup "$own" --namespace-mappings app:back --wait >/dev/null
restore_is_complete "$own-back"
expected=$log/app is_equal back
kubectl delete namespace app back --wait --timeout=180s >/dev/null
until_true 120 "nothing is left" nothing_is_left 0

headline "the first has its key again, and goes on"
be_first
restore "$(fresh first)" first
again=$(fresh again)
application app
backup "$again" app

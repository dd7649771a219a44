# a driver that fails, is late, holds snapshots, copies in the background, lists no snapshots: it works, or fails saying why

application app

headline "everything fails three times"
fault set create-snapshot-fails=3 create-volume-fails=3 stage-fails=3 publish-fails=3 delete-volume-fails=3 delete-snapshot-fails=3
failing=$(fresh failing)
backup "$failing" app
until_true 300 "nothing is left of backup $failing" nothing_is_left 2
[ -z "$(fault list)" ] || die "not all that was to fail has been asked for: $(fault list)"

headline "snapshots are late and say no size, their bytes come later, and they are held by what was made from them"
fault set snapshot-late=3 snapshot-without-size clone-in-background=3 snapshot-held-by-clones
held=$(fresh held)
backup "$held" app
until_true 300 "nothing is left of backup $held" nothing_is_left 2
fault clear --all

headline "ListSnapshots is not supported"
snapshotter_anew() { daemon_stop csi-snapshotter && daemon_start csi-snapshotter; }
fault set list-snapshots-unsupported
snapshotter_anew
listless=$(fresh listless)
backup "$listless" app
until_true 300 "nothing is left of backup $listless" nothing_is_left 2
fault clear --all
snapshotter_anew

# not_prepared NAME WORDS: both uploads of the backup have failed, with a message that says what was waited for; nothing is left.
not_prepared() {
  until_true 300 "both have ended" ended "$1"
  phases_are "$1" "Failed Failed " || die "they have not both failed: $(phases "$1")"
  printf '   %s\n' "$(of_uploads "$1" '{.status.message}{"\n"}')"
  [ "$(of_uploads "$1" '{.status.message}{"\n"}' | grep -c "not prepared within 30 s: $2")" = 2 ] ||
    die "the messages do not say what was waited for"
  until_true 300 "backup $1 has ended" backup_ended "$1"
  until_true 120 "nothing is left of backup $1" nothing_is_left 2
}

headline "our snapshot never gets ready"
settings prepareTimeout=30s
controllers 0
unready=$(fresh unready)
backup_begun "$unready" app
until_true 300 "both DataUploads are there" has_two "$unready"
fault set snapshot-never-ready
controllers 2
not_prepared "$unready" 'VolumeSnapshot .* is not ready'
fault clear --all

headline "no volume can be made, for ever"
fault set create-volume-fails
unmade=$(fresh unmade)
backup_begun "$unmade" app
not_prepared "$unmade" 'pod .* does not run.*; PVC wherry-.* is not bound: no volume has been made for it'
# What the message leads to: the command that it names, as it is there.
events=$(of_uploads "$unmade" '{.status.message}{"\n"}' | sed -n 's/.*(\(kubectl .*\))$/\1/p;q')
kubectl ${events#kubectl} | grep -F create-volume-fails | sed -n '1s/^/   /p' || die "$events does not say why no volume was made"
fault clear --all

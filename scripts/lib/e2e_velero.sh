# Backups and restores by Velero's command line, and what is asked of its objects. Source e2e.sh first.

# velero ARGUMENT...: its command line. Fifteen minutes only end a run that hangs.
velero() { printf '   $ velero %s\n' "$*" >&2 && unless_closed timeout 900 nsenter --target "$(space_pid)" --net --mount --pid -- velero "$@"; }

# of_uploads BACKUP TEMPLATE: the template of each of its DataUploads, that of the disk first.
of_uploads() {
  kubectl --namespace velero get datauploads --selector "velero.io/backup-name=$1" --sort-by=.spec.sourcePVC \
    --output "jsonpath={range .items[*]}$2{end}"
}
# of_downloads RESTORE TEMPLATE: the same of a restore.
of_downloads() {
  kubectl --namespace velero get datadownloads --selector "velero.io/restore-name=$1" --sort-by=.spec.targetVolume.pvc \
    --output "jsonpath={range .items[*]}$2{end}"
}
# of_crs BACKUP-OR-RESTORE TEMPLATE: of whichever it is.
of_crs() {
  local found
  found=$(of_uploads "$@")
  [ -n "$found" ] || found=$(of_downloads "$@")
  printf %s "$found"
}
# crs OF: the names of its DataUploads or DataDownloads, as `kubectl get` takes them; phases OF: a blank behind each.
crs() { of_crs "$1" '{.kind}/{.metadata.name} '; }
phases() { of_crs "$1" '{.status.phase} '; }
phases_are() { [ "$(phases "$1")" = "$2" ]; }
# reached OF PHASE...: whether it has two, and each is in one of these phases.
reached() {
  local of=$1 found phase n=0
  shift
  found=$(phases "$of")
  for phase in $found; do [[ " $* " == *" $phase "* ]] || return 1; n=$((n + 1)); done
  [ $n = 2 ]
}
ended() { reached "$1" Completed Failed Canceled; }

# fresh NAME: of a backup or restore, which has not been used in this cluster.
fresh() { printf '%s-%s' "$1" "$(date +%s%N | cut -c 6-14)"; }

# backup NAME NAMESPACE [ARGUMENT...]: to the end, which is Completed.
backup() {
  local name=$1 namespace=$2
  shift 2
  backup_begun "$name" "$namespace" --wait "$@"
  backup_is_complete "$name"
}
backup_begun() {
  local name=$1 namespace=$2
  shift 2
  velero backup create "$name" --include-namespaces "$namespace" --snapshot-move-data --data-mover wherry "$@" >"$log/backup-$name" 2>&1 ||
    die "velero backup create: see $log/backup-$name: $(tail -n 3 "$log/backup-$name")"
}
backup_is_complete() {
  is "backup/$1" .status.phase Completed || die "backup $1 is not Completed: $(of_uploads "$1" '{.status.phase}: {.status.message}; ')"
  phases_are "$1" "Completed Completed " || die "not both DataUploads of $1 are Completed: $(phases "$1")"
  is backupstoragelocation/default .status.phase Available || die "the BackupStorageLocation is not Available any more"
}
backup_ended() { field "backup/$1" .status.phase | grep -qxE 'Completed|PartiallyFailed|Failed'; }
# Its volumes have ended, and not all are restored. Its end takes ten minutes more, in which Velero waits for PVCs that stay unbound.
restore_failed() { [[ $(field "restore/$1" .status.phase) == *PartiallyFailed ]]; }
restore_ended() { field "restore/$1" .status.phase | grep -qxE 'Completed|PartiallyFailed|Failed'; }

# kept_backup: $kept is the name of one of the application, whose namespace `kept` is gone since; made by the first scene that
# needs it. What was in it is in $log/kept.
kept_backup() {
  ! kept=$(cat "$log/kept-backup" 2>/dev/null) || return 0
  say "a backup of an application, for this scene and others"
  kept=$(fresh kept)
  application kept
  contents kept >"$log/kept"
  backup "$kept" kept
  kubectl delete namespace kept --wait --timeout=180s >/dev/null
  until_true 120 "the driver has no volume any more" nothing_is_left 0
  echo "$kept" >"$log/kept-backup"
}

# restore_begun NAME NAMESPACE [ARGUMENT...]: the kept backup, into that namespace.
restore_begun() {
  local name=$1 namespace=$2
  shift 2
  velero restore create "$name" --from-backup "$kept" --namespace-mappings "kept:$namespace" "$@" >"$log/restore-$name" 2>&1 ||
    die "velero restore create: see $log/restore-$name: $(tail -n 3 "$log/restore-$name")"
}
restore_is_complete() {
  is "restore/$1" .status.phase Completed || die "restore $1 is not Completed: $(of_downloads "$1" '{.status.phase}: {.status.message}; ')"
  phases_are "$1" "Completed Completed " || die "not both DataDownloads of $1 are Completed: $(phases "$1")"
}
# is_equal NAMESPACE [BYTES]: to what was backed up (file $expected, the kept backup unless set), the application running on it.
is_equal() {
  app_runs "$1"
  contents "$1" ${2:+"$2"} >"$log/restored-$1"
  diff "${expected:-$log/kept}" "$log/restored-$1" || die "what came back in namespace $1 is not what was there"
  say "namespace $1 is equal: $(wc -l <"$log/restored-$1") lines of names, rights, times and sums"
}

# restore NAME NAMESPACE [ARGUMENT...]: to the end, which is Completed; and what came back is equal.
restore() {
  restore_begun "$@" --wait
  restore_is_complete "$1"
  is_equal "$2"
}

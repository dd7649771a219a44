# the credentials of the bucket are replaced with volumes under way, and the old ones are refused: they go on with the new ones

first_secret=$s3_secret
# with_secret SECRET: the S3 server knows this one alone, and so does Velero.
with_secret() {
  s3_secret=$1
  daemon_stop s3
  s3_users
  daemon_start s3
  wait_for "S3 server" 120 s3_bucket
  printf '[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n' "$s3_key" "$s3_secret" >"$state/s3-credentials"
  kubectl --namespace velero create secret generic cloud-credentials --from-file=cloud="$state/s3-credentials" --dry-run=client --output yaml |
    kubectl apply --filename - >/dev/null 2>&1
}
replace_secret() {
  with_secret "$1"
  # Velero looks once a minute: it has to have the new ones before a backup ends, or begins.
  local since
  since=$(date +%s)
  until_true 240 "Velero has looked with the new ones" available_since "$since"
}
trap '[ "$s3_secret" = "$first_secret" ] || with_secret "$first_secret"' EXIT
available_since() {
  [ "$(date -d "$(field backupstoragelocation/default .status.lastValidationTime)" +%s)" -gt "$1" ] && is backupstoragelocation/default .status.phase Available
}
[ "$(cat "$state/s3-server")" = seaweedfs ] || die "this scene is about the S3 server seaweedfs"
killed_under_way replace_secret "$(fresh another-secret)"
replace_secret "$first_secret"

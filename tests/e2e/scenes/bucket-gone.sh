# the S3 server is gone for a minute with volumes under way: they wait, and go on

s3_gone() {
  daemon_stop s3 KILL
  sleep 60
  daemon_start s3
  wait_for "S3 server" 120 s3_bucket
  # Velero looks once a minute.
  until_true 180 "the BackupStorageLocation is Available" is backupstoragelocation/default .status.phase Available
}
killed_under_way s3_gone

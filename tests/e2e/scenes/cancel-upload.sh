# uploads cancelled, by spec.cancel and by deletion, in each phase, with an agent that works and with one that is silent

# At this rate an upload is under way for minutes. While pause is set nothing is accepted.
settings uploadRate=400000 pause=true
application app

# cancelled_while NAME: one DataUpload of the backup by spec.cancel, the other by deletion; both end, and all is gone.
cancelled_while() {
  cancel_both "$1"
  all_gone 2
  until_true 300 "backup $1 has ended" backup_ended "$1"
}

are_seen() { [ "$(of_uploads "$1" '{.metadata.finalizers} ')" = '["wherry.io/cleanup"] ["wherry.io/cleanup"] ' ]; }

headline "New: it is queued"
new=$(fresh new)
backup_begun "$new" app
# A DataUpload that is deleted before a controller has seen it leaves Velero's VolumeSnapshot to Velero.
until_true 300 "both DataUploads are there, and seen" are_seen "$new"
cancelled_while "$new"
settings pause=false

headline "Accepted: our VolumeSnapshot never gets ready"
controllers 0
accepted=$(fresh accepted)
backup_begun "$accepted" app
until_true 300 "both DataUploads are there" has_two "$accepted"
fault set snapshot-never-ready
controllers 2
until_true 120 "both are Accepted" reached "$accepted" Accepted
until_true 120 "our VolumeSnapshots are there" have_pairs "$accepted"
cancelled_while "$accepted"
fault clear --all

headline "Accepted: no volume can be made"
fault set create-volume-fails
volume=$(fresh volume)
backup_begun "$volume" app
until_true 120 "both DataUploads wait for their PVC" have_claims "$volume"
cancelled_while "$volume"
fault clear --all

headline "Accepted: the volume cannot be published"
fault set publish-fails
publish=$(fresh publish)
backup_begun "$publish" app
until_true 120 "both DataUploads wait for their pod" have_pods "$publish"
cancelled_while "$publish"
fault clear --all

headline "Prepared: the agent is stopped"
prepared=$(fresh prepared)
held_exposed "$prepared" backup_begun "$prepared" app
cancelled_while "$prepared"
agent CONT
ours_is_there

headline "InProgress: the agent works"
working=$(fresh working)
backup_begun "$working" app
until_true 300 "both are under way" moves "$working"
cancelled_while "$working"

headline "InProgress: the agent is stopped, and woken afterwards"
silent=$(fresh silent)
backup_begun "$silent" app
until_true 300 "both are under way" moves "$silent"
agent STOP
cancel_both "$silent"
until_true 300 "backup $silent has ended" backup_ended "$silent"
agent CONT
gone_from_now
all_gone 2
ours_is_there

headline "the next backup is as if nothing had been"
settings_default
backup "$(fresh after)" app

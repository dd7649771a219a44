# a restore whose workload never starts waits for it, keeps no other from going on, and goes on when it starts

kept_backup
waits=$(fresh waits)
restore_begun "$waits" waits --exclude-resources pods
until_true 300 "both DataDownloads wait for a pod" reached "$waits" Accepted
other=$(fresh other)
restore "$other" other
reached "$waits" Accepted || die "the first restore did not wait for its workload: $(phases "$waits")"
[ "$(kubectl --namespace velero get persistentvolumeclaims --output name | wc -l)" = 0 ] || die "something is exposed for a workload that is not there"
kubectl --namespace waits apply --filename "$top/tests/e2e/app.yaml" >/dev/null
until_true 600 "the first restore has ended" restore_ended "$waits"
restore_is_complete "$waits"
is_equal waits

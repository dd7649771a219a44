# restores of six volumes whose workload never starts wait for it, keep no other from going on, and go on when it starts

# More volumes than a node has slots.
kept_backup
# One more would be too many, if those that wait were counted.
settings maxActive=6
waiting=()
for n in 1 2 3; do
  waiting+=("$(fresh "waits-$n")")
  restore_begun "${waiting[-1]}" "waits-$n" --exclude-resources pods
done
for name in "${waiting[@]}"; do
  until_true 300 "both DataDownloads of $name are there" has_two "$name"
  until_true 120 "Velero waits for them" given_over "restore/$name"
done
other=$(fresh other)
restore "$other" other
# wait_still: none of them has gone on.
wait_still() {
  local name
  for name in "${waiting[@]}"; do
    has_two "$name" || die "restore $name has not both its DataDownloads"
    # The phase of a new one is empty.
    [ -z "$(phases "$name" | tr -d ' ')" ] || die "restore $name did not wait for its workload: $(phases "$name")"
  done
}
wait_still
[ "$(kubectl --namespace velero get persistentvolumeclaims --output name | wc -l)" = 0 ] || die "something is exposed for a workload that is not there"
for n in 1 2 3; do kubectl --namespace "waits-$n" apply --filename "$top/tests/e2e/app.yaml" >/dev/null; done
for n in 1 2 3; do
  name=${waiting[n - 1]}
  until_true 600 "restore $name has ended" restore_ended "$name"
  restore_is_complete "$name"
  is_equal "waits-$n"
done

# two backups of the same volumes at once, of xfs: both complete, with data of their own; the second uses what the first has stored

# Both filesystems have one UUID, and are mounted at once. Bases are kept, as by default.
settings keepBase=auto
application app wherry-test-xfs
contents app >"$log/app-first"
first=$(fresh one) second=$(fresh two)
held_exposed "$first" backup_begun "$first" app
until_true 120 "Velero waits for the first" given_over "backup/$first"
in_app app 'dd if=/dev/urandom of=/disk bs=1M seek=60 count=2 conv=notrunc 2>/dev/null && echo more >/files/more && sync'
contents app >"$log/app-second"
backup_begun "$second" app
until_true 300 "both DataUploads of the second are there" has_two "$second"
agent CONT
for name in "$first" "$second"; do
  until_true 600 "backup $name has ended" backup_ended "$name"
  backup_is_complete "$name"
  of_uploads "$name" '{.status.message}{"\n"}' | sed 's/^/   /'
done
bases_go 2
kubectl delete namespace app --wait --timeout=180s >/dev/null
for name in first second; do
  velero restore create "${!name}-back" --from-backup "${!name}" --namespace-mappings "app:$name" --wait >/dev/null
  restore_is_complete "${!name}-back"
  expected=$log/app-$name is_equal "$name"
done
until_true 120 "nothing is left of the restores" nothing_is_left 4

# the engine of threads, as where io_uring is off: a backup, an incremental one, a restore; which one runs is told

with_engine threads
application app
first=$(fresh threads-first) second=$(fresh threads-second)
backup "$first" app
in_app app 'dd if=/dev/urandom of=/disk bs=1M seek=100 count=1 conv=notrunc 2>/dev/null && echo more >/files/more && sync'
contents app >"$log/app"
backup "$second" app
of_uploads "$second" '{.status.message}{"\n"}' | sed 's/^/   /'
for name in $(of_uploads "$second" '{.metadata.name} '); do
  kubectl --namespace velero get events --field-selector "involvedObject.name=$name" --output 'jsonpath={.items[*].message}' | grep -q 'threads' ||
    die "no Event of $name says which engine it was"
done
kubectl delete namespace app --wait --timeout=180s >/dev/null
velero restore create "$second-back" --from-backup "$second" --wait >/dev/null
restore_is_complete "$second-back"
expected=$log/app is_equal app
moved threads | tee "$log/moved" | sed 's/^/   /'
# Two uploads of both volumes; a download of both.
[ "$(grep -cE ' [1-9][0-9]*$' "$log/moved")" = 2 ] || die "the metric does not say that uploads and downloads were moved by threads"
[ "$(moved ring | grep -c ' 0$')" = 2 ] || die "the metric does not say that io_uring moved nothing: $(moved ring)"
kubectl --namespace velero logs daemonset/wherry-agent --container agent | grep -F threads | sed -n '1,2s/^/   /p'
until_true 120 "nothing is left" nothing_is_left 2

# the chart: installed, a backup, upgraded and rolled back with work under way, which goes on; uninstalled with work under way; what stays

[ -z "$engine" ] || die "scene helm is played without --engine: its agents are what the chart makes them"
. "$top/scripts/lib/helm.sh"
setup_helm
helm() { inside env HOME="$state/helm" "$WHERRY_TEST_HELM" --namespace velero "$@"; }
chart=$top/controller/deploy/helm
image=$(field daemonset/wherry-agent '{.spec.template.spec.containers[0].image}')
# Whatever becomes of this scene, what all others rest on is there again.
as_before() {
  ! helm status wherry >/dev/null 2>&1 || helm uninstall wherry --no-hooks >/dev/null
  kubectl kustomize "$top/tests/e2e/deploy" | sed "s#wherry.test/wherry:test#$image#" | kubectl apply --filename - >/dev/null
}
trap as_before EXIT
application app
contents app >"$log/app"
# With it there are a key and a repository.
backup "$(fresh before)" app
key=$(field secret/wherry-repository .data.key)
repository=$(field configmap/wherry-repositories .data.default)
kubectl delete --kustomize "$top/tests/e2e/deploy" --wait --timeout=180s >/dev/null

# ours: names of all objects of wherry; what the cluster of the tests is made of has its name in it, too, and the words of Events and backups are theirs.
ours() {
  kubectl get "$(kubectl api-resources --verbs=list --output name | grep -vE '^events|^(backups|restores|data|podvolume|delete|download|server).*velero.io$' |
    paste --serial --delimiters=,)" --all-namespaces --ignore-not-found --output 'jsonpath={range .items[*]}{.kind}/{.metadata.name}{"\n"}{end}' |
    grep -i wherry | grep -vE '/(wherry-node|wherry-test.*|csi\.test\.wherry\.io)$' | sort -u
}

headline "helm install, and a backup"
helm install wherry "$chart" --set "image.repository=${image%:*}" --set-string "image.tag=${image##*:}" --set settings.keepBase=never --wait --timeout 3m >"$log/helm" 2>&1 ||
  die "helm install: $(tail -n 3 "$log/helm")"
name=$(fresh helm)
backup "$name" app
until_true 120 "nothing is left of backup $name" nothing_is_left 2
[ "$(field secret/wherry-repository .data.key)" = "$key" ] || die "there is another key"
[ "$(field configmap/wherry-repositories .data.default)" = "$repository" ] || die "there is another repository"
of_uploads "$name" '{.status.message}{"\n"}' | grep -q 'based on' || die "the backup is not based on the one before"

headline "helm upgrade, with a setting"
helm upgrade wherry "$chart" --reuse-values --set settings.uploadRate=400000 --wait --timeout 3m >"$log/helm" 2>&1 ||
  die "helm upgrade: $(tail -n 3 "$log/helm")"
is configmap/wherry .data.uploadRate 400000 || die "the setting is $(field configmap/wherry .data.uploadRate)"
# As a file of values has it: a float, once helm has kept it.
helm upgrade wherry "$chart" --reuse-values --set settings.downloadRate=104857600 --wait --timeout 3m >"$log/helm" 2>&1 ||
  die "helm upgrade: $(tail -n 3 "$log/helm")"
is configmap/wherry .data.uploadRate 400000 || die "the setting is $(field configmap/wherry .data.uploadRate)"
ours_anew

headline "helm upgrade and helm rollback, with a backup under way"
# noise: 32 MiB on each volume that no backup has; at the rate that is set they take minutes.
noise() { in_app app 'dd if=/dev/urandom of=/disk bs=1M seek=16 count=32 conv=notrunc 2>/dev/null; dd if=/dev/urandom of=/files/more bs=1M count=32 2>/dev/null; sync'; }
noise
moving=$(fresh moving) before=$(packs)
backup_begun "$moving" app
until_true 300 "both are under way" moves "$moving"
until_true 120 "a pack of them is stored" has_more_packs "$before"
has_label() { [ -n "$(kubectl --namespace velero get pods --selector app.kubernetes.io/component=agent,a=b --output name)" ]; }
helm upgrade wherry "$chart" --reuse-values --set agent.podLabels.a=b --wait --timeout 5m >"$log/helm" 2>&1 || die "helm upgrade: $(tail -n 3 "$log/helm")"
kubectl --namespace velero rollout restart deployment/wherry-controller >/dev/null
ours_is_there
has_label || die "the agent is not the one of the upgrade"
reached "$moving" InProgress Completed || die "the upgrade did not let the work be: $(phases "$moving")"
helm rollback wherry --wait --timeout 5m >"$log/helm" 2>&1 || die "helm rollback: $(tail -n 3 "$log/helm")"
ours_is_there
! has_label || die "the agent is not the one from before the upgrade"
reached "$moving" InProgress Completed || die "the rollback did not let the work be: $(phases "$moving")"
settings_live uploadRate=0
until_true 600 "backup $moving has ended" backup_ended "$moving"
backup_is_complete "$moving"
went_on "$moving"
of_uploads "$moving" '{.status.message}{"\n"}' | sed 's/^/   /'
until_true 120 "nothing is left of backup $moving" nothing_is_left 2
contents app >"$log/app"
settings uploadRate=400000

headline "helm uninstall, with a backup under way"
noise
last=$(fresh last)
backup_begun "$last" app
until_true 300 "both are under way" moves "$last"
helm uninstall wherry --wait --timeout 10m >"$log/helm" 2>&1 || die "helm uninstall: $(tail -n 3 "$log/helm")"
phases_are "$last" "Canceled Canceled " || die "they were not cancelled: $(phases "$last")"
of_uploads "$last" '{.status.message}{"\n"}' | sed 's/^/   /'
until_true 120 "nothing is left of backup $last" nothing_is_left 2
until_true 300 "backup $last has ended" backup_ended "$last"
[ "$(field secret/wherry-repository .data.key)" = "$key" ] || die "the key is gone, or another one"
printf '%s\n' ConfigMap/wherry-deleting ConfigMap/wherry-jobs ConfigMap/wherry-repositories Lease/wherry-controller Secret/wherry-repository >"$log/may-stay"
# Pods end in their time.
nothing_else_stays() { ours >"$log/stays" && grep -qx Secret/wherry-repository "$log/stays" && ! grep -vxFf "$log/may-stay" "$log/stays"; }
until_true 300 "what stays is what the README says" nothing_else_stays

headline "installed again, it restores"
as_before
ours_is_there
velero restore create "$moving-back" --from-backup "$moving" --namespace-mappings app:back --wait >/dev/null
restore_is_complete "$moving-back"
expected=$log/app is_equal back

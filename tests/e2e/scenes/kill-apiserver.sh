# the API server is gone for a minute with volumes under way

# The minute is what is shown: what others ask meanwhile fails.
# Velero is away as well: it gives an operation up at the first look for which its plugin gets no answer.
kill_apiserver() {
  kubectl --namespace velero scale deployment/velero --replicas=0 >/dev/null
  until_true 120 "Velero is away" velero_is_away
  daemon_stop kube-apiserver KILL
  sleep 60
  daemon_start kube-apiserver
  wait_for "API server" 120 kubectl get namespace default
  kubectl --namespace velero scale deployment/velero --replicas=1 >/dev/null
  kubectl --namespace velero rollout status deployment/velero --timeout=300s >/dev/null
}
velero_is_away() { [ -z "$(kubectl --namespace velero get pods --selector deploy=velero --output name)" ]; }
killed_under_way kill_apiserver

# the API server is gone for a minute with volumes under way

# The minute is what is shown: what others ask meanwhile fails.
# Velero is stopped meanwhile: it gives an operation up at the first look for which its plugin gets no answer.
kill_apiserver() {
  velero_server STOP
  # A look that was under way has its answer by then.
  sleep 5
  daemon_stop kube-apiserver KILL
  sleep 60
  daemon_start kube-apiserver
  wait_for "API server" 120 kubectl get namespace default
  velero_server CONT
}
killed_under_way kill_apiserver

# the API server is gone for a minute with volumes under way

# The minute is what is shown: what others ask meanwhile fails.
kill_apiserver() {
  daemon_stop kube-apiserver KILL
  sleep 60
  daemon_start kube-apiserver
  wait_for "API server" 120 kubectl get namespace default
}
killed_under_way kill_apiserver

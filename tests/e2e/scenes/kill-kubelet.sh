# the kubelet is killed with volumes under way, and started again

kill_kubelet() { daemon_stop kubelet KILL && daemon_start kubelet; }
killed_under_way kill_kubelet

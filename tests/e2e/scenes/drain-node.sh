# the node is drained of hosting pods with volumes under way: they are let go at once, and gone on with when a node is there again

# Pods that are made anew find no node: a cordoned one takes none.
drain_node() {
  kubectl drain "$node" --ignore-daemonsets --pod-selector wherry.io/cr-uid --timeout=120s >"$log/drain" 2>&1 ||
    die "kubectl drain: $(tail -n 3 "$log/drain")"
  [ "$(grep -c ' evicted$' "$log/drain")" = 2 ] || die "not both hosting pods were evicted: $(cat "$log/drain")"
  until_true 120 "both have a pod that waits for a node" both_wait
  kubectl uncordon "$node" >/dev/null
}
both_wait() {
  [ "$(kubectl --namespace velero get pods --selector wherry.io/cr-uid --output 'jsonpath={range .items[*]}{.status.phase} {end}')" = "Pending Pending " ]
}
goes_on=1 killed_under_way drain_node

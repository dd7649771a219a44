# the agent is rolled out anew with volumes under way: it lets go at once, the next one goes on

rollout() { kubectl --namespace velero rollout restart daemonset/wherry-agent >/dev/null; }
killed_under_way rollout

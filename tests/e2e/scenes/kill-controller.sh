# both controllers are killed with volumes under way

kill_controllers() { kubectl --namespace velero delete pods --selector app.kubernetes.io/component=controller --force --grace-period=0 >/dev/null 2>&1; }
killed_under_way kill_controllers

# The space that the test cluster lives in: one process tree with network, mounts and process numbers of its own, so that
# all of it ends with its first process. Outside of it remain a folder, loop devices and cgroups: `space_down` takes those
# away. Source common.sh first.

cluster=${WHERRY_CLUSTER_DIR:-/var/tmp/wherry-cluster}
run_dir=$cluster
export WHERRY_RUN_DIR=$cluster # the mark by which run_dir_processes finds what belongs here
state=$cluster/state log=$cluster/log daemons=$cluster/daemons
node=wherry-node node_ip=10.77.0.1 service_ip=10.96.0.1
cgroup=wherry-cluster

space_pid() { cat "$cluster/init.pid" 2>/dev/null; }
space_is_up() { [ -n "$(space_pid)" ] && grep -qsz "^WHERRY_RUN_DIR=$cluster\$" "/proc/$(space_pid)/environ"; }

# inside COMMAND...: runs it in the space. The working folder stays.
inside() { nsenter --target "$(space_pid)" --net --mount --pid --wd="$PWD" -- "$@"; }

# wait_for WHAT SECONDS COMMAND...: until the command succeeds.
wait_for() {
  local what=$1 limit=$(($2 * 5)) from=$SECONDS
  shift 2
  until "$@" >"$cluster/last-try" 2>&1; do
    [ $((limit--)) -gt 0 ] || { tail -n 5 "$cluster/last-try" >&2 && die "$what did not come: the logs are in $log"; }
    sleep 0.2
  done
  say "$what ($((SECONDS - from)) s)"
}

# daemon NAME COMMAND...: starts it in the space. Its command line is kept, so that `start` and `stop` need the name alone.
daemon() {
  local name=$1
  shift
  { echo '#!/bin/sh' && echo "echo \$\$ >$daemons/$name.pid" && printf 'exec' && printf ' %q' "$@" && echo; } >"$daemons/$name"
  daemon_start "$name"
}

daemon_start() {
  [ -e "$daemons/$1" ] || die "there is no $1 here; there are: $(daemon_names)"
  ! daemon_is_up "$1" || return 0
  # Its number is written by itself: before that it would be taken for one that does not run.
  rm -f "$daemons/$1.pid"
  (cd "$cluster" && HOME=$state exec setsid nsenter --target "$(space_pid)" --net --mount --pid --wd="$cluster" -- \
    bash "$daemons/$1") >>"$log/$1.log" 2>&1 </dev/null &
  for _ in $(seq 100); do
    [ ! -s "$daemons/$1.pid" ] || return 0
    sleep 0.1
  done
  die "$1 does not start: see $log/$1.log"
}

daemon_names() { (cd "$daemons" 2>/dev/null && ls | grep -v '\.pid$' | tr '\n' ' ') || true; }

# Its number is one of the space: what it is now is asked there.
daemon_is_up() {
  local pid
  pid=$(cat "$daemons/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  inside grep -qsz "^WHERRY_RUN_DIR=$cluster\$" "/proc/$pid/environ"
}

# daemon_stop NAME [SIGNAL]: and waits until it has ended, unless the signal is not one that ends it.
daemon_stop() {
  [ -e "$daemons/$1" ] || die "there is no $1 here; there are: $(daemon_names)"
  daemon_is_up "$1" || return 0
  inside kill "-${2:-TERM}" "$(cat "$daemons/$1.pid")"
  case ${2:-TERM} in STOP | CONT) return 0 ;; esac
  for _ in $(seq 300); do
    daemon_is_up "$1" || return 0
    sleep 0.1
  done
  die "$1 does not end after signal ${2:-TERM}: see $log/$1.log"
}

# What lies over the machine's own folders inside the space, so that programs find their usual paths. On the machine they
# are empty folders, made where they were not there and taken away again.
space_folders=(/var/lib/kubelet /var/lib/wherry /var/lib/cni /var/log/containers /run/containerd /run/netns)

space_up() {
  local folder
  ! space_is_up || return 0
  [ ! -e "$cluster" ] || space_down # of a machine that has been restarted, or of a start that was interrupted
  mkdir -p "$state" "$log" "$daemons" "$state"/{kubelet,wherry,cni}
  for folder in "${space_folders[@]}"; do
    [ -d "$folder" ] || { mkdir -p "$folder" && echo "$folder" >>"$cluster/made-folders"; }
  done
  for folder in /sys/fs/cgroup/*/cgroup.procs; do mkdir -p "${folder%/*}/$cgroup"; done
  [ ! -e /sys/fs/cgroup/cgroup.procs ] || mkdir -p "/sys/fs/cgroup/$cgroup"
  cat >"$cluster/init" <<E2
set -e
mount --make-rshared / # inside only: what is mounted here is not seen by the machine
for name in kubelet wherry cni; do mount --bind $state/\$name /var/lib/\$name && mount --make-rshared /var/lib/\$name; done
for folder in /run/containerd /run/netns /var/log/containers; do mount -t tmpfs tmpfs \$folder && mount --make-rshared \$folder; done
ip link set lo up
ip address add $service_ip/32 dev lo # the API server's service: no kube-proxy is needed
ip link add node0 type veth peer name node1
ip address add $node_ip/24 dev node0
ip link set node0 up
ip link set node1 up
ip route add default via $node_ip
echo 1 >/proc/sys/net/ipv4/ip_forward
touch $cluster/space-is-ready
trap 'exit 0' TERM
while :; do sleep 86400 & wait; done
E2
  rm -f "$cluster/space-is-ready"
  (exec setsid unshare --net --mount --pid --fork --mount-proc --kill-child bash "$cluster/init") >"$log/space.log" 2>&1 </dev/null &
  wait_for "the space" 10 test -e "$cluster/space-is-ready"
  # The first process of the space is the one of ours whose number there is 1.
  run_dir_processes | while read -r pid _; do
    ! grep -qsP "^NSpid:\t$pid\t1\$" "/proc/$pid/status" || echo "$pid" >"$cluster/init.pid"
  done
  space_is_up || die "the space has not started: see $log/space.log"
}

# Loop devices over device nodes of the kubelet: its lock on a block volume. Their file is seen in the space alone.
space_detach() {
  local name file
  inside losetup --list --noheadings --output NAME,BACK-FILE 2>/dev/null | while read -r name file; do
    [[ $file != /var/lib/kubelet/* ]] || losetup --detach "$name" || true
  done
}

# Ends everything and takes it away. Prints what would not go.
space_down() {
  local folder made
  made=$(tac "$cluster/made-folders" 2>/dev/null) || true
  if space_is_up; then
    # What it lets go of here it would take again.
    [ ! -e "$daemons/kubelet" ] || daemon_stop kubelet KILL
    space_detach
  fi
  run_dir_clean
  for folder in /sys/fs/cgroup/*/"$cgroup" "/sys/fs/cgroup/$cgroup"; do
    [ ! -d "$folder" ] || cgroup_remove "$folder" || printf 'warning: %s stays\n' "$folder" >&2
  done
  for folder in $made; do rmdir "$folder" 2>/dev/null || true; done
}

# What is left of a space that was taken away, each on a line of its own.
space_leftovers() {
  local folder
  run_dir_leftovers
  for folder in "$cluster" /sys/fs/cgroup/*/"$cgroup" "/sys/fs/cgroup/$cgroup"; do [ ! -d "$folder" ] || echo "folder $folder"; done
}

# A cgroup goes once its last process has been buried, which takes a moment.
cgroup_remove() {
  for _ in $(seq 50); do
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -d "$1" ] || return 0
    sleep 0.1
  done
  return 1
}

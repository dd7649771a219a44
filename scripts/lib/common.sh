# Shared by every script in scripts/: where things live, how lines look, and the run directory.
# Source it after `set -euo pipefail`. It changes to the top of the clone.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
script=$top/scripts/$(basename "$0")
cd "$top"

# Everything that is slow to make lives outside the clone, so that a fresh clone finds it again.
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/wherry
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
export PATH="$cache/tools/bin:$PATH:${HOME:-/root}/.cargo/bin"

headline() { printf '\n== %s\n' "$*"; }
say() { printf '   %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# strictly COMMAND...: runs it with `set -e` in force, which it is not behind `if`, `&&` or `||`; $status is how it ended.
# It is waited for, not run in front: only so does a signal end the script at once.
strictly() {
  set +e
  (set -e && "$@") &
  wait $!
  status=$?
  set -e
}

# Prints the comment block at the head of the script, without its first line and the leading "# ".
usage() { sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$script"; }

# run_dir_make NAME: a directory of its own for this run, taken away with all that belongs to it when the script ends.
# What a run starts carries WHERRY_RUN_DIR in its environment, and what it attaches or mounts lies beneath it: that is
# how leftovers are found. (`set -m`: what is started with `&` would ignore SIGINT otherwise, and so would what it tests.)
run_dir_make() {
  run_dir=$(mktemp -d "${WHERRY_SCRATCH:-${TMPDIR:-/var/tmp}}/wherry-$1.XXXXXX")
  chmod 711 "$run_dir" # tests that run as another user reach what was opened to them below
  export WHERRY_RUN_DIR=$run_dir
  set -m
  trap run_dir_clean EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# Mount points beneath the run directory, the newest first. Octal escapes are those of /proc/self/mountinfo.
run_dir_mounts() {
  local _a _b _c _d point rest points=()
  while read -r _a _b _c _d point rest; do
    printf -v point '%b' "$point"
    [[ $point == "$run_dir"/* ]] && points=("$point" "${points[@]}")
  done </proc/self/mountinfo
  [ ${#points[@]} -eq 0 ] || printf '%s\n' "${points[@]}"
}

# Loop devices whose backing file lies, or lay, beneath the run directory.
run_dir_loops() {
  local file backing
  for file in /sys/block/loop*/loop/backing_file; do
    { read -r backing <"$file"; } 2>/dev/null || continue
    [[ $backing == "$run_dir"/* ]] && printf '/dev/%s\n' "$(basename "${file%/loop/backing_file}")"
  done
  return 0
}

# Processes that the run started and that are still alive. `env -u` keeps the search from finding itself.
run_dir_processes() {
  local file pid
  env -u WHERRY_RUN_DIR grep -lsz "^WHERRY_RUN_DIR=$run_dir\$" /proc/[0-9]*/environ | while read -r file; do
    pid=${file#/proc/}
    pid=${pid%/environ}
    printf '%s %s\n' "$pid" "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | cut -c1-150)"
  done || true
}

# Names each leftover on a line of its own; prints nothing when there is none.
run_dir_leftovers() {
  local item
  while read -r item; do echo "mount $item"; done < <(run_dir_mounts)
  while read -r item; do echo "loop device $item"; done < <(run_dir_loops)
  while read -r item; do echo "process $item"; done < <(run_dir_processes)
}

# Mounts first, the newest first, then loop devices. A file system on a loop device over a file in a FUSE mount takes
# several rounds. With --lazy, mounts that are busy go too.
run_dir_detach() {
  local round item
  for round in 1 2 3; do
    [ -n "$(run_dir_mounts)$(run_dir_loops)" ] || break
    while read -r item; do umount ${1:+"$1"} "$item" 2>/dev/null || true; done < <(run_dir_mounts)
    while read -r item; do losetup -d "$item" 2>/dev/null || true; done < <(run_dir_loops)
  done
}

# Takes away whatever is left, and the run directory.
run_dir_clean() {
  [ -n "${run_dir:-}" ] || return 0
  local signal pid item
  run_dir_detach
  for signal in TERM KILL; do
    while read -r pid item; do kill "-$signal" "$pid" 2>/dev/null || true; done < <(run_dir_processes)
    for _ in $(seq 50); do
      [ -n "$(run_dir_processes)" ] || break
      sleep 0.1
    done
  done
  run_dir_detach
  run_dir_detach --lazy
  # A filesystem that was mounted in a mount namespace goes some time after the last process in it, and only then its loop device.
  for _ in $(seq 100); do
    [ -n "$(run_dir_loops)" ] || break
    sleep 0.2
    run_dir_detach
  done
  if [ -n "$(run_dir_mounts)$(run_dir_loops)" ]; then
    printf 'warning: %s stays, for this could not be taken away:\n%s\n' "$run_dir" "$(run_dir_leftovers)" >&2
    return 0
  fi
  rm -rf --one-file-system "$run_dir"
}

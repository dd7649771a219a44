# The test suites, several at once: most of the long ones wait for servers, the kernel or a clock more than they compute.
# Needs common.sh, `run_dir_make`, jq.

suites_at_once=3
declare -A suite_threads=([kube]=4) # its tests wait for an API server and for leases
suite_seconds=1800 # one that takes longer hangs; it must not take the whole run with it

# suites_run [FILTER...]: builds every test executable of the workspace and runs them, those first that took longest the
# last time. Prints a line for each that has ended, and all that those have printed which failed. Fails if one did.
suites_run() {
  local times=$cache/suite-seconds name exe manifest failed
  suites_dir=$run_dir/suites
  mkdir -p "$suites_dir"
  touch "$times" "$suites_dir/passed" "$suites_dir/seconds"
  suites_list >"$suites_dir/list"
  [ -s "$suites_dir/list" ] || die "cargo named no test executable"
  # Seconds of the last run first, the most on top; a suite without any is on top of those.
  awk -F'\t' -v OFS='\t' 'FILENAME == ARGV[1] { last[$1] = $2; next } { print ($1 in last ? last[$1] : 99999), $0 }' \
    "$times" "$suites_dir/list" | sort -rn | cut -f2- >"$suites_dir/plan"
  while IFS=$'\t' read -r name exe manifest; do
    while [ "$(jobs -rp | wc -l)" -ge "$suites_at_once" ]; do wait -n || true; done
    suite_run "$name" "$exe" "$manifest" "$@" &
  done <"$suites_dir/plan"
  wait
  # What was filtered says nothing of how long a suite takes.
  [ $# != 0 ] || cp "$suites_dir/seconds" "$times"
  failed=$(cut -f1 "$suites_dir/list" | grep -vxFf <(cut -f1 "$suites_dir/passed") || true)
  [ -z "$failed" ] || die "these suites failed:"$'\n'"$failed"
}

# One line for whoever only reads the end: how many tests there were, all suites together.
suites_count() {
  cat "$run_dir"/suites/*.log | awk '/^test result: / { passed += $4; failed += $6 } END { print passed + 0 " passed, " failed + 0 " failed" }'
}

# Name, path and manifest of every test executable, which cargo builds. The name says the kind where it is no suite of its own.
suites_list() {
  if ! cargo test --release --workspace --locked --no-run --message-format=json 2>"$suites_dir/cargo.log" >"$suites_dir/cargo.json"; then
    jq -r 'select(.reason == "compiler-message") | .message.rendered // empty' "$suites_dir/cargo.json" >&2
    cat "$suites_dir/cargo.log" >&2
    return 1
  fi
  jq -r 'select(.reason == "compiler-artifact" and .profile.test and .executable)
    | [(.target.name + if .target.kind == ["test"] then "" else " (" + .target.kind[0] + ")" end), .executable, .manifest_path]
    | @tsv' "$suites_dir/cargo.json"
}

# suite_run NAME EXECUTABLE MANIFEST [FILTER...]: as cargo would, in the folder of the manifest.
suite_run() {
  local name=$1 exe=$2 manifest=$3 log="$suites_dir/$1.log" start=$SECONDS result
  shift 3
  if (cd "$(dirname "$manifest")" && CARGO_MANIFEST_DIR=$PWD RUST_TEST_THREADS=${suite_threads[$name]:-${RUST_TEST_THREADS:-$(nproc)}} timeout --kill-after=30 "$suite_seconds" "$exe" "$@") >"$log" 2>&1; then
    printf '%s\n' "$name" >>"$suites_dir/passed"
    result=$(sed -n 's/^test result: //p' "$log" | sed 's/ 0 measured;//')
  else
    result="FAILED, exit code $?"
    printf '\n-- all that %s printed\n%s\n--\n' "$name" "$(cat "$log")"
  fi
  printf '%s\t%s\n' "$name" $((SECONDS - start)) >>"$suites_dir/seconds"
  say "$(printf '%5d s  %-24s %s' $((SECONDS - start)) "$name" "$result")"
}

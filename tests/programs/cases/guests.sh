# The small programs of tests/guests: each checks itself, and what it prints must be the native run's.
G=$GUESTS

test_hello() { same "$G/hello"; }
test_hello_arguments() { ENVIRONMENT="NAME=value EMPTY= PATH=/bin" same -s 42 "$G/hello" argument 42 "two words" ""; }
test_hello_static_pie() { same "$G/hello_pie"; }
test_cxx() { same "$G/cxx"; }
test_atomics() { same "$G/atomics" "$(scaled 100000 10000)"; }
test_soft_atomics() {
  for way in exclusive lse; do
    expect 0 '' "$RAMET" run --timeout "$LIMIT" "$G/atomics_$way" 10000
    says '64 bits: ok'
    expect 0 '' "$RAMET" run --timeout "$LIMIT" "$G/litmus_$way" 4096
  done
}
test_threads() { same "$G/threads" "$(scaled 500 20)"; }
test_signals() { same "$G/signals" "$DATA"; }
test_signals_sent() { same "$G/signals_sent"; }
test_unwind() { same "$G/unwind"; }
test_vector_state() { same "$G/vector_state"; }
test_memory() { same "$G/memory"; }
test_halfway() { same "$G/halfway" "$DATA"; }
test_touch_sequential() { same "$G/touch" sequential "$(scaled 256 32)"; }
test_touch_scattered() { same "$G/touch" scattered "$(scaled 256 32)"; }
# Of a heap that a fork shared, every second page, every fourth, every hundredth.
test_scattered_copies() {
  for stride in 2 4 128; do same -o "--memory 1G" "$G/scattered" "$(scaled 128 32)" $stride; done
}
test_files() { same "$G/files" "$DATA"; }
test_vanished_shrunk() { same "$G/vanished" "$DATA" shrunk; }
test_vanished_read_only() { same "$G/vanished" "$DATA" read_only; }
test_vanished_storm() { same "$G/vanished" "$DATA" storm "$(scaled 200 20)"; }
# Pages that the program has touched, of a file that another program of the host shrinks.
test_vanished_outside() {
  need_kvm
  fresh
  mkfifo "$WORK/in"
  "$RAMET" run --timeout "$LIMIT" --dir "$DATA" "$G/vanished" "$DATA" outside <"$WORK/in" >"$WORK/out" 2>"$WORK/err" &
  ramet=$!
  exec 3>"$WORK/in"
  while kill -0 $ramet 2>/dev/null && ! grep -qx mapped "$WORK/out"; do sleep 0.1; done
  : >"$DATA/vanished"
  exec 3>&-
  wait $ramet
  status=$?
  [ $status = 0 ] || { show "$WORK/out" "$WORK/err"; fail "status $status"; }
  says SIGBUS
}
test_mapped_files() { same "$G/mapped_files" "$DATA"; }
test_events() { same "$G/events"; }
test_ids() { same "$G/ids" "$DATA"; }
test_names() { same "$G/names" "$DATA"; }
test_credentials() { same "$G/credentials"; }
test_file_limit() { same "$G/file_limit" "$DATA"; }
test_locked() { same "$G/locked"; }
test_scheduling() { same "$G/scheduling"; }
test_proc_self() { same "$G/proc_self"; }
test_mincore() { same "$G/mincore" "$DATA"; }
test_file_owner() { same "$G/file_owner" "$DATA"; }
test_leases() { same "$G/leases" "$DATA"; }
test_futex() { same "$G/futex"; }
test_cputime() { same "$G/cputime"; }
# The guest's priority and affinity reach the host's thread that runs its code: the one that has used the most processor time.
test_cputime_priority() {
  [ "$(id -u)" = 0 ] || [ "${MACHINE:-kvm}" = process ] || skip "on KVM, guest code runs on a thread of the VMM's, which only root can give its priority back"
  fresh
  "$RAMET" run --timeout "$LIMIT" --dir "$DATA" "$G/cputime" show "$DATA/stop" >"$WORK/out" 2>"$WORK/err" </dev/null &
  ramet=$!
  while [ ! -s "$WORK/out" ] && kill -0 $ramet 2>/dev/null; do sleep 0.1; done
  sleep 1
  : >"$WORK/threads"
  for process in $ramet $(children_of $ramet); do
    for task in /proc/"$process"/task/*; do
      sed -n "s|.*) ||; s|\$|$task|p" "$task/stat" | while read -r line; do
        set -- $line
        echo "$((${12} + ${13})) ${17} $(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "$task/status")"
      done >>"$WORK/threads"
    done
  done
  touch "$DATA/stop"
  wait $ramet
  status=$?
  [ $status = 0 ] || { refused $status "$WORK/err"; show "$WORK/err"; fail "status $status"; }
  busiest=$(sort -n "$WORK/threads" | tail -n 1)
  [ "${busiest#* }" = "7 $(cat "$WORK/out")" ] || { cat "$WORK/threads"; fail "the busiest thread has not nice value 7 on processor $(cat "$WORK/out")"; }
}
test_system() { same -o "--dir $G" "$G/system"; }
test_sockets() { same "$G/sockets" "$DATA"; }
# A socket of the host's in a shared directory is a file to look at, no more.
test_sockets_of_the_host() {
  need_kvm
  fresh
  native "$G/sockets" listen "$DATA/host" >"$WORK/listener" &
  listener=$!
  while [ ! -S "$DATA/host" ]; do sleep 0.1; done
  expect 0 '' "$RAMET" run --dir "$DATA" "$G/sockets" refused "$DATA/host"
  says refused
  native "$G/sockets" knock "$DATA/host" && wait $listener || fail "the listener was not there"
}
test_rwx() { same "$G/rwx"; }
test_code_changes() { same "$G/code_changes"; }
# Not compared with a native run: the guest has nodes of memory that the host need not have.
test_nodes() {
  for how in eager lazy adaptive; do
    expect 0 '' "$RAMET" run --timeout "$LIMIT" --exec-sync $how --stat "$G/nodes" "$(scaled 50 5)"
    says 'threads: ok'
  done
}
test_code_changes_lazily() {
  expect 0 '' "$RAMET" run --timeout "$LIMIT" --exec-sync lazy "$G/code_changes"
  says 'code changes: ok'
}
# Code that changes without cache maintenance by the program. The VMM sees changes where a page is never writable and executable
# at once. Not compared with a native run: arm64's kernel need not do that.
test_code_changes_unsynced() { expect 0 '' "$RAMET" run --timeout "$LIMIT" "$G/code_changes" unsynced; says 'code changes: ok'; }
# Random instructions do what they do on another software CPU; what that one refuses, this one may have.
test_soft_instructions() {
  command -v qemu-aarch64-static >/dev/null || skip "qemu-user-static is not installed"
  for kind in "compute cortex-a57 20000" "atomic cortex-a76 5000"; do
    set -- $kind
    qemu-aarch64-static -cpu "$2" "$G/instructions" 1 "$3" "$1" >"$WORK/theirs" || fail "$2 ended with status $?"
    "$RAMET" run --timeout "$LIMIT" "$G/instructions" 1 "$3" "$1" >"$WORK/ours" || fail "$1: status $?"
    paste -d ' ' "$WORK/theirs" "$WORK/ours" >"$WORK/both"
    carried_out=$(grep -vc refused "$WORK/theirs")
    different=$(awk '$1 != $3 || ($2 != "refused" && $2 != $4)' "$WORK/both" | tee "$WORK/different" | wc -l)
    echo "$1: $carried_out carried out, $different of them otherwise"
    [ "$carried_out" -gt 4000 ] && [ "$different" = 0 ] || { head -n 20 "$WORK/different"; fail "$1"; }
  done
}
test_soft_tags() { expect 0 "" "$RAMET" run "$G/tags"; }
# Of arm64. A confined process cannot keep its code from what the host's processor has.
test_soft_hidden_features() {
  case ${MACHINE:-} in
    process) expect 0 "" "$RAMET" run "$G/hidden_features" ;;
    *) expect 0 "" "$RAMET" run "$G/hidden_features" absent ;;
  esac
}
test_litmus() { same "$G/litmus" "$(scaled 16384 4096)"; }
test_vdso() { same "$G/vdso"; }
# The time is read without an exit.
test_clock_without_exits() {
  need_kvm
  case $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource 2>&1) in
    tsc | kvm-clock | hyperv_clocksource_tsc_page) ;;
    *) skip "natively, too, the time takes a system call on this host" ;;
  esac
  for program in vdso musl_vdso; do
    on=$("$RAMET" run --timeout "$LIMIT" --stat "$G/$program" count 1000000 2>&1) || fail "$program: $on"
    exits=$(echo "$on" | counted exits)
    echo "$program: $exits exits"
    [ "${exits:-1000}" -lt 200 ] || { echo "$on"; fail "$program left guest code $exits times"; }
  done
}

test_musl_hello() { same "$G/musl_hello"; }
test_musl_threads() { same "$G/musl_threads" "$(scaled 500 20)"; }
test_musl_signals() { same "$G/musl_signals" "$DATA"; }
test_musl_signals_sent() { same "$G/musl_signals_sent"; }
test_musl_memory() { same "$G/musl_memory"; }
test_musl_mapped_files() { same "$G/musl_mapped_files" "$DATA"; }
test_musl_events() { same "$G/musl_events"; }
test_musl_futex() { same "$G/musl_futex"; }
test_musl_vector_state() { same "$G/musl_vector_state"; }
test_musl_vdso() { same "$G/musl_vdso"; }

# What they print with the techniques off must be the same.
test_without_huge_merge() {
  same -o "--without huge-merge" "$G/memory"
  same -o "--without huge-merge" "$G/touch" sequential 64
}

# What only the process machine has: a process of the host that may end by itself, or be ended.
on_process() { exec "${PROGRAM:-$RAMET}" run --machine process "$@"; }  # in the background: its id is $!
child_of() { for i in 1 2 3 4 5 6 7 8 9 10; do children_of "$1" | grep . && return; sleep 0.1; done; return 1; }

# Ended from outside, as the host does it when memory is short: one sentence, and ramet itself goes on to its end.
test_process_ended() {
  on_process --timeout "$LIMIT" "$BUSYBOX" sh -c "while :; do :; done" 2>"$WORK/err" &
  ramet=$!
  sleep 0.3
  child=$(child_of $ramet) || fail "there is no host process of the guest"
  kill -9 $child
  wait $ramet
  status=$?
  show "$WORK/err"
  [ $status = 125 ] && grep -q 'host process ended' "$WORK/err" || fail "status $status"
}
# However ramet ends, nothing of the guest is left.
test_process_left_behind() {
  on_process "$BUSYBOX" sleep 100 &
  ramet=$!
  sleep 0.3
  child=$(child_of $ramet) || fail "there is no host process of the guest"
  kill -9 $ramet
  wait $ramet
  for i in 1 2 3 4 5 6 7 8 9 10; do
    case $(cut -d" " -f3 "/proc/$child/stat" 2>/dev/null) in "" | Z | X) return 0 ;; esac  # gone, or only waited for by init
    sleep 0.2
  done
  fail "the guest's process $child is still there"
}
# ramet needs no more than any user has, nor a privilege that root could give up.
test_process_unprivileged() {
  command -v setpriv >/dev/null && [ "$(id -u)" = 0 ] || skip "only root, with setpriv, can give privileges up"
  for how in "--reuid 65534 --regid 65534 --clear-groups" "--no-new-privs --bounding-set=-all"; do
    # shellcheck disable=SC2086
    out=$(cd / && setpriv $how "${PROGRAM:-$RAMET}" run --machine process "$BUSYBOX" sh -c 'for i in 1 2 3; do (echo $i); done' 2>&1) &&
      [ "$out" = "1
2
3" ] || fail "setpriv $how: $out"
  done
}
# Pages that lose a permission, or get it back, stay mapped: a program that does that a thousand times does not fault a
# thousand times.
test_process_stays_mapped() {
  rounds=$(scaled 1000 300)
  for how in protect upgrade; do
    said=$(on_process --timeout "$LIMIT" --memory 256M --stat "$G/storm" $how 1 "$rounds" 2>&1 >"$WORK/out") || fail "$how: $said"
    fills=$(echo "$said" | counted fills)
    refills=$(echo "$said" | counted refills)
    echo "$how: $fills fills, $refills refills"
    [ "${fills:-$rounds}" -lt $((rounds / 2)) ] && [ "${refills:-0}" -ge "$rounds" ] || { echo "$said"; fail "$how: pages are not mapped any more"; }
  done
}
# Where only its first thread maps, everything is as before, and as often as before.
test_process_hardened() {
  fresh
  for program in "storm page_fault 4 16" "storm fault_while_unmapping 4 50" "storm protect 4 50" "storm remap 2 32" \
    "processes basics" "processes tree 2" gc threads memory vmsplice; do
    [ -e "$G/${program%% *}" ] || fail "there is no guest ${program%% *}"
    # shellcheck disable=SC2086
    for how in "" --hardened; do
      (on_process $how --timeout "$LIMIT" --dir "$DATA" "$G"/$program) >"$WORK/out$how" 2>"$WORK/err" </dev/null || { show "$WORK/err"; fail "$program $how"; }
    done
    cmp "$WORK/out" "$WORK/out--hardened" || fail "$program: not the same output"
  done
  for how in "" ", hardened"; do
    (on_process ${how:+--hardened} --stat "$BUSYBOX" true) 2>&1 | grep -q "(machine: process$how):" || fail "--stat does not name the machine"
  done
  "${PROGRAM:-$RAMET}" run --machine kvm --hardened "$BUSYBOX" true 2>"$WORK/err"
  [ $? = 125 ] && grep -q -- '--hardened' "$WORK/err" || fail "--hardened without the process machine: $(cat "$WORK/err")"
}
# Copies on write all over a large heap do not use up the mappings that a process may have: pages between those that were
# written are copied as well, and mapped in long runs.
test_process_scattered() {
  mebibytes=$(scaled 1024 64)
  said=$(on_process --timeout "$LIMIT" --memory 4G --stat "$G/scattered" "$mebibytes" 2 2>&1 >"$WORK/out") || fail "$said"
  says "$((mebibytes * 256)) pages"
  fills=$(echo "$said" | counted fills) evictions=$(echo "$said" | counted evictions)
  echo "$mebibytes MiB: $fills fills, $evictions evictions, $(echo "$said" | counted mappings) mappings"
  [ "${evictions:-1}" = 0 ] && [ "${fills:-$mebibytes}" -lt $((mebibytes * 256 / 3)) ] || { echo "$said"; fail "each copy is a mapping"; }
}
# As an ordinary user with few processes and descriptors: some twenty guest processes; then the guest is told, or ramet says it.
test_process_limits() {
  [ -z "${SANITIZED:-}" ] || skip "a sanitizer looks at memory through pipes, and looks for leaks in a process, of its own"
  command -v setpriv >/dev/null && command -v prlimit >/dev/null && [ "$(id -u)" = 0 ] || skip "needs root, setpriv and prlimit"
  user=$((60000 + $$ % 5000))  # whose processes are counted: of this run alone
  limited() {  # PROCESSES DESCRIPTORS PROGRAM...
    limits="--nproc=$1 --nofile=$2"
    shift 2
    # shellcheck disable=SC2086
    (cd / && exec prlimit $limits setpriv --reuid $user --regid $user --clear-groups "${PROGRAM:-$RAMET}" run --machine process "$@")
  }
  script='n=0; while [ $n -lt $0 ]; do (sleep $1) & n=$((n + 1)); done; wait; echo started $n'
  expect 0 '' limited 100 256 "$BUSYBOX" sh -c "$script" 15 2
  says "started 15"
  expect '1|2' 'fork' limited 100 256 "$BUSYBOX" sh -c "$script" 200 1000  # none ends meanwhile
  expect 125 '^ramet: ' limited 100 8 "$BUSYBOX" true
  expect 125 '^ramet: ' limited 2 256 "$BUSYBOX" true
  [ "$(wc -l <"$WORK/err")" = 1 ] || { show "$WORK/err"; fail "more than one sentence"; }
  # Too many processes: the same error as on Linux.
  expect '1|2' 'fork: Resource temporarily unavailable' limited 60 4096 "$BUSYBOX" sh -c "$script" 200 1000  # none ends meanwhile
}
# A guest process whose host process is stopped from outside, wherever it is, stalls no other of its family: the other one
# makes ten more steps, for which it has nine seconds.
silent() {
  fresh
  on_process --timeout "$LIMIT" --dir "$DATA" "$G/silent" "$1" "$DATA" >"$WORK/out" 2>"$WORK/err" </dev/null &
  ramet=$!
  while [ ! -s "$DATA/steps" ] && kill -0 $ramet 2>/dev/null; do sleep 0.1; done
  # Found by the nice value of a thread.
  one=
  while [ -z "$one" ] && kill -0 $ramet 2>/dev/null; do
    for child in $(children_of $ramet); do
      nice=$(sed -n 's/.*) //p' /proc/"$child"/task/*/stat 2>/dev/null | cut -d' ' -f17 | grep -x 5) && [ -n "$nice" ] && one=$child && break
    done
  done
  kill -STOP "$one" 2>/dev/null
  sleep 1
  before=$(cat "$DATA/steps")
  for i in $(seq 90); do
    sleep 0.1
    after=$(cat "$DATA/steps")
    [ $((after - before)) -lt 10 ] || break
  done
  kill -CONT "$one" 2>/dev/null
  touch "$DATA/stop"
  wait $ramet
  status=$?
  [ $status = 0 ] || { show "$WORK/out" "$WORK/err"; fail "$1: status $status"; }
  says "both ended"
  echo "$1: the other one made $((after - before)) steps meanwhile"
  [ $((after - before)) -ge 10 ] || fail "$1: the other one stands still"
}
test_process_silent_flush() { silent flush; }
test_process_silent_fork() { silent fork; }
test_process_silent_fill() { silent fill; }
test_process_silent_threads() { silent threads; }
test_process_silent_computes() { silent computes; }
test_process_silent_cuts() { silent cuts; }

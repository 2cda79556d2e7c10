# A guest that has taken its host process over: what it does then (tests/guests/attack*.c), and what is seen of it from outside.

HARDENED=
# attack CASE [ARGUMENT]: the guest itself checks the memory of the other processes of its family. Checked here: what ramet says
# of those that were ended, files that were not shared, descriptors, processes left behind. PAUSE: seconds between two looks.
attack() {
  fresh
  echo canary >"$WORK/canary"
  touch -a -d 2001-01-01 "$WORK/canary"
  seen=$(command stat -c '%x %y %s' "$WORK/canary")
  mkdir -p "$WORK/tmp"
  TMPDIR=$WORK/tmp on_process $HARDENED --memory 32M --timeout "$LIMIT" --dir "$DATA" "$GUESTS/attack" "$1" "$DATA" ${2:-} >"$WORK/out" 2>"$WORK/err" </dev/null &
  ramet=$!
  : >"$WORK/children"
  while kill -0 $ramet 2>/dev/null; do
    children_of $ramet >>"$WORK/children"
    # Before and after, the guest waits until we have looked.
    for when in before after; do
      [ -e "$DATA/$when" ] || continue
      [ $when = before ] || settle
      ls "/proc/$ramet/fd" | wc -l >"$WORK/$when"
      strangers
      rm "$DATA/$when"
    done
    sleep "${PAUSE:-0.05}"
  done
  wait $ramet
  status=$?
  [ $status = 0 ] || { show "$WORK/out" "$WORK/err"; fail "$1: status $status"; }
  says "the others: unchanged"
  cat "$WORK/out" "$WORK/err"
  # One sentence for each process that was ended, and nothing else.
  ended=$(sed -n 's/.* \([0-9]*\) broken.*/\1/p' "$WORK/out")
  [ "$(grep -c '^ramet: process [0-9]* was ended: ' "$WORK/err")" -le "$ended" ] && ! grep -qv '^ramet: process [0-9]* was ended: ' "$WORK/err" ||
    fail "$ended were ended, which is not what ramet said"
  [ "$(command stat -c '%x %y %s' "$WORK/canary")" = "$seen" ] || fail "a file outside of what is shared was opened"
  [ -z "$(ls -A "$WORK/tmp")" ] || fail "something is left in TMPDIR: $(ls "$WORK/tmp")"
  # Layers of processes that have ended are freed with a delay.
  [ "$(cat "$WORK/after")" -le $(($(cat "$WORK/before") + 8)) ] || fail "$(cat "$WORK/before") descriptors before, $(cat "$WORK/after") after"
  for i in 1 2 3 4 5 6 7 8 9 10; do
    left=
    for child in $(sort -u "$WORK/children"); do
      case $(readlink "/proc/$child/exe" 2>/dev/null) in /memfd:ramet-guest*) left="$left $child" ;; esac
    done
    [ -n "$left" ] || return 0
    sleep 0.2
  done
  fail "left behind:$left"
}
# Ended processes are taken apart while the guest goes on. Waits until as many descriptors are open as before.
settle() {
  for i in $(seq 50); do
    [ "$(ls "/proc/$ramet/fd" | wc -l)" -gt $(($(cat "$WORK/before") + 8)) ] || return 0
    sleep 0.2
  done
}
# No process of the guest has a descriptor of anything but memory, its socket and what is shared. Root can see it.
strangers() {
  for child in $(children_of $ramet); do
    for fd in /proc/"$child"/fd/*; do
      case $(readlink "$fd") in
        "" | /memfd:* | socket:* | "$DATA"/* | */attack*) ;;
        *) fail "process $child has $(readlink "$fd")" ;;
      esac
    done
  done
}

test_attack_calls() { attack calls; }
test_attack_hardened_calls() {
  HARDENED=--hardened
  attack hardened_calls
}
test_attack_files() { attack files; }
# JUMPS=1: to every byte.
test_attack_jumps() { attack jumps "${JUMPS:-29}"; }
test_attack_frames() { attack frames; }
test_attack_never_answers() { attack never_answers; }
test_attack_contexts() { attack contexts; }
test_attack_hidden_answers() { attack hidden_answers; }
test_attack_descriptors() { attack descriptors; }
test_attack_full_of_mappings() { attack full_of_mappings; }
test_attack_full_of_descriptors() { attack full_of_descriptors; }
test_attack_ends() { attack ends; }
test_attack_stops() { attack stops; }
test_attack_signal_stack() { attack signal_stack; }
test_attack_key() { attack key; }
test_attack_far32() { attack far32; }
test_attack_before_fork() { attack before_fork; }
test_attack_before_exec() { attack before_exec; }

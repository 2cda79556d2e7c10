# A hostile guest calls everything with nonsense; the VMM must outlive it. The seed is printed to repeat it.
data_for_wild() {
  need_kvm
  seed=${SEED:-$(date +%s)}
  echo "seed $seed (repeat with SEED=$seed)"
  fresh
  mkdir -p "$DATA/sub"
  echo content >"$DATA/file"
}

# outlives COMMAND...: it ends with status 0, and no sanitizer speaks.
outlives() {
  # Output goes into pipes, as a call could make a file terabytes long. Keeps our lines of the megabytes that calls write there.
  { "$@" </dev/null 2>&1 >/dev/null
    echo $? >"$WORK/status"
  } | tr -s '\0' '\n' | grep -aoE '^(wild|ramet):.{0,200}|^ .{0,30} exits|.{0,80}(Sanitizer|runtime error).{0,200}' >"$WORK/err"
  head -n 20 "$WORK/err"
  grep -qaE 'Sanitizer|runtime error' "$WORK/err" && fail "a sanitizer spoke"
  [ "$(cat "$WORK/status")" = 0 ] || fail "status $(cat "$WORK/status"): it did not get to its end"
}

wild() {  # wild MODE CALLS [FIRST LAST]; MODE may be empty
  mode=$1
  shift
  data_for_wild
  outlives "$RAMET" run --timeout "$LIMIT" --memory 64M --stat --dir "$DATA:/data" "$GUESTS/wild" $mode "$seed" "$@"
}

test_wild_calls() { wild '' "$(scaled 40000 5000)"; }
test_wild_memory_calls() { wild '' "$(scaled 40000 2000)" $(by_isa "9 28" "213 238"); }
test_wild_file_calls() { wild '' "$(scaled 40000 2000)" $(by_isa "257 269" "33 56"); }
test_wild_extreme() { wild extreme "$(scaled 3200 1600)"; }
test_wild_inherited() { wild inherited "$(scaled 1000 500)"; }

test_wild_after_snapshot() {
  data_for_wild
  "$RAMET" snapshot save --timeout "$LIMIT" --memory 64M --dir "$DATA:/data" --when ready -o "$WORK/ready.snap" \
    "$GUESTS/wild" inherited "$seed" "$(scaled 600 300)" </dev/null >"$WORK/out" 2>"$WORK/err" ||
    { show "$WORK/err"; fail "save"; }
  outlives "$RAMET" snapshot run --timeout "$LIMIT" --stat --dir "$DATA:/data" "$WORK/ready.snap"
}

# held MODE CALLS: KiB of memory that the VMM has for itself when the guest has made its calls, in $held. Guest memory, the one
# kind of mapping that is left out of core dumps ("dd"), is bounded by --memory: how much of it has been touched is not asked.
held() {
  data_for_wild
  rm -f "$WORK/in" "$WORK/out"
  mkfifo "$WORK/in" "$WORK/out"
  "$RAMET" run --timeout "$LIMIT" --memory 64M --dir "$DATA:/data" "$GUESTS/wild" $1 "$seed" "$2" \
    <"$WORK/in" >"$WORK/out" 2>/dev/null &
  ramet=$!
  exec 3>"$WORK/in"
  grep -qa 'survived' "$WORK/out" || fail "it did not get to its end"
  held=$(awk '/^Anonymous:/ { kib = $2 } /^VmFlags:/ && !/ dd( |$)/ { sum += kib } END { print sum + 0 }' "/proc/$ramet/smaps")
  exec 3>&-
  wait $ramet
  status=$?
  [ $status = 0 ] || fail "status $status"
  echo "wild $*: $held KiB"
  [ "$held" -gt 0 ] || fail "nobody could look at the VMM"
}

# The VMM's memory does not grow with the number of calls. It may take some MiB more: an allocator's arena for each CPU, each as
# large as the most that it ever held.
test_wild_growth() {
  [ -z "${SANITIZED:-}" ] || skip "a sanitizer keeps what was freed"
  : "${SEED:=$(date +%s)}"
  for pair in :5000 extreme:800 inherited:500; do
    few=${pair#*:}
    held "${pair%:*}" "$few"
    before=$held
    held "${pair%:*}" $((few * 4))
    [ "$held" -le $((before + 4096)) ] || fail "it grew from $before to $held KiB"
  done
}

# A hostile guest calls everything with nonsense; the VMM must outlive it. The seed is printed to repeat it.
wild() {  # wild CALLS [FIRST LAST]
  seed=${SEED:-$(date +%s)}
  echo "seed $seed (repeat with SEED=$seed)"
  fresh
  mkdir -p "$DATA/sub"
  echo content >"$DATA/file"
  "$RAMET" run --timeout "$LIMIT" --memory 64M --stat --dir "$DATA:/data" "$GUESTS/wild" "$seed" "$@" \
    </dev/null >"$WORK/out" 2>"$WORK/err"
  status=$?
  # Among megabytes that the calls wrote there, lines without an end included.
  cut -c1-200 "$WORK/err" | grep -aE '^(wild|ramet):| exits' | head -n 20
  grep -qaE 'Sanitizer|runtime error' "$WORK/err" && fail "a sanitizer spoke"
  [ $status = 0 ] || fail "status $status: it did not get to its end"
}

test_wild_calls() { wild "$(scaled 40000 5000)"; }
test_wild_memory_calls() { wild "$(scaled 40000 2000)" 9 28; }
test_wild_file_calls() { wild "$(scaled 40000 2000)" 257 269; }

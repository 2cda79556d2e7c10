# A hostile guest calls everything with nonsense; the VMM must outlive it. The seed is printed to repeat it.
wild() {  # wild CALLS [FIRST LAST]
  need_kvm
  seed=${SEED:-$(date +%s)}
  echo "seed $seed (repeat with SEED=$seed)"
  fresh
  mkdir -p "$DATA/sub"
  echo content >"$DATA/file"
  # Into pipes: a call would make terabytes of a file. Of the megabytes that the calls write there, our lines.
  { "$RAMET" run --timeout "$LIMIT" --memory 64M --stat --dir "$DATA:/data" "$GUESTS/wild" "$seed" "$@" \
      </dev/null 2>&1 >/dev/null
    echo $? >"$WORK/status"
  } | tr -s '\0' '\n' | grep -aoE '^(wild|ramet):.{0,200}|^ .{0,30} exits|.{0,80}(Sanitizer|runtime error).{0,200}' >"$WORK/err"
  head -n 20 "$WORK/err"
  grep -qaE 'Sanitizer|runtime error' "$WORK/err" && fail "a sanitizer spoke"
  [ "$(cat "$WORK/status")" = 0 ] || fail "status $(cat "$WORK/status"): it did not get to its end"
}

test_wild_calls() { wild "$(scaled 40000 5000)"; }
test_wild_memory_calls() { wild "$(scaled 40000 2000)" 9 28; }
test_wild_file_calls() { wild "$(scaled 40000 2000)" 257 269; }

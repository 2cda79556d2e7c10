# What pins a guest's memory: io_uring (see guests/uring.c), gup_test, vmsplice.
uring() { same "$GUESTS/uring" "$1" "$DATA"; }

test_uring_transfers() { uring transfers; }
test_uring_limited() { uring limited; }
test_uring_fixed_buffers() { uring fixed_buffers; }
test_uring_fixed_files() { uring fixed_files; }
test_uring_links() { uring links; }
test_uring_timeouts() { uring timeouts; }
test_uring_polls() { uring polls; }
test_uring_overflow() { uring overflow; }
test_uring_completions_without_calls() { uring completions_without_calls; }
test_uring_descriptor() { uring descriptor; }
test_uring_events() { uring events; }
test_uring_interrupted() { uring interrupted; }
test_uring_refused() { uring refused; }
test_uring_probes() { uring probes; }
test_uring_threads() { uring threads; }
test_uring_end_in_flight() { uring end_in_flight; }
test_uring_rings_in_entries() { uring rings_in_entries; }

test_gup_test() { same "$GUESTS/gup_test"; }
test_vmsplice() { same "$GUESTS/vmsplice"; }
test_pinned_fork() { same "$GUESTS/pinned_fork" "$(scaled 200 10)" "$DATA"; }
# Pins, forks and the rest in any order; tests/README.md says how to run it with 100,000 forks.
test_pin_storm() {
  seed=${SEED:-$(date +%s)}
  echo "seed $seed (repeat with SEED=$seed)"
  same "$GUESTS/pin_storm" "$seed" "$(scaled 600 20)" "$DATA"
}

# What the technique is for: without it the parent loses what the device writes, and the child is shown it. With it, as
# on Linux, neither.
test_pinned_damage() {
  same "$GUESTS/pinned_damage" "$DATA"
  fresh
  expect 0 '' "$RAMET" run --without pinned-cow --dir "$DATA" "$GUESTS/pinned_damage" "$DATA"
  says "read_fixed: the parent lost 65536 bytes, the child saw 65536"
  says "long-term pin: the device missed 16 of 16 stores, the child's are 0"
}

# Queues full of nonsense. The entries write to standard output, too: only our own lines of it are kept.
test_uring_wild() {
  need_kvm
  seed=${SEED:-$(date +%s)}
  echo "seed $seed (repeat with SEED=$seed)"
  fresh
  rounds=$(scaled 30000 2000)
  { "$RAMET" run --timeout "$LIMIT" --memory 64M --stat --dir "$DATA" "$GUESTS/uring_wild" "$seed" "$rounds" "$DATA" \
      </dev/null 2>&1 >/dev/null
    echo $? >"$WORK/status"
  } | tr -s '\0' '\n' | tee "$WORK/all" | grep -aoE '^ramet:.{0,200}|uring_wild.{0,200}|^ .{0,30} (exits|uring:).{0,20}|'\
'.{0,80}(Sanitizer|runtime error).{0,200}' >"$WORK/err"
  head -n 20 "$WORK/err"
  grep -qaE 'Sanitizer|runtime error' "$WORK/err" && fail "a sanitizer spoke"
  [ "$(cat "$WORK/status")" = 0 ] || {
    tail -c 1000 "$WORK/all" | tr -cd '[:print:]\n'
    fail "status $(cat "$WORK/status"): it did not get to its end"
  }
}

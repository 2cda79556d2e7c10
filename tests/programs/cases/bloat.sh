# What a guest can make the VMM keep is refused at the guest's limit. The VMM's resident set stays below that limit plus a fixed
# allowance while the guest holds all that it was given. See guests/bloat.c.

# bloat CASE TOLD [MEMORY-MiB]
bloat() {
  need_kvm
  fresh
  memory=${3:-64}
  mkfifo "$WORK/go"
  "$RAMET" run --memory "${memory}M" --timeout "$LIMIT" --json "$WORK/report.json" "$GUESTS/bloat" "$1" \
    <"$WORK/go" >"$WORK/out" 2>"$WORK/err" &
  ramet=$!
  exec 3>"$WORK/go"
  while kill -0 $ramet 2>/dev/null && ! grep -qx full "$WORK/out"; do sleep 0.1; done
  grep -qx full "$WORK/out" || { wait $ramet; status=$?; show "$WORK/out" "$WORK/err"; fail "ended before it was full, status $status"; }
  peak=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB$/\1/p' /proc/$ramet/status)
  echo >&3
  exec 3>&-
  wait $ramet || { show "$WORK/out" "$WORK/err"; fail "status $?"; }
  says "$1: $2"
  says "works on"
  allowance=$((ALLOWANCE + memory))
  echo "at most ${peak} KiB resident, of $allowance MiB"
  [ "${peak:-0}" -gt 0 ] && [ "$peak" -lt $((allowance * 1024)) ] || fail "the VMM took $peak KiB"
  sed -n '/held/p' "$WORK/report.json"
}
# The program itself with its tables, and what sanitizers add.
ALLOWANCE=$([ -z "${SANITIZED:-}" ] && [ "${MACHINE:-kvm}" = kvm ] && echo 48 || echo 700)

test_bloat_requests() { bloat requests ENOMEM; }
test_bloat_buffers_in_flight() { bloat buffers_in_flight ENOMEM; }
test_bloat_workers() { bloat workers ENOMEM; }
test_bloat_registered() { bloat registered ENOMEM; }
test_bloat_rings() { bloat rings ENOMEM; }
test_bloat_buffers() { bloat buffers 0; }
test_bloat_pipes() { bloat pipes ENFILE; }
test_bloat_large_pipes() { bloat large_pipes EPERM; }
test_bloat_sockets() { bloat sockets ENFILE; }
test_bloat_watches() { bloat watches ENOSPC 8; }
test_bloat_locks() { bloat locks ENOLCK 8; }
test_bloat_mappings() { bloat mappings ENOMEM; }

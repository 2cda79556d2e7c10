# What must be refused or reported, with its message and status.
G=$GUESTS
run() { "$RAMET" run --timeout 60s "$@"; }

test_bad_program_missing() { expect 127 'nowhere.*(not found|no such file|does not exist)' run "$G/nowhere"; }
test_bad_program_not_executable() {
  cp "$G/hello" "$WORK/hello"
  chmod 644 "$WORK/hello"
  expect 126 'ramet: .*hello' run "$WORK/hello"
  expect 126 'ramet: ' run "$WORK"
}
test_bad_program_text() {
  echo "echo no ELF file" >"$WORK/text"
  chmod 755 "$WORK/text"
  expect 126 'ELF' run "$WORK/text"
  : >"$WORK/text"
  expect 126 'ramet: ' run "$WORK/text"
}
test_bad_interpreter_not_shared() { expect 126 'ld-linux-x86-64\.so\.2.*--(root|dir)' run "$G/hello_dynamic"; }
test_bad_architecture() { expect 126 '(arm64|aarch64|AArch64)' run "$G/arm64/hello"; }
test_bad_truncated() {
  for size in 1 20 63 64 100 500 4096 40000; do
    head -c $size "$G/hello" >"$WORK/short"
    chmod 755 "$WORK/short"
    expect 126 'ramet: .*short' run "$WORK/short"
  done
}

# patch OFFSET BYTES...: bytes in octal
patch() {
  offset=$1
  shift
  # shellcheck disable=SC2059
  printf "$(printf '\\%s' "$@")" | dd of="$WORK/patched" bs=1 seek="$offset" conv=notrunc 2>/dev/null
}
malformed() {  # malformed WHAT OFFSET BYTES...
  cp "$G/hello" "$WORK/patched"
  what=$1
  shift
  patch "$@"
  echo "$what:"
  expect 126 'ramet: .*patched' run "$WORK/patched"
}
test_bad_malformed() {
  malformed "32-bit class" 4 001
  malformed "big-endian" 5 002
  malformed "a relocatable object" 16 001
  malformed "program headers far outside" 32 377 377 377 377 377 377 377 177
  malformed "program headers of a wrong size" 54 001 000
  malformed "no program headers" 56 000 000
  malformed "too many program headers" 56 377 377
}
# Any byte of the headers may be wrong: the program may run, fail or be refused, but never without a word.
test_bad_headers_random() {
  need_kvm
  state=${SEED:-1}
  echo "seed $state"
  i=0
  while [ $i -lt "$(scaled 150 20)" ]; do
    cp "$G/musl_hello" "$WORK/patched"
    flips=$((i % 4 + 1))
    while [ $flips -gt 0 ]; do
      state=$(((state * 1103515245 + 12345) % 2147483648))
      patch $((state / 65536 % 512)) "$(printf %03o $((state / 256 % 256)))"
      flips=$((flips - 1))
    done
    "$RAMET" run --timeout 2s "$WORK/patched" </dev/null >"$WORK/out" 2>"$WORK/err"
    status=$?
    if [ $status -ge 124 ] && ! grep -q '^ramet: ' "$WORK/err"; then
      show "$WORK/out" "$WORK/err"
      fail "case $i: status $status without a message"
    fi
    grep -qE 'Sanitizer|runtime error' "$WORK/err" && { show "$WORK/err"; fail "case $i: a sanitizer spoke"; }
    i=$((i + 1))
  done
  echo "$i damaged programs"
}

test_bad_no_kvm() {
  [ "$(id -u)" = 0 ] || skip "hiding /dev/kvm needs root"
  unshare -m true 2>/dev/null || skip "no mount namespaces here"
  hidden() { unshare -m sh -c 'mount -t tmpfs none /dev && exec "$@"' sh "${PROGRAM:-$RAMET}" run "$@"; }
  expect 125 '/dev/kvm.*--machine process' hidden --machine kvm "$G/hello"
  expect 0 '' hidden "$G/hello"
  says hello
  [ ! -s "$WORK/err" ] || { show "$WORK/err"; fail "something is said of a device that is not there"; }
}
test_bad_no_permission() {
  [ "$(id -u)" = 0 ] || skip "giving up permission needs root"
  unshare -m true 2>/dev/null || skip "no mount namespaces here"
  setpriv --reuid 0 true 2>/dev/null || skip "no setpriv that changes users"
  cp "${PROGRAM:-$RAMET}" "$G/hello" "$WORK/"
  program=$WORK/$(basename "${PROGRAM:-$RAMET}")
  chmod 755 "$program"
  forbidden() {
    unshare -m sh -c 'mount -t tmpfs none /dev && mknod /dev/kvm c 10 232 && chmod 600 /dev/kvm && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"' \
      sh "$program" run "$@"
  }
  expect 125 '/dev/kvm.*([Pp]ermission|group)' forbidden --machine kvm "$WORK/hello"
  expect 0 '^ramet: .*/dev/kvm.*([Pp]ermission|group).*confined process' forbidden "$WORK/hello"
  says hello
  [ "$(wc -l <"$WORK/err")" = 1 ] || fail "more than a sentence"
}

test_bad_memory() {
  expect 3 '' run --memory 32M "$G/crash" map 100  # at once: mmap refuses
  says ENOMEM
  expect 137 'ramet: .*memory' run --memory 32M "$G/crash" fill 100  # bit by bit: Linux would kill it, too
  says started
  expect 0 '' run --memory 32M "$G/crash" fill 16
  says "got it all"
}
test_fatal_signals() {
  expect 139 'SIGSEGV|signal 11|segmentation' run "$G/crash" null
  expect 139 '123456789000' run "$G/crash" jump
  expect 139 'ramet: ' run "$G/crash" readonly
  expect 139 'ramet: .*stack' run "$G/crash" stack
  expect 139 'ramet: ' run "$G/crash" thread
  expect 139 'ramet: ' run "$G/crash" handler
  expect '139|132' 'ramet: ' run "$G/crash" triple  # some hosts make #UD of an INT n that ring 3 may not use
  expect 132 'ramet: ' run "$G/crash" ill
  expect 136 'ramet: ' run "$G/crash" fpe
  expect 134 '' run "$G/crash" abort
  expect 143 '' run "$G/crash" kill 15
  expect 137 '' run "$G/crash" kill 9
  says started
}
test_exit_status() {
  expect 0 '' run "$G/crash" exit 0
  expect 255 '' run "$G/crash" exit 255
  expect 44 '' run "$G/crash" exit 300
}
test_timeout() {
  expect 124 'ramet: .*(time|1s|0\.5)' "$RAMET" run --timeout 500ms "$G/crash" spin
  expect 124 'ramet: ' "$RAMET" run --timeout 500ms "$G/crash" sleep
  expect 124 'ramet: ' "$RAMET" run --timeout 500ms "$G/crash" spinners
}
test_unknown_call_is_counted() {
  expect 0 'not-served:quotactl' run --stat "$G/crash" call "$(by_isa 179 60)"
  says "-1 Function not implemented"
}
test_wx_deny() {
  expect 1 '' run --wx deny "$G/rwx"
  says "refused: Permission denied"
}
test_no_way_out() {
  fresh
  expect 0 '' run --dir "$DATA:/data" "$G/escape" /data
  [ -z "$(find "$DATA" -newer "$G/escape" -name escaped)" ] && [ ! -e /tmp/escaped ] || fail "something was made outside"
}
test_read_only_share() {
  fresh
  echo kept >"$DATA/file"
  expect 1 'Read-only|not so' run --dir "$DATA:/data:ro" "$G/files" /data
  [ "$(ls "$DATA")" = file ] || fail "a read-only share was written"
}

test_cli_misuse() {
  expect 125 'ramet: ' "$RAMET"
  expect 125 'ramet: ' "$RAMET" fly
  expect 125 'PROGRAM' "$RAMET" run
  expect 125 'ramet: ' "$RAMET" run --no-such-option "$G/hello"
  expect 125 'memory' "$RAMET" run --memory lots "$G/hello"
  expect 125 'memory' "$RAMET" run --memory 1M "$G/hello"
  expect 125 'timeout' "$RAMET" run --timeout never "$G/hello"
  expect 125 'env' "$RAMET" run --env NAME "$G/hello"
  expect 125 'machine' "${PROGRAM:-$RAMET}" run --machine vax "$G/hello"
  expect 125 'without' "$RAMET" run --without everything "$G/hello"
  expect '126|125' 'arm64' "${PROGRAM:-$RAMET}" run --machine soft "$G/hello"
}
test_cli_no_such_directory() {
  expect 125 'nowhere' "$RAMET" run --dir /nowhere:/data "$G/hello"
  expect 125 'nowhere' "$RAMET" run --root /nowhere "$G/hello"
}
test_cli_help() {
  for level in "" doctor run inspect; do
    # shellcheck disable=SC2086
    "$RAMET" $level --help >"$WORK/out" 2>&1 || fail "--help of '$level'"
    grep -q -- --help "$WORK/out" || fail "no help for '$level'"
  done
}
# By what doctor tries, a KVM is there just where the tests take one to be there: none is skipped where there is one.
test_doctor() {
  why=$("$GUESTS/../host_kvm")
  case $? in
    0) ;;
    77)
      echo "$why"
      expect 0 '' "$RAMET" doctor --json "$WORK/doctor.json"
      cat "$WORK/out"
      grep -q '^lack KVM ' "$WORK/out" && grep -q '^ *-> .*/dev/kvm' "$WORK/out" || fail "doctor does not say what is missing"
      grep -q '"name"' "$WORK/doctor.json" || fail "no JSON"
      grep -q '^ok   confined process ' "$WORK/out" || fail "doctor does not say that guests run without it"
      expect 0 '' "${PROGRAM:-$RAMET}" run "$G/hello"
      says hello
      return
      ;;
    *) fail "host_kvm: $why" ;;
  esac
  expect 0 '' "$RAMET" doctor --json "$WORK/doctor.json"
  cat "$WORK/out"
  grep -qi syscall "$WORK/out" || fail "doctor says nothing of SYSCALL"
  grep -q '"name"' "$WORK/doctor.json" || fail "no JSON"
}
test_stat_and_json() {
  expect 0 'exits:syscall' run --stat --json "$WORK/r.json" "$G/cxx"
  for name in exits exits:page-fault frames:4K frames:2M frames:table threads; do
    grep -q -- " $name" "$WORK/err" || fail "--stat does not show $name"
  done
  for name in '"exits"' '"frames"' '"status": 0' '"calls"'; do
    grep -q -- "$name" "$WORK/r.json" || fail "--json does not have $name"
  done
}

# `ramet bpf`: eBPF functions as guests. Its own object is that of tests/bpf.
bpf_object() { need "${B:=${TWINS:-$GUESTS}/../bpf/functions.o}"; }
# shows PATTERN: the command that expect ran last printed such a line.
shows() { grep -qE -e "$1" "$WORK/out" || { show "$WORK/out"; fail "no line like '$1'"; }; }
# bpf STATUS OUTPUT ARG...: what is printed must be OUTPUT, whole.
bpf() {
  want=$1 printed=$2
  shift 2
  expect "$want" '' "$RAMET" bpf run --timeout "$LIMIT" "$@"
  [ "$(cat "$WORK/out")" = "$printed" ] || { show "$WORK/out" "$WORK/err"; fail "bpf run $*: not $printed"; }
}

test_bpf_run() {
  bpf_object
  bpf 0 0xff --raw b7000000ff0000009500000000000000
  printf 'b7 00 00 00\nff ff ff ff 95 00 00 00 00 00 00 00\n' >"$WORK/hex"
  bpf 0 0xffffffffffffffff --raw "@$WORK/hex"
  bpf 0 0xa --section call/sum --input-hex 01020304 --output "$WORK/back" "$B"
  [ "$(od -An -tx1 "$WORK/back" | tr -d ' \n')" = fefdfcfb ] || fail "the input did not come back"
  printf '\001\002\003' >"$WORK/input"
  bpf 0 0x6 --section call/sum --input "$WORK/input" "$B"
  bpf 0 0x17 --section call/trace "$B"
  grep -qx -- '-5 is text, 123456789ab' "$WORK/err" || { show "$WORK/err"; fail "nothing was traced"; }
  expect 0 '' "$RAMET" bpf run --section call/time "$B"
  expect 0 '' "$RAMET" bpf bench --calls 100 --section call/random "$B"
  shows 'a call in a batch of 100'
  [ "${MACHINE:-kvm}" != soft ] || shows 'arm64, machine: soft'
}

test_bpf_ends() {
  bpf_object
  bpf 139 '' --raw b70100003412000079100000000000009500000000000000
  grep -q 'SIGSEGV in raw at instruction 1: a load from address 0x1234' "$WORK/err" || { show "$WORK/err"; fail "not where"; }
  expect 124 '' "$RAMET" bpf run --timeout 2s --section call/loop "$B"
  grep -q 'stopped in loop at instruction' "$WORK/err" || { show "$WORK/err"; fail "not where"; }
}

test_bad_bpf() {
  bpf_object
  bad_bpf() {
    status=$1 says=$2
    shift 2
    expect "$status" '' "$RAMET" bpf "$@"
    grep -q "^ramet: .*$says" "$WORK/err" || { show "$WORK/err"; fail "bpf $*: not a word of $says"; }
    [ "$(wc -l <"$WORK/err")" = 1 ] || { show "$WORK/err"; fail "bpf $*: not one sentence"; }
  }
  bad_bpf 125 'needs an OBJECT.o' run
  bad_bpf 125 'is no byte' run --raw 9z
  bad_bpf 125 'odd number' run --raw 950
  bad_bpf 126 'instructions have 8 each' run --raw 9500
  bad_bpf 126 'instruction 0' run --raw ff00000000000000
  bad_bpf 126 'instruction 0.*falls off' run --raw b700000001000000
  bad_bpf 126 'instruction 0' run --raw 85000000ffff00009500000000000000
  bad_bpf 127 'No such file' run "$WORK/nothing.o"
  bad_bpf 127 'No such file' run --raw "@$WORK/nothing"
  bad_bpf 126 'no program in a section' run --section nowhere "$B"
  head -c 300 "$B" >"$WORK/cut.o"
  bad_bpf 126 'cut.o' run "$WORK/cut.o"
  bad_bpf 125 'two inputs' run --input "$B" --input-hex 00 "$B"
}

test_cli_bpf_disasm() {
  bpf_object
  expect 0 '' "$RAMET" bpf disasm --section call/sum "$B"
  shows 'x86-64: '
  shows 'arm64: '
  shows ' ldrb '
  expect 0 '' "$RAMET" bpf disasm --arch x86-64 --raw b7000000ff0000009500000000000000
  shows 'mov .*eax, 0xff'
}

test_cli_bench() {
  expect 0 '' "$RAMET" bench list
  shows '^exec-migration '
  expect 0 '' "$RAMET" bench exec-migration --quick --json "$WORK/tables" --html "$WORK/page"
  shows 'lazy pays up to N/M'
  shows '^ *hot-plug 4 KiB .* lazy$'
  shows '^ *numa .* eager$'
  grep -q '"columns"' "$WORK/tables" && grep -q '<polyline' "$WORK/page" || fail "no files"
  expect 125 '' "$RAMET" bench nothing
}

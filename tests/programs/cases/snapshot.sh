# Programs that are saved to a file and continued from it.
G=$GUESTS
BUSYBOX=/bin/busybox
PYTHON=/usr/bin/python3
SNAP=$WORK/program.snap
INPUT='one
two
'

# resumes [-s STATUS] [-o "RAMET OPTIONS"] [-w WHEN] [-c] PROGRAM [ARG...]
# What the program prints when it is saved, and then when it is continued with INPUT, is together what it prints
# natively; and so are its status and its folder.
resumes() {
  want=0 options= when=first-read compress=
  while :; do
    case $1 in
      -s) want=$2; shift 2 ;;
      -o) options=$2; shift 2 ;;
      -w) when=$2; shift 2 ;;
      -c) compress=--compress; shift ;;
      *) break ;;
    esac
  done
  printf %s "$INPUT" >"$WORK/input"
  fresh
  native "$@" <"$WORK/input" >"$WORK/native.out" 2>"$WORK/native.err"
  status=$?
  [ $status = "$want" ] || { show "$WORK/native.out" "$WORK/native.err"; fail "native: status $status, not $want"; }
  rm -rf "$WORK/native"
  mv "$DATA" "$WORK/native"
  fresh
  # shellcheck disable=SC2086
  "$RAMET" snapshot save --timeout "$LIMIT" --dir "$DATA" $options $compress --when "$when" -o "$SNAP" "$@" \
    <"$WORK/input" >"$WORK/guest.out" 2>"$WORK/guest.err"
  status=$?
  [ $status = 0 ] || { refused $status "$WORK/guest.err"; show "$WORK/guest.out" "$WORK/guest.err"; fail "save: status $status"; }
  "$RAMET" snapshot verify "$SNAP" || fail "verify"
  "$RAMET" snapshot info "$SNAP" >"$WORK/info" || fail "info"
  # shellcheck disable=SC2086
  "$RAMET" snapshot run --timeout "$LIMIT" --dir "$DATA" $options "$SNAP" <"$WORK/input" >>"$WORK/guest.out" 2>>"$WORK/guest.err"
  status=$?
  [ $status = "$want" ] || { show "$WORK/guest.out" "$WORK/guest.err"; fail "run: status $status, not $want"; }
  cmp "$WORK/native.out" "$WORK/guest.out" || { show "$WORK/native.out" "$WORK/guest.out"; fail "the outputs differ"; }
  diff -r "$WORK/native" "$DATA" >"$WORK/difference" 2>&1 || { show "$WORK/difference"; fail "the folders differ"; }
  echo "resumes: $(basename "$1"), $(wc -c <"$WORK/guest.out") bytes of output, status $status"
}

test_snapshot_everything() {
  SETUP='seq 1 9000 | head -c 40000 >read'
  resumes -s 5 "$G/resume" "$DATA"
  resumes -s 5 -c "$G/resume" "$DATA"
}
# The machine is chosen by the program, where none is named.
test_soft_snapshot_chosen() {
  expect 0 '' "$PROGRAM" snapshot save --timeout "$LIMIT" --when exit-hook -o "$WORK/file" "$G/resume" hook
  expect 0 '' "$PROGRAM" snapshot run --timeout "$LIMIT" "$WORK/file"
}
test_snapshot_threads() {
  for round in 1 2 3; do resumes "$G/resume_threads"; done
}
test_snapshot_ids() { resumes "$G/ids" resumes; }
test_snapshot_file_owner() { resumes "$G/file_owner" "$DATA" resumes; }
# Clocks that count from the start stand still while a program is saved, and tell the time on either machine.
test_snapshot_clocks() {
  "$RAMET" snapshot save --timeout "$LIMIT" -o "$WORK/clocks" "$G/vdso" resume </dev/null 2>"$WORK/save.err" ||
    { refused $? "$WORK/save.err"; show "$WORK/save.err"; fail "save"; }
  sleep 1
  for machine in kvm process; do
    echo go | "${PROGRAM:-$RAMET}" snapshot run --machine $machine --timeout "$LIMIT" "$WORK/clocks" >"$WORK/out" 2>"$WORK/err" ||
      { if [ $machine = kvm ] && ! "$GUESTS/../host_kvm" >/dev/null; then continue; fi
        if grep -q 'was saved on another processor' "$WORK/err"; then continue; fi  # what machines offer may differ
        show "$WORK/out" "$WORK/err"; fail "$machine"; }
    says 'stood still'
  done
}
test_snapshot_lua() {
  SETUP='cat >count.lua <<EOF
local t = {}
for i = 1, 20000 do t[i] = tostring(i) end
print(#t)
for line in io.lines() do print(line, #table.concat(t)) end
EOF'
  resumes "$G/script" "$DATA/count.lua"
}
test_snapshot_shell() {
  INPUT='for i in 1 2 3; do echo $i | sort; done
exit 7
'
  resumes -s 7 -o "$ALONE" "$BUSYBOX" sh
}
test_snapshot_python() {
  need "$PYTHON"
  resumes -o "$SYSTEM" "$PYTHON" -c 'import json, re, sys
table = {i: str(i) for i in range(50000)}
print("before")
for line in sys.stdin: print(json.dumps([line.strip(), len(table), re.sub("o", "0", line)]))'
}

# save NAME [OPTION...] PROGRAM [ARG...]: to $WORK/NAME
save() {
  name=$1
  shift
  "$RAMET" snapshot save --timeout "$LIMIT" -o "$WORK/$name" "$@" </dev/null >"$WORK/save.out" 2>"$WORK/save.err" ||
    { refused $? "$WORK/save.err"; show "$WORK/save.err"; fail "save $*"; }
}
continue_with() { "$RAMET" snapshot run --timeout "$LIMIT" "$@"; }

test_snapshot_hook() {
  save hook --when ready "$G/resume" hook
  expect 1 '' continue_with "$WORK/hook" one 'two words'
  says 'copy 1'
  says 'argument one'
  says 'argument two words'
  save first --when exit-hook "$G/resume" hook
  expect 0 '' continue_with "$WORK/first"
  says 'copy 0'
  expect 125 'takes no arguments' continue_with "$WORK/first" more
  expect 125 'ended \(status 0\) before it came to nowhere' "$RAMET" snapshot save --when nowhere -o "$WORK/none" "$G/resume" hook
  [ ! -e "$WORK/none" ] || fail "a file although nothing was saved"
  expect 0 '' "$RAMET" run "$G/resume" hook
  says 'copy 0'
}

# A file holds what has changed since its parent, and needs just that parent.
test_snapshot_parent() {
  save base --when ready "$G/resume" hook
  save child --parent "$WORK/base" --when first-read
  expect 125 'nothing was saved' "$RAMET" snapshot save --parent "$WORK/child" -o "$WORK/none"  # there is no second read
  expect 1 '' continue_with "$WORK/child"
  says 'copy 1'
  save big --when ready "$G/resume" touch "$(scaled 64 16)"
  save small --parent "$WORK/big"
  [ "$(wc -c <"$WORK/small")" -lt 2000000 ] || fail "the second file holds all of the first"
}

test_snapshot_refused() {
  for pair in 'socket:a socket' 'fifo:a pipe with a name' 'contents:more than 16 MiB in pipes' \
    'memory:a memory file' 'shared:memory that processes share' 'segment:System V' 'temporary:share a directory' \
    'child:processes besides'; do
    fresh
    expect 125 "cannot be saved: .*${pair#*:}" "$RAMET" snapshot save --dir "$DATA:/data" -o "$WORK/none" "$G/resume" holds "${pair%%:*}"
    [ ! -e "$WORK/none" ] || fail "a file although nothing was saved"
  done
}

test_snapshot_copies() {
  save hook --when ready "$G/resume" hook
  printf 'in\n' >"$WORK/in"
  "$RAMET" snapshot run --copies "$(scaled 40 5)" --jobs 3 "$WORK/hook" x <"$WORK/in" >"$WORK/out" 2>"$WORK/err"
  [ $? = 1 ] || fail "not the status of the first copy"
  for n in $(seq "$(scaled 40 5)"); do printf 'before\ncopy %s\nargument x\nline: in\n' "$n"; done >"$WORK/wanted"
  cmp "$WORK/wanted" "$WORK/out" || { show "$WORK/out" "$WORK/err"; fail "the outputs of the copies"; }
  expect 125 'numbers from 1' "$RAMET" snapshot run --copies 0 "$WORK/hook"
}

# Whenever the one who saves is killed: the file is what it was, or a whole new one.
test_snapshot_killed() {
  old=0 new=0
  save whole --when ready "$G/resume" touch "$(scaled 24 8)"
  for n in $(seq 1 "$(scaled 70 20)"); do
    echo before >"$WORK/file"
    "$RAMET" snapshot save -o "$WORK/file" --when ready "$G/resume" touch "$(scaled 24 8)" </dev/null >/dev/null 2>&1 &
    sleep "$(printf 0.%03d $((n * 4)))"
    kill -9 $! 2>/dev/null
    wait $! 2>/dev/null
    if [ "$(head -c 7 "$WORK/file")" = "before" ]; then old=$((old + 1)); continue; fi
    "$RAMET" snapshot verify "$WORK/file" || fail "killed in round $n: half a file"
    new=$((new + 1))
  done
  echo "killed: $old times the old file, $new times a new one"
}

# flip FILE OFFSET: the lowest bit of a byte
flip() {
  byte=$(dd if="$1" bs=1 skip="$2" count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
  # shellcheck disable=SC2059
  printf "\\$(printf %o $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

# A damaged file is refused, or runs as if it was not: then what is damaged was not touched.
test_snapshot_damaged() {
  for compress in '' --compress; do
    # shellcheck disable=SC2086
    save whole $compress --when ready "$G/resume" hook
    size=$(wc -c <"$WORK/whole")
    refused=0
    for n in $(seq 1 "$(scaled 60 12)"); do
      offset=$((size * n / 61))
      cp "$WORK/whole" "$WORK/bad"
      flip "$WORK/bad" $offset
      expect 125 'bad is damaged' "$RAMET" snapshot verify "$WORK/bad" >"$WORK/said" || fail "offset $offset"
      "$RAMET" snapshot run "$WORK/bad" </dev/null >"$WORK/out" 2>"$WORK/err"
      case $? in
        1) printf 'before\ncopy 1\n' | cmp - "$WORK/out" || fail "offset $offset: ran on what is damaged" ;;
        125) grep -q 'bad is damaged' "$WORK/err" || fail "offset $offset: $(cat "$WORK/err")"; refused=$((refused + 1)) ;;
        *) fail "offset $offset: $(cat "$WORK/err")" ;;
      esac
      expect 125 'bad is damaged' "$RAMET" snapshot run --eager "$WORK/bad" >"$WORK/said" || fail "offset $offset"
      rm -f "$WORK/bad.ws"
    done
    echo "damaged files refused when they were run: $refused"
    [ $refused -gt 0 ] || fail "none was refused"
  done
}

test_snapshot_foreign() {
  expect 125 'cannot open .*nowhere' "$RAMET" snapshot run "$WORK/nowhere"
  expect 125 'not a snapshot file' "$RAMET" snapshot run "$G/hello"
  expect 125 'not a snapshot file' "$RAMET" snapshot info "$WORK"
  : >"$WORK/empty"
  expect 125 'too short' "$RAMET" snapshot verify "$WORK/empty"
  expect 125 'FILE|output' "$RAMET" snapshot save "$G/resume" hook
}
test_snapshot_misplaced() {
  expect 125 'cannot write /nowhere' "$RAMET" snapshot save --when ready -o /nowhere/file "$G/resume" hook
  SETUP='seq 1 9000 | head -c 40000 >read'
  fresh
  save open --dir "$DATA" "$G/resume" "$DATA"
  expect 125 'which is not shared' "$RAMET" snapshot run "$WORK/open"
  echo more >>"$DATA/read"
  expect 125 'read open, which has changed since' "$RAMET" snapshot run --dir "$DATA" "$WORK/open"
}

test_snapshot_inspect() {
  save hook --when ready "$G/resume" hook
  expect 0 'frames' "$RAMET" inspect "$WORK/hook"
}

# Only what is touched is read of the file; or all of it before, for whoever wants that, and where the host tells nobody of
# touches.
test_snapshot_lazily() {
  for compress in '' --compress; do
    # shellcheck disable=SC2086
    save whole $compress --when ready "$G/resume" some 64
    for option in '' --eager; do
      rm -f "$WORK/whole.ws"
      # shellcheck disable=SC2086
      "$RAMET" snapshot run --stat $option "$WORK/whole" </dev/null >"$WORK/out" 2>"$WORK/err" || fail "run: $(cat "$WORK/err")"
      says '3 pages of 64 MiB'
      blocks=$(counted snapshot:blocks <"$WORK/err")
      touched=$(counted snapshot:touched <"$WORK/err")
      echo "$blocks of some 256 blocks, $touched of them awaited"
      if [ -n "$option" ] || grep -q 'is read first' "$WORK/err"; then
        [ "$touched" = 0 ] || fail "all were to be read before"
      else
        [ "$touched" -ge 3 ] && [ "$blocks" -lt 40 ] || fail "what nobody touches was read"
      fi
    done
  done
}

# A file that its own program could truncate is read first; the program does its worst.
test_snapshot_within_reach() {
  need_kvm
  fresh
  "$RAMET" snapshot save --dir "$DATA" $ALONE --when first-read -o "$DATA/self" "$BUSYBOX" sh </dev/null || fail "save"
  printf ': >%s\necho still here\n' "$DATA/self" >"$WORK/in"
  "$RAMET" snapshot run --dir "$DATA" "$DATA/self" <"$WORK/in" >"$WORK/out" 2>"$WORK/err" || fail "run: $(cat "$WORK/err")"
  says 'still here'
  [ ! -s "$DATA/self" ] || fail "the program did not truncate the file"
}
# keeps WHEN PROGRAM [ARG...]: saved there, or by --parent FILE there, it goes on in copies, with a file as its input.
keeps() {
  when=$1
  shift
  "$RAMET" snapshot save --timeout "$LIMIT" --when "$when" -o "$WORK/$when" "$@" <"$WORK/in" 2>"$WORK/err" ||
    { refused $? "$WORK/err"; show "$WORK/err"; fail "save $when"; }
  "$RAMET" snapshot verify "$WORK/$when" || fail "verify $when"
  "$RAMET" snapshot run --timeout "$LIMIT" --copies 3 --jobs 2 "$WORK/$when" <"$WORK/in" >"$WORK/out" 2>"$WORK/err" ||
    { show "$WORK/out" "$WORK/err"; fail "copies of $when"; }
  [ "$(grep -cx 'all there' "$WORK/out")" = 3 ] || { show "$WORK/out" "$WORK/err"; fail "not three copies of $when"; }
}
# Pipes, eventfds, timerfds, signalfds and epoll instances, in copies and in copies of copies.
test_snapshot_open_files() {
  printf input >"$WORK/in"
  for how in hook read; do
    native "$G/open_files" $how <"$WORK/in" >"$WORK/out" 2>"$WORK/err" || { show "$WORK/err"; fail "native"; }
    says 'all there'
    "$RAMET" run --timeout "$LIMIT" "$G/open_files" $how <"$WORK/in" >"$WORK/out" 2>"$WORK/err" ||
      { refused $? "$WORK/err"; show "$WORK/err"; fail "run"; }
    says 'all there'
  done
  keeps first "$G/open_files" hook
  keeps again --parent "$WORK/first"
  keeps second --parent "$WORK/again"
  keeps first-read "$G/open_files" read
}
# An epoll instance that waits for a pipe as standard input finds whatever it is in a copy.
test_snapshot_input_awaited() {
  printf input >"$WORK/in"
  printf input | "$RAMET" snapshot save --timeout "$LIMIT" --when first -o "$WORK/first" "$G/open_files" hook 2>"$WORK/err" ||
    { refused $? "$WORK/err"; show "$WORK/err"; fail "save"; }
  for input in "$WORK/in" /dev/null; do
    "$RAMET" snapshot run --timeout "$LIMIT" "$WORK/first" <"$input" >"$WORK/out" 2>"$WORK/err" || { show "$WORK/err"; fail "$input"; }
    says 'all there'
  done
  printf input | "$RAMET" snapshot run --timeout "$LIMIT" "$WORK/first" >"$WORK/out" 2>"$WORK/err" || { show "$WORK/err"; fail "a pipe"; }
  says 'all there'
  keeps again --parent "$WORK/first"
}
# different WORDS: each of the eight lines in $WORK/out has other words than the others have.
different() {
  [ "$(wc -l <"$WORK/out")" = 8 ] || { show "$WORK/out" "$WORK/err"; fail "not eight lines"; }
  for word in $(seq "$1"); do
    [ "$(cut -d" " -f"$word" "$WORK/out" | sort -u | wc -l)" = 8 ] || { show "$WORK/out"; fail "word $word is the same in two copies"; }
  done
}
# What copies must not share.
test_snapshot_copies_differ() {
  "$RAMET" snapshot save --timeout "$LIMIT" --when used -o "$WORK/used" "$G/copied" </dev/null 2>"$WORK/err" ||
    { refused $? "$WORK/err"; show "$WORK/err"; fail "save"; }
  "$RAMET" snapshot save --timeout "$LIMIT" --parent "$WORK/used" --when again -o "$WORK/again" </dev/null 2>"$WORK/err" ||
    { show "$WORK/err"; fail "save a copy"; }
  for file in used again; do
    "$RAMET" snapshot run --timeout "$LIMIT" --copies 8 --jobs 2 "$WORK/$file" </dev/null >"$WORK/out" 2>"$WORK/err" ||
      { show "$WORK/err"; fail "$file"; }
    different 5
  done
}
# Copies, and copies of copies, learn that they are.
test_snapshot_generation() {
  native "$G/notice" >"$WORK/out" && says native
  "$RAMET" run --timeout "$LIMIT" "$G/notice" >"$WORK/out" 2>"$WORK/err" || { refused $? "$WORK/err"; show "$WORK/err"; fail "run"; }
  says 'not saved'
  "$RAMET" snapshot save --timeout "$LIMIT" --when first -o "$WORK/first" "$G/notice" </dev/null 2>"$WORK/err" ||
    { show "$WORK/err"; fail "save"; }
  for copy in 1 2; do
    "$RAMET" snapshot run --timeout "$LIMIT" "$WORK/first" </dev/null >"$WORK/out" 2>"$WORK/err" || { show "$WORK/err"; fail "run"; }
    says 'not saved'
  done
  "$RAMET" snapshot save --timeout "$LIMIT" --parent "$WORK/first" --when second -o "$WORK/second" </dev/null 2>"$WORK/err" ||
    { show "$WORK/err"; fail "save a copy"; }
  "$RAMET" snapshot run --timeout "$LIMIT" --copies 8 --jobs 2 "$WORK/second" </dev/null >"$WORK/out" 2>"$WORK/err" || { show "$WORK/err"; fail "run a copy's"; }
  [ "$(grep -cx 'generation 2' "$WORK/out")" = 8 ] || { show "$WORK/out"; fail "not generation 2"; }
}
test_snapshot_copies_differ_in_python() {
  need $PYTHON
  fresh
  cat >"$DATA/used.py" <<'EOF'
import os, random, secrets, signal, uuid
signal.signal(signal.SIGUSR1, lambda *_: random.seed())
import ctypes
ctypes.CDLL(None).syscall(401, 2, int(signal.SIGUSR1))  # ramet_generation_signal() of ramet_guest.h
random.random()
try:
    from ssl import RAND_bytes as random_bytes
except ImportError:  # not every machine has OpenSSL's library
    random_bytes = os.urandom
uuid.uuid4(), secrets.token_hex(8), random_bytes(8), os.urandom(8)
input()
print(os.getpid(), uuid.uuid4(), secrets.token_hex(8), random_bytes(8).hex(), os.urandom(8).hex(), random.random())
EOF
  "$RAMET" snapshot save --timeout "$LIMIT" $SYSTEM --dir "$DATA" --when first-read -o "$WORK/used" $PYTHON "$DATA/used.py" </dev/null 2>"$WORK/err" ||
    { refused $? "$WORK/err"; show "$WORK/err"; fail "save"; }
  echo | "$RAMET" snapshot run --timeout "$LIMIT" $SYSTEM --dir "$DATA" --copies 8 --jobs 2 "$WORK/used" >"$WORK/out" 2>"$WORK/err" || { show "$WORK/err"; fail "run"; }
  different 6
}
# Both have event loops, and threads that wait in them. node's own cache of ids is in all copies, see the README.
test_snapshot_copies_differ_in_node() {
  need /usr/bin/node
  cat >"$WORK/used.js" <<'EOF'
const crypto = require('crypto');
const made = () => crypto.randomUUID({disableEntropyCache: true}) + ' ' + crypto.randomBytes(8).toString('hex');
made();
process.stdin.once('data', () => { console.log(made()); process.stdin.destroy(); });
EOF
  echo | "$RAMET" snapshot save --timeout "$LIMIT" $SYSTEM --when first-read -o "$WORK/used" /usr/bin/node "$WORK/used.js" 2>"$WORK/err" ||
    { refused $? "$WORK/err"; show "$WORK/err"; fail "save"; }
  echo | "$RAMET" snapshot run --timeout "$LIMIT" $SYSTEM --copies 8 --jobs 2 "$WORK/used" >"$WORK/out" 2>"$WORK/err" || { show "$WORK/err"; fail "run"; }
  different 2
}
test_snapshot_copies_differ_in_go() {
  "$RAMET" snapshot save --timeout "$LIMIT" --when first-read -o "$WORK/used" "$G/used" </dev/null 2>"$WORK/err" ||
    { refused $? "$WORK/err"; show "$WORK/err"; fail "save"; }
  echo | "$RAMET" snapshot run --timeout "$LIMIT" --copies 8 --jobs 2 "$WORK/used" >"$WORK/out" 2>"$WORK/err" || { show "$WORK/err"; fail "run"; }
  different 2
}

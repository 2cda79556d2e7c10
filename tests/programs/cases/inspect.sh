# `ramet inspect --run`: what it shows of an address space that changes, and of one that has come to its end.
G=$GUESTS
inspect() { "$RAMET" inspect --run --timeout "$LIMIT" "$@"; }

# Column N of the regions in the last dump, in all: col N; and what --stat says of NAME: stat NAME.
col() {
  awk -v n="$1" '/region$/ { on = 1; next } /^$|for ring 0/ { on = 0 } on { sum += $n } END { print sum + 0 }' "$WORK/last"
}
stat() { counted "$1" <"$WORK/err"; }
agree() { [ "$2" = "$3" ] || { show "$WORK/last"; fail "$1: the dump has $2, --stat $3"; }; }

test_inspect_changing() {
  rounds=$(scaled 200 20)
  native "$G/layout" "$rounds" >"$WORK/native.out" || fail "native: status $?"
  expect 0 'Address space after' inspect --every 1ms --stat "$G/layout" "$rounds"
  cmp "$WORK/native.out" "$WORK/out" || fail "the outputs differ"
  [ "$(grep -c 'Address space at the end' "$WORK/err")" = 1 ] || fail "not one dump at the end"
  sed -n '/Address space at the end/,/Counters for/p' "$WORK/err" >"$WORK/last"
  # 4K, 2M, 1G, kept; see the end of layout.c
  for region in '3 +0 +0 +3 +[0-9]+ +2000000000-2000003000 ---p' \
                '509 +1 +0 +0 +[0-9]+ +2000003000-2000400000 rw-p' \
                '[0-9]+ .*/layout$' '[0-9]+ .*\[stack\]$'; do
    grep -qE "^ +$region" "$WORK/last" || { show "$WORK/last"; fail "no region like '$region'"; }
  done
  agree "4K" "$(col 1)" $(($(stat frames:4K) + $(stat frames:shared-file)))
  agree "2M" "$(col 2)" "$(stat frames:2M)"
  tables=$(awk '$1 ~ /^(PGD|PUD|PMD|PTE)$/ { sum += $2 } END { print sum }' "$WORK/last")
  agree tables "$tables" $(($(stat tables_allocated) - $(stat tables_freed)))
  echo "$(grep -c 'Address space' "$WORK/err") dumps; at the end:"
  cat "$WORK/last"
}
test_inspect_json() {
  expect 42 '' inspect --every 1ms --json "$WORK/dumps.json" "$G/hello" argument 42
  [ ! -s "$WORK/err" ] || { show "$WORK/err"; fail "more than the file"; }
  [ "$(head -n 1 "$WORK/dumps.json")" = '[' ] && [ "$(tail -n 1 "$WORK/dumps.json")" = ']' ] || fail "no array"
  tail -n 2 "$WORK/dumps.json" | head -n 1 >"$WORK/last"
  for name in '"ended":true' '"maps":"[0-9a-f]*-[0-9a-f]* r-xp [^"]*/hello"' \
              '"levels":{"PGD":{"tables":1,' '"frames"' '"pages_mapped"'; do
    grep -q "$name" "$WORK/last" || { show "$WORK/last"; fail "no $name"; }
  done
}
test_inspect_bad() {
  expect 125 'hello is not a snapshot file' "$RAMET" inspect "$G/hello"
  expect 125 'cannot open .*file' "$RAMET" inspect "$WORK/file"
  expect 125 'PROGRAM' "$RAMET" inspect
  expect 125 'PROGRAM' inspect
  expect 125 'every' inspect --every often "$G/hello"
  expect 125 'every' inspect --every 0 "$G/hello"
  expect 125 'no-such-option' inspect --no-such-option "$G/hello"
  expect 125 'memory' inspect --memory lots "$G/hello"
  expect 125 'cannot write' inspect --json "$WORK/nowhere/dumps.json" "$G/hello"
}
test_inspect_fails() {
  [ ! -c /dev/full ] || expect 125 'cannot write' inspect --every 1ms --json /dev/full "$G/hello"
  expect 127 'nowhere' inspect "$WORK/nowhere"
  expect 139 'Address space at the end' inspect "$G/crash" null
}

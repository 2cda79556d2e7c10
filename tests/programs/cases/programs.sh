# Real programs: Debian's own binaries and programs over Debian's libraries.
BUSYBOX=/bin/busybox
PYTHON=/usr/bin/python3
here_guests=$here/../guests
# Where the libraries of dynamic programs are: this machine's, or those of its cross compiler.
LIBRARIES="--root /"
[ "${MACHINE:-kvm}" != soft ] || LIBRARIES="--dir /usr/aarch64-linux-gnu/lib:/lib"

make_input() { seq 1 10000000 | head -c "$(scaled 67108864 2097152)" >input; }
make_tree() { for d in a b b/c b/c/d; do mkdir $d; for f in 1 2 3; do echo "$d $f" >$d/$f.txt; done; done; ln -s a link; }
make_text() { seq 1 "$(scaled 300000 10000)" | awk '{ print $1 * 7919 % 100003, "word" $1 % 977, $1 }' >text; }

test_busybox_sha256sum() { SETUP=make_input same -o "$ALONE" "$BUSYBOX" sha256sum "$DATA/input"; }
test_busybox_sort() { SETUP=make_text same -o "$ALONE" "$BUSYBOX" sort -n -k1,1 -k3,3 "$DATA/text"; }
test_busybox_awk() {
  SETUP=make_text same -o "$ALONE" "$BUSYBOX" awk '{ sum[$2] += $1; n[$2]++ } END { for (w in sum) s += sum[w] * n[w]; print length(sum), s }' "$DATA/text"
}
test_busybox_find() { SETUP=make_tree same -o "$ALONE" "$BUSYBOX" find "$DATA" -name '*.txt' -size -5; }
test_busybox_files() {
  SETUP=make_tree same -o "$ALONE" "$BUSYBOX" cp -r "$DATA/b" "$DATA/copy"
  SETUP=make_tree same -o "$ALONE" "$BUSYBOX" rm -r "$DATA/b"
  SETUP=make_tree same -o "$ALONE" "$BUSYBOX" ls -R "$DATA/b"
}
test_busybox_gzip() {
  need_kvm
  SETUP=make_input fresh
  run="$RAMET run --timeout $LIMIT --dir $DATA:/in:ro $ALONE $BUSYBOX"
  $run gzip -c /in/input >"$WORK/packed" || fail "gzip: status $?"
  $run gunzip -c <"$WORK/packed" >"$WORK/unpacked" || fail "gunzip: status $?"
  cmp "$DATA/input" "$WORK/unpacked" || fail "the round trip changed the file"
  "$BUSYBOX" gzip -c "$DATA/input" | cmp - "$WORK/packed" || fail "not what the native gzip makes"
  echo "$(wc -c <"$DATA/input") bytes, packed $(wc -c <"$WORK/packed")"
}

test_sqlite_static() { same "$GUESTS/sql" "$DATA/database" "$(scaled 400000 20000)"; }
test_lua_static() { SETUP="cp $here_guests/script.lua ." same "$GUESTS/script" "$DATA/script.lua" "$(scaled 200000 5000)"; }
test_go() { same "$GUESTS/gc" "$(scaled 4 1)"; }

test_dynamic_c() { same -o "$LIBRARIES" "$GUESTS/hello_dynamic"; }
test_dynamic_cxx() { same -o "$LIBRARIES" "$GUESTS/cxx_dynamic"; }
test_python() {
  need $PYTHON
  SETUP="cp $here_guests/script.py ." same -s 7 -o "$SYSTEM --memory 1G" $PYTHON "$DATA/script.py" "$(scaled 1000000 10000)"
}
# Programs that write code as they run: with the compiler and without, whenever fetches are made to see it.
test_luajit() {
  need /usr/bin/luajit
  mkdir -p "$WORK/lua"
  cp "$here/../guests/jit.lua" "$WORK/lua/"
  for how in on off; do same -o "$SYSTEM --dir $WORK/lua" /usr/bin/luajit -j$how "$WORK/lua/jit.lua" "$(scaled 1000000 100000)"; done
  for when in lazy adaptive; do
    same -o "$SYSTEM --dir $WORK/lua --exec-sync $when" /usr/bin/luajit "$WORK/lua/jit.lua" "$(scaled 1000000 100000)"
  done
}
test_sqlite_dynamic() {
  need /usr/bin/sqlite3
  STDIN=$WORK/sql
  cat >"$STDIN" <<SQL
CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $(scaled 200000 2000))
  INSERT INTO t SELECT i, printf('%08x', i * 7919 % 65521) FROM n;
CREATE INDEX b ON t(b);
SELECT count(*), count(DISTINCT b), min(b), max(b) FROM t;
SELECT b, count(*) FROM t GROUP BY b ORDER BY 2 DESC, 1 LIMIT 5;
PRAGMA integrity_check;
SQL
  same -o "$SYSTEM" /usr/bin/sqlite3 "$DATA/database"
}
test_cmake_dynamic() {  # a large C++ program
  need /usr/bin/cmake
  SETUP=make_input same -o "$SYSTEM" /usr/bin/cmake -E sha256sum "$DATA/input"
}

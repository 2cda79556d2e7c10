# What the cases use. POSIX sh, and nothing that busybox lacks: the same cases run in emulated machines.
#   RAMET   the ramet program           GUESTS  the folder of guest programs
#   SCALE   full or small               WORK    a folder of this case's own, removed at its end
#   SANITIZED  what ramet was built to look for, if anything
#   TWINS   where this host's machine cannot run GUESTS: the folder of the same programs, compiled for it
#   PACKAGES  where this host's own programs are not for the guest: a tree like / with Debian's for it
# DATA is the folder that guest and native program share: made anew by SETUP before each of them.
DATA=$WORK/data
SETUP=:
ENVIRONMENT=
SYSTEM="--root ${PACKAGES:-/}"             # options for Debian's programs, with all they need,
ALONE=${PACKAGES:+--root $PACKAGES}        # and for those that need nothing else
LIMIT=${LIMIT:-240s}

# counted NAME: the counter's value in --stat's output, read from standard input.
counted() { awk -v name="$1" '/Counters for/ { all = 1 } all && $2 == name { gsub(",", "", $1); print $1 }'; }
# children_of PID: its children's ids, a line each. Not every machine has pgrep(1).
children_of() { cat /proc/[0-9]*/stat 2>/dev/null | awk -v parent="$1" '{ id = $1; sub(/.*\) /, "") } $2 == parent { print id }'; }
scaled() { if [ "$SCALE" = full ]; then echo "$1"; else echo "$2"; fi; }
# by_isa X86-64 ARM64: that of the two that belongs to the guests' instruction set.
by_isa() { case ${MACHINE:-kvm}:$(uname -m) in soft:* | *:aarch64) echo "$2" ;; *) echo "$1" ;; esac; }
fail() { echo "FAILED: $*"; exit 1; }
skip() { echo "SKIP: $*"; exit 77; }
# Skips the case if this machine has no usable KVM; fails it if it must have one.
need_kvm() {
  [ "${MACHINE:-kvm}" = kvm ] || return 0
  why=$("$GUESTS/../host_kvm")
  case $? in
    0) ;;
    77) skip "$why" ;;
    *) fail "host_kvm: $why" ;;
  esac
}
# refused STATUS ERRORS: called after a command that did not end as wanted. Skips the case if the command said that this
# machine has no KVM, and that is true.
refused() { [ "$1" != 125 ] || ! grep -q '^ramet: .*/dev/kvm' "$2" || need_kvm; }
need() { for file; do [ -e "$file" ] || skip "$file is not on this machine"; done; }

# native PROGRAM [ARG...]: on the host itself.
native() {
  case $1 in
    "$GUESTS"/*)
      twin=${TWINS:-$GUESTS}/${1#"$GUESTS"/}
      shift
      set -- "$twin" "$@" ;;
  esac
  # shellcheck disable=SC2086
  env -i $ENVIRONMENT "$@"
}

fresh() { rm -rf "$DATA"; mkdir -p "$DATA"; (cd "$DATA" && eval "$SETUP") || fail "set-up: $SETUP"; }

show() { for file; do echo "--- $file:"; head -n 30 "$file"; done; }

# same [-s STATUS] [-o "RAMET OPTIONS"] PROGRAM [ARG...]
# Runs the program (or its twin) natively and under ramet on equal folders and compares standard output, exit
# status and, byte for byte, the folders. STATUS is what both must end with.
same() {
  want=0 options=
  while :; do
    case $1 in
      -s) want=$2; shift 2 ;;
      -o) options=$2; shift 2 ;;
      *) break ;;
    esac
  done
  : >"$WORK/stdin"
  [ -z "${STDIN:-}" ] || cp "$STDIN" "$WORK/stdin"
  fresh
  native "$@" <"$WORK/stdin" >"$WORK/native.out" 2>"$WORK/native.err"
  status=$?
  [ $status = "$want" ] || { show "$WORK/native.out" "$WORK/native.err"; fail "native: status $status, not $want"; }
  rm -rf "$WORK/native"
  mv "$DATA" "$WORK/native"
  # In its output, a twin's path is replaced by that of the program it stands for.
  [ -z "${TWINS:-}" ] || grep -rlF "$TWINS/" "$WORK/native" "$WORK/native.out" | while read -r file; do sed -i "s|$TWINS/|$GUESTS/|g" "$file"; done
  fresh
  for variable in $ENVIRONMENT; do options="$options --env $variable"; done
  # shellcheck disable=SC2086
  "$RAMET" run --timeout "$LIMIT" --stat --json "$WORK/report.json" --dir "$DATA" $options "$@" \
    <"$WORK/stdin" >"$WORK/guest.out" 2>"$WORK/guest.err"
  status=$?
  [ $status = "$want" ] || { refused $status "$WORK/guest.err"; show "$WORK/guest.out" "$WORK/guest.err"; fail "guest: status $status, not $want"; }
  cmp "$WORK/native.out" "$WORK/guest.out" || { show "$WORK/native.out" "$WORK/guest.out"; fail "the outputs differ"; }
  diff -r "$WORK/native" "$DATA" >"$WORK/difference" 2>&1 || { show "$WORK/difference"; fail "the folders differ"; }
  echo "same: $(basename "$1"), $(wc -c <"$WORK/guest.out") bytes of output, status $status"
  sed -n '/Counters for/,$p' "$WORK/guest.err"
}

# expect STATUS[|STATUS...] PATTERN COMMAND...: the command ends with STATUS and says something that matches the
# extended regular expression PATTERN on standard error.
expect() {
  want=$1 pattern=$2
  shift 2
  "$@" </dev/null >"$WORK/out" 2>"$WORK/err"
  status=$?
  case "|$want|" in
    *"|$status|"*) ;;
    *) refused $status "$WORK/err"; show "$WORK/out" "$WORK/err"; fail "$*: status $status, not $want" ;;
  esac
  [ -z "$pattern" ] || grep -qE -e "$pattern" "$WORK/err" ||
    { refused $status "$WORK/err"; show "$WORK/err"; fail "$*: no message that matches '$pattern'"; }
  echo "as expected: status $status, $(grep -E -e "$pattern" "$WORK/err" | head -n 1)"
}

# says TEXT: the command that expect ran last printed this line on standard output.
says() { grep -qxF -- "$1" "$WORK/out" || { show "$WORK/out"; fail "no line '$1'"; }; }

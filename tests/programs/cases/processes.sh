# Several processes: fork, vfork, execve, wait, groups, and whole shell scripts.
G=$GUESTS

test_processes_basics() { same "$G/processes" basics; }
test_processes_tree() { same "$G/processes" tree "$(scaled 6 3)"; }
test_processes_many() { same "$G/processes" many "$(scaled 200 30)"; }
test_processes_generations() {
  same "$G/generations" "$(scaled 400 40)" ending
  same "$G/generations" "$(scaled 400 40)" waiting
}
test_processes_threaded() { same "$G/processes" threaded "$(scaled 10 3)"; }
test_processes_pipeline() { same "$G/processes" pipeline; }
test_processes_files() { same "$G/processes" files "$DATA"; }
test_processes_shared() { same "$G/processes" shared "$DATA"; }
test_processes_signals() { same "$G/processes" signals; }
test_processes_orphans() { same "$G/processes" orphans; }
test_signalfd() { same "$G/signalfd"; }
test_shm() { same -o "--dir $G" "$G/shm"; }
test_shm_limit() {
  expect 0 '' "$RAMET" run --timeout "$LIMIT" "$G/shm" limit
  says limited
}
test_processes_exec() { same -o "--dir $G" "$G/exec" "$DATA"; }

test_musl_processes() {
  for case in basics pipeline signals orphans "tree $(scaled 6 3)" "threaded $(scaled 10 3)"; do
    # shellcheck disable=SC2086
    same "$G/musl_processes" $case
  done
  for case in files shared; do same "$G/musl_processes" "$case" "$DATA"; done
  same -o "--dir $G" "$G/musl_exec" "$DATA"
}

# What they do must not depend on the techniques.
test_processes_without_techniques() {
  off="--without speculative-faults --without relaxed-flushes --without huge-merge"
  same -o "$off" "$G/processes" basics
  same -o "$off" "$G/processes" threaded "$(scaled 10 3)"
  same -o "$off" "$G/processes" shared "$DATA"
}

# Forks without end are bounded, ended by --timeout with all that they made, and leave the VMM as it was.
test_processes_limit() {
  expect 0 '' "$RAMET" run --timeout "$LIMIT" "$G/processes" limit
  says "$(by_isa 511 255) children"  # the software CPU has as many as it has engines
  says limited
}
test_processes_bomb() {
  expect 124 'stopped after' "$RAMET" run --timeout 3s "$G/processes" bomb
}

test_processes_hostile() {
  for seed in ${SEED:-$(date +%s) $(scaled '1 2 3' '')}; do
    echo "seed $seed"
    expect 0 '' "$RAMET" run --timeout "$LIMIT" "$G/processes" hostile "$seed"
    says survived
  done
}

# Static busybox, which runs its own commands: nothing but the program is shared.
test_shell() {
  need "$BUSYBOX"
  same -o "$ALONE" "$BUSYBOX" sh -c '
    for i in 1 2 3; do echo $i | cat | sed s/^/x/; done
    seq 1 2000 | grep 7 | sort -rn | head -n 5 | tr "\n" " "; echo
    (echo subshell; exit 3); echo status $?
    a=$(echo outer $(echo inner)); echo "$a"
    cat <<END
here: $a
END
    i=0; while [ $i -lt 20 ]; do i=$((i + 1)); echo $i; done | wc -l
    false || true && echo and-or
    { echo group; exit 4; } | cat; echo pipeline $?
    set -o pipefail; (exit 5) | cat; echo pipefail $?
    f() { local x=1; echo function $1 $x; return 6; }; f word; echo $?
    x=1; (x=2); echo variable $x
    echo to stderr 2>&1 >&2 | cat
    exec 5>&1; echo descriptor >&5
    sh -c "exit 9"; echo $?
    /no/such/program 2>/dev/null; echo missing $?
    exec echo last'
}

test_shell_jobs() {
  need "$BUSYBOX"
  same -s 11 -o "$ALONE" "$BUSYBOX" sh -c '
    sleep 0.1 & wait $!; echo slept $?
    (exit 7) & wait $!; echo background $?
    for i in 1 2 3 4 5 6 7 8; do (echo job $i >"$1/$i") & done; wait
    cat "$1"/*
    sleep 100 & p=$!; kill $p; wait $p; echo killed $?
    trap "echo trapped" USR1; kill -USR1 $$; echo after
    trap "echo from a child" USR2; (kill -USR2 $$) & wait; wait; echo waited
    trap "echo leaving" EXIT
    sh -c "kill -9 \$\$"; echo nine $?
    yes | head -n 2
    mkfifo "$1/fifo"; echo through a fifo >"$1/fifo" & cat "$1/fifo"; wait; rm "$1/fifo"
    exit 11' shell "$DATA"
}

test_shell_dynamic() {
  need /bin/dash /bin/ls
  ENVIRONMENT="PATH=/usr/bin:/bin"
  same -o "$SYSTEM" /bin/dash -c '
    ls -d /usr /usr/bin /nowhere 2>/dev/null | sort
    find /usr/lib -maxdepth 1 -name "lib*" | wc -l | grep -c .
    printf "%s\n" c a b | sort | xargs echo
    expr 6 \* 7; env -i A=b env'
}

test_python_servers() {
  need $PYTHON
  SETUP="cp $here_guests/servers.py ." same -o "$SYSTEM" $PYTHON "$DATA/servers.py"
}
test_soft_python_children() {
  [ -n "${PACKAGES:-}" ] || skip "no packages for arm64 were fetched"
  same -o "$SYSTEM" $PYTHON -S -c 'import subprocess, threading
print(subprocess.run(["/bin/echo", "hello"], capture_output=True, text=True).stdout)
with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat: print(len(cat.communicate(b"x" * 300000)[0]))
print(subprocess.call(["/bin/dash", "-c", "kill -TERM $$"]), subprocess.call(["/bin/false"]))'
}
test_python_children() {
  need $PYTHON
  SETUP="cp $here_guests/children.py ." same -o "$SYSTEM" $PYTHON "$DATA/children.py"
}

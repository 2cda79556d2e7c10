# Storms of memory management in 1, 2, 8 and 64 threads, or those of THREADS; see guests/storm.c. ROUNDS are those of all
# threads together.

# storm CASE ROUNDS ROUNDS-WHEN-SMALL [ARGUMENT]
storm() {
  name=$1 all=$(scaled "$2" "$3")
  shift 3
  for threads in ${THREADS:-1 2 8 64}; do
    program=storm
    [ $threads = 8 ] && [ -e "$GUESTS/musl_storm" ] && program=musl_storm
    same "$GUESTS/$program" "$name" $threads $((all / threads + 1)) "$@"
  done
}

test_storm_page_fault() { storm page_fault 1000 64; }
test_storm_page_fault_shared() { storm page_fault_shared 300 8; }
test_storm_page_fault_file() { storm page_fault_file 1000 16 "$DATA/file"; }
test_storm_fault_while_unmapping() { storm fault_while_unmapping 2000 100; }
test_storm_fault_beside_unmapping() { storm fault_beside_unmapping 1000 20; }
test_storm_unmap_under_fault() { storm unmap_under_fault 500 10; }
test_storm_protect_under_writers() { storm protect_under_writers 500 10; }
test_storm_protect() { storm protect 5000 100; }
test_storm_protect_same_table() { storm protect_same_table 5000 100; }
test_storm_protect_restore() { storm protect_restore 5000 100; }
test_storm_upgrade() { storm upgrade 5000 100; }
test_storm_mmap() { storm mmap 5000 100; }
test_storm_remap() { storm remap 2000 64; }
test_storm_advise() { storm advise 2000 64; }
test_storm_futex() { storm futex 5000 100; }
test_storm_ebizzy() { storm ebizzy 1500 64; }

# The results are the same with any of the techniques off.
test_storm_without_techniques() {
  rounds=$(scaled 50 4)
  for technique in speculative-faults relaxed-flushes huge-merge; do
    for name in page_fault page_fault_shared fault_while_unmapping unmap_under_fault protect_under_writers \
      protect_same_table protect_restore upgrade remap advise; do
      same -o "--without $technique" "$GUESTS/storm" $name 4 $rounds
    done
  done
}

# What pins a guest's memory: io_uring (see guests/uring.c), gup_test, vmsplice.
uring() { same "$GUESTS/uring" "$1" "$DATA"; }

test_uring_transfers() { uring transfers; }
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

test_gup_test() { same "$GUESTS/gup_test"; }
test_vmsplice() { same "$GUESTS/vmsplice"; }

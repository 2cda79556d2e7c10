// A descriptor's look-up without the lock, beside a thread that closes and opens it and one that makes the table longer.
//
//   index -> slot -> Entry - - > OpenFile <- Slot, under the lock
//
// look_up() is Descriptors::get(), with its rcu::Reader; close_and_open() Descriptors::close() and install(), and
// Change's end; longer() is Descriptors::make_room(). One number. Entries and files have the same numbers here, 0 is none.

#define LOOK_UPS 2

byte slot[2];                  // of the number, in the first index and in the longer one
byte index;                    // which of them look-ups read
bit entry_freed[3];
byte references[3];            // counted pointers to the file; 0: it is closed
bit lock;
bit reading[LOOK_UPS];
byte section[LOOK_UPS];        // how many rcu::Readers there were
byte closed;                   // the file whose close(2) has returned

inline let_go(file) { atomic { references[file]--; assert(references[file] < 4) } }

// Waits until those who were reading have left.
inline grace_period(who, was) {
  was = section[who];
  (!reading[who] || section[who] != was)
}

proctype look_up(byte me) {
  byte in, entry, before;
  bit got;
  do
  :: section[me] < 2 ->
     atomic { reading[me] = 1; section[me]++ }
     got = 0;
     before = closed;
     in = index;
     entry = slot[in];
     if
     :: entry != 0 ->
        assert(!entry_freed[entry]);
        // std::weak_ptr::lock
        atomic { if :: references[entry] > 0 -> references[entry]++; got = 1 :: else fi }
     :: else
     fi;
     reading[me] = 0;
     if
     :: got ->
        assert(references[entry] > 0 && entry != before);
        let_go(entry)
     :: else
     fi
  :: else -> break
  od
}

proctype close_and_open() {
  byte was, old;
  atomic { !lock -> lock = 1 }
  old = slot[index];
#ifndef BROKEN_never_taken_out
  slot[index] = 0;
#endif
  lock = 0;
  bit kept = 1;
  if  // close(2) lets go of the file before Entry's end or, where it is the one to wait, after that
  :: let_go(old); kept = 0
  :: skip
  fi;
#ifndef BROKEN_no_grace_period
  grace_period(0, was);
  grace_period(1, was);
#endif
  entry_freed[old] = 1;
  if
  :: kept -> let_go(old)
  :: else
  fi;
  closed = old;
  // open(2)
  atomic { !lock -> lock = 1 }
  references[2] = 1;
  slot[index] = 2;
  lock = 0
}

proctype longer() {
#ifndef BROKEN_without_the_lock
  atomic { !lock -> lock = 1 }
#endif
  slot[1] = slot[0];
  index = 1;
#ifndef BROKEN_without_the_lock
  lock = 0
#endif
}

init {
  atomic {
    slot[0] = 1;
    references[1] = 1;
    run look_up(0); run look_up(1);
    run close_and_open();
    run longer()
  }
}

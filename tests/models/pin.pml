// Pin against fork: a pin taken without a lock, while the VM is frozen, pages are copied on write, given back and
// mapped anew, and the child that shares them comes and goes.
//
//   entry -> frame <- pin, by which a device writes          layer's entry -> frame, which the child sees
//
// One page. device() is AddressSpace::pin: Pinning::fast, then Pinning::exclusive_locked; then DMA, and PinBook::remove. owner() is the
// guest that writes to the page: the processor, then AddressSpace::fault with try_copy and Walker::replace_leaves.
// change() holds the address-space lock: AddressSpace::freeze with pinned_pages_locked and keep_pinned_locked, advise
// (DontNeed) with PinBook::free. child() ends at any time; then SpaceCore::thaw_locked makes the frames the owner's again.
// A flush is one step here, see flush.pml; but a processor may go on in the table that the layer took until freeze()
// flushes.

#define PINS 2
#define STORES 2
#define CHANGES 3
#define FRAMES 5
#define NONE 15
#define DEVICE 0           // numbers as an rcu::Reader
#define OWNER 1

bit space_lock, table_lock;
byte sequence;             // Pinning::freezing_
bit reading[2];

// The entry: NONE, or a frame and what is allowed. Below a shared table nobody writes.
byte entry = 0;
bit writable = 1, changing, below_shared;
bit table_sealed;          // TablePool: part of a layer
bit sealed[FRAMES];        // FramePool: part of a layer
bit used[FRAMES];          // in the entry, in a layer, pinned, or on the way there
bit dropped[FRAMES];       // free as soon as it is not sealed any more
byte pins[FRAMES];         // PinBook
bit orphan[FRAMES];        // freed, but for a pin

bit child_lives;           // somebody stands on the layer
byte layer_entry = NONE;   // what the child sees
bit walks_layer;           // a processor of the owner's may read it as well
byte finished;

#define exclusive(f) (!sealed[f])
// What the owner reads.
#define reads_its_own (entry == NONE || !walks_layer || layer_entry == entry)
#define may_write(f) (exclusive(f) || pins[f] > 0)

inline lock(bit_) { atomic { !bit_ -> bit_ = 1 } }

// Whatever writes: the frame is the owner's, it is what its entry maps or mapped, and no child sees it.
inline write_to(f) { assert(used[f] && !(child_lives && layer_entry == f)) }

inline take_frame(f) {
  d_step {
    f = 0;
    do
    :: used[f] -> f++; assert(f < FRAMES)  // there are enough
    :: else -> used[f] = 1; break
    od
  }
}

// FramePool::free.
inline give_back(f) {
  assert(used[f]);
  if
  :: sealed[f] -> dropped[f] = 1
  :: else -> used[f] = 0
  fi
}

// PinBook::free: after the entry has gone, and its flush.
inline free(f) {
  if
  :: atomic { pins[f] == 0 -> give_back(f) }
  :: else ->
     orphan[f] = 1;
     atomic {  // PinBook::orphans_lock_
       if
       :: pins[f] == 0 && orphan[f] -> orphan[f] = 0; give_back(f)
       :: else
       fi
     }
  fi
}

// PinBook::remove.
inline unpin(f) {
  d_step { pins[f]--; last = pins[f] == 0 }
  atomic {
    if
    :: last && pins[f] == 0 && orphan[f] -> orphan[f] = 0; give_back(f)
    :: else
    fi;
    last = 0
  }
}

// FramePool::thaw.
inline thaw() {
  d_step {
    assert(!child_lives);
    f = 0;
    do
    :: f < FRAMES ->
       sealed[f] = 0;
       if
       :: dropped[f] -> dropped[f] = 0; used[f] = 0
       :: else
       fi;
       f++
    :: else -> f = 0; break
    od;
    table_sealed = 0;
    layer_entry = NONE
  }
}
#define thawable (!child_lives && layer_entry != NONE)

// Walker::own and copy_shared.
inline own() {
  d_step { below_shared = 0; table_sealed = 0; writable = writable && exclusive(entry) }
}

// With the address-space lock: makes the page writable, by mapping, thawing or copying it (touch_locked, copy_locked).
inline make_writable() {
  do
  :: entry == NONE -> atomic { take_frame(c); entry = c; writable = 1; below_shared = 0; table_sealed = 0 }
  :: entry != NONE && thawable -> thaw()
  :: entry != NONE && !thawable && below_shared -> own()
  :: atomic { entry != NONE && !thawable && !below_shared && !writable && !table_lock -> table_lock = 1 }
     if
     :: may_write(entry) -> writable = 1
     :: else -> atomic { take_frame(c); f = entry; entry = c; writable = 1; dropped[f] = 1 }
     fi;
     table_lock = 0
  :: entry != NONE && !below_shared && writable -> break
  od
}

// What Pinning::fast looks at. A read-only entry will not do: a copy that began before the layer went may replace it.
inline look(f) {
  atomic {
    f = entry;
    if
    :: f != NONE && (changing || below_shared) -> f = NONE
#ifndef BROKEN_read_only_entry
    :: f != NONE && !changing && !below_shared && !writable -> f = NONE
#endif
    :: else
    fi
  }
  if
  :: f != NONE && sealed[f] -> f = NONE
  :: else
  fi
}

proctype device() {
  byte n, f, c, s, again;
  bit last;
  do
  :: n == PINS -> break
  :: n < PINS ->
     n++;
     reading[DEVICE] = 1;
     s = sequence;
#ifndef BROKEN_no_sequence
     if
     :: s % 2 == 1 -> goto slow
     :: else
     fi;
#endif
     look(f);
     if
     :: f == NONE -> goto slow
     :: else
     fi;
#ifndef BROKEN_count_after_check
     pins[f]++;
#endif
#ifndef BROKEN_no_recheck
     look(again);
#else
     again = f;
#endif
     if
#ifdef BROKEN_no_sequence
     :: again == f ->
#else
     :: again == f && sequence == s ->
#endif
#ifdef BROKEN_count_after_check
        pins[f]++;
#endif
        reading[DEVICE] = 0;
        goto pinned
     :: else
     fi;
#ifndef BROKEN_count_after_check
     unpin(f);
#endif
slow:
     reading[DEVICE] = 0;
     lock(space_lock);
     make_writable();
     f = entry;
     pins[f]++;
     space_lock = 0;
pinned:
     write_to(f);
     // Neither loses what the other writes: as long as the page is not given back, its entry maps the frame.
     atomic { assert(orphan[f] || entry == f || entry == NONE); write_to(f) }
     unpin(f);
     atomic { f = 0; c = 0; s = 0; again = 0 }
  od;
  finished++
}

proctype owner() {
  byte n, f, c;
  do
  :: n == STORES -> break
  :: n < STORES ->
     n++;
again:
     atomic {  // the processor
       assert(reads_its_own);
       if
       :: entry != NONE && !changing && !below_shared && writable -> write_to(entry); goto stored
       :: else
       fi
     }
     reading[OWNER] = 1;  // try_copy
     atomic {
       f = entry;
       if
       :: f == NONE || changing || below_shared || writable || thawable || may_write(f) -> goto classic
       :: else
       fi
     }
     take_frame(c);
     atomic {  // TableLock::try_lock, and that all is as it was
       if
       :: table_lock || table_sealed || entry != f || writable -> used[c] = 0; goto classic
       :: else -> table_lock = 1; changing = 1
       fi
     }
     d_step { entry = c; writable = 1; changing = 0; give_back(f) }
     table_lock = 0;
     reading[OWNER] = 0;
     goto again;
classic:
     reading[OWNER] = 0;
     lock(space_lock);
     make_writable();
     space_lock = 0;
     goto again;
stored:
     atomic { f = 0; c = 0 }
  od;
  finished++
}

inline freeze() {
  if
  :: thawable -> thaw()
  :: else
  fi;
  sequence++;
  copy = NONE;
  if
  :: entry != NONE && pins[entry] > 0 ->
     if
     :: below_shared -> own()
     :: else
     fi;
     take_frame(copy);
     was_writable = writable
  :: else
  fi;
  d_step {  // FramePool::seal, and TablePool's
    table_sealed = 1;
    f = 0;
    do
    :: f < FRAMES -> sealed[f] = sealed[f] || used[f]; f++
    :: else -> f = 0; break
    od
  }
  !reading[DEVICE];  // rcu::synchronize
  !reading[OWNER];
  d_step { below_shared = 1; layer_entry = entry }
#ifdef BROKEN_copied_late
  child_lives = 1;
  sequence++;
#endif
  if
  :: copy != NONE ->
     // own, and the attributes that it had
     d_step { below_shared = 0; table_sealed = 0; writable = was_writable; walks_layer = 1 }
#ifndef BROKEN_copy_before_flush
     walks_layer = 0;
#endif
     d_step { layer_entry = copy; give_back(copy) }
     walks_layer = 0
  :: else
  fi;
  assert(layer_entry == NONE || used[layer_entry]);
#ifndef BROKEN_copied_late
  sequence++;
  if
  :: layer_entry != NONE -> child_lives = 1
  :: else
  fi;
#endif
  atomic { copy = 0; was_writable = 0 }
}

proctype change() {
  byte n, f, copy;
  bit was_writable;
  do
  :: n == CHANGES -> break
  :: n < CHANGES ->
     n++;
     lock(space_lock);
     if
     :: !child_lives -> freeze()
     :: entry != NONE ->
        lock(table_lock);
        d_step { f = entry; entry = NONE; writable = 0; below_shared = 0; table_sealed = 0 }
        table_lock = 0;
        free(f)
     :: thawable -> thaw()                // somebody writes to another page of the table
     :: below_shared && !thawable -> own()
     :: else
     fi;
     space_lock = 0;
     f = 0
  od;
  finished++
}

proctype child() {
end:
  do
  :: atomic { child_lives -> child_lives = 0 }
  od
}

init {
  byte f;
  atomic {
    used[0] = 1;
    run device();
    run owner();
    run change();
    run child()
  }
  finished == 3;
  // No frame was lost, and no pin.
  d_step {
    assert(sequence % 2 == 0 && !table_lock && !space_lock);
    f = 0;
    do
    :: f < FRAMES ->
       assert(pins[f] == 0 && !orphan[f]);
       assert(!used[f] || sealed[f] || f == entry);
       f++
    :: else -> break
    od
  }
}

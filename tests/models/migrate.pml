// Migration against a processor that stores, loads and fetches, and a device that pins without a lock; and execution that is
// withheld until the first fetch.
//
//   data: entry -> frame <- pin, by which a device writes         code: entry -> frame -> instruction cache
//
// Two pages. mover() is AddressSpace::migrate with migrate_locked and Walker::replace_leaves; what it says of the data page
// holds for any page that may be written, of the code page for any that may be executed. processor() is the guest, and
// AddressSpace::fault in both ways. device() is Pinning::fast(), see pin.pml. A flush is one step here, see flush.pml.

#define STORES 2
#define FETCHES 2
#define WRITES 2          // of the device
#define MOVES 2
#define FRAMES 4
#define NONE 15

bit space_lock;
bit seized;               // the data region's sequence is odd

byte data_frame = 0;
bit data_write = 1, data_changing;
byte code_frame = 1;
bit code_execute = 1, code_changing;

bit used[FRAMES];
byte stored[FRAMES], written[FRAMES];  // what the processor and the device have put there
bit stale[FRAMES];        // the instruction cache may hold something older than the frame does
byte pins[FRAMES];
bit orphan[FRAMES];        // freed, but for a pin

// What the processor has cached.
byte tlb_data = NONE, tlb_code = NONE;
bit tlb_write, tlb_execute;
byte finished;

inline lock() { atomic { !space_lock -> space_lock = 1 } }
inline unlock() { space_lock = 0 }

inline take_frame(f) {
  d_step {
    f = 0;
    do
    :: used[f] -> f++; assert(f < FRAMES)
    :: else -> used[f] = 1; break
    od
  }
}

// PinBook::free and remove(): a pin that is about to find the entry changed keeps the frame until it has gone.
inline drop(f) { used[f] = 0; orphan[f] = 0; stored[f] = NONE; written[f] = NONE }
inline free_frame(f) {
  d_step {
    assert(used[f]);
    if
    :: pins[f] > 0 -> orphan[f] = 1
    :: else -> drop(f)
    fi
  }
}
inline unpin(f) {
  d_step {
    pins[f]--;
    if
    :: pins[f] == 0 && orphan[f] -> drop(f)
    :: else
    fi
  }
}

proctype processor() {
  byte stores, fetches;
  do
  :: stores < STORES ->
    if
    :: atomic { tlb_data == NONE && !data_changing -> tlb_data = data_frame; tlb_write = data_write }
    :: atomic { tlb_data != NONE && tlb_write -> assert(used[tlb_data] && stored[tlb_data] == stores); stored[tlb_data]++; stores++ }
    :: atomic { tlb_data != NONE -> assert(used[tlb_data] && stored[tlb_data] == stores) }  // a load
    :: tlb_data != NONE && !tlb_write ->  // a fault
      if
      :: atomic { !seized && !data_changing -> data_write = 1; tlb_data = NONE }  // without the lock: Walker::upgrade
      :: lock(); data_write = 1; tlb_data = NONE; unlock()
      fi
    fi
  :: fetches < FETCHES ->
    if
    :: atomic { tlb_code == NONE && !code_changing -> tlb_code = code_frame; tlb_execute = code_execute }
    :: atomic { tlb_code != NONE && tlb_execute -> assert(used[tlb_code] && !stale[tlb_code]); fetches++ }
    :: tlb_code != NONE && !tlb_execute ->
      lock();
#ifndef BROKEN_granted_without_sync
      if
      :: !code_execute -> stale[code_frame] = 0
      :: else
      fi;
#endif
      code_execute = 1;
      tlb_code = NONE;  // relaxed: only this processor's own
      unlock()
    fi
  :: stores == STORES && fetches == FETCHES -> break
  od;
  finished++
}

proctype device() {
  byte f, writes;
  do
  :: writes < WRITES ->
    if
    :: atomic { data_write && !data_changing -> f = data_frame };
       pins[f]++;
       if
       :: data_frame == f && data_write && !data_changing ->
          atomic { assert(used[f] && data_frame == f && written[f] == writes); written[f]++; writes++ }
       :: else
       fi;
       unpin(f)
    :: finished >= 2 && !(data_write && !data_changing) -> break  // nobody makes it writable any more
    fi
  :: writes == WRITES -> break
  od;
  assert(written[data_frame] == writes);
  finished++
}

inline move_data() {
  lock();
  old = data_frame;
  if
  :: pins[old] == 0 ->
#ifndef BROKEN_no_seizing
    seized = 1;
#endif
#ifndef BROKEN_copied_while_it_is_written
    data_write = 0;
    tlb_data = NONE;
#endif
    if
#ifndef BROKEN_no_second_look
    :: pins[old] != 0 -> data_write = 1
    :: pins[old] == 0 ->
#else
    :: true ->
#endif
      take_frame(to);
      stored[to] = stored[old];
      written[to] = written[old];
      data_changing = 1;
      tlb_data = NONE;
      atomic { data_frame = to; data_write = 1; data_changing = 0 };
      free_frame(old)
    fi;
    seized = 0
  :: else
  fi;
  unlock()
}

inline move_code() {
  lock();
  old = code_frame;
  take_frame(to);
  stale[to] = 1;
  code_changing = 1;
#ifndef BROKEN_no_flush
  tlb_code = NONE;
#endif
  if
  :: atomic { code_frame = to; code_execute = 0; code_changing = 0 }  // lazy
  :: d_step {                                                          // eager
#ifndef BROKEN_no_sync
       stale[to] = 0;
#endif
       code_frame = to; code_execute = 1; code_changing = 0
     }
  fi;
  free_frame(old);
  unlock()
}

proctype mover() {
  byte old, to, moves;
  do
  :: moves < MOVES ->
    if
    :: move_data()
    :: move_code()
    fi;
    moves++
  :: moves == MOVES -> break
  od;
  finished++
}

init {
  atomic {
    used[0] = 1;
    used[1] = 1;
    run processor();
    run device();
    run mover()
  }
}

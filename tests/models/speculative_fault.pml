// A fault without the address-space lock, against unmap, against a change of its region, and against the removal of
// its table.
//
//   map[A] -> region     link -> table: [ A | B ]
//
// Two addresses in one leaf table. A's region is unmapped and mapped again, or changed, while threads fault on A and
// B; B's region stays. Whoever unmaps A finds the table empty or not, depending on B. fault() is
// AddressSpace::speculative_fault with Walker::add_table and publish, then the classic way; change() is unmap, map,
// protect and advise, with Walker::pass, RegionMap::seize, FlushBatch::commit and TablePool::retire. How a strict flush
// works is in flush.pml.
//
// The lives are for the assertions only: what is freed begins another life.

#define A 0
#define B 1
#define NONE 15
#define FAULTERS 2
#define CHANGES 2
#define FRAMES 2
#define BUDGET 1

mtype = { Free, Taken, Mapped, Gathered }  // frames; Gathered: by a FlushBatch
mtype = { Unused, InUse, Retired }         // regions and tables
mtype = { ReadOnly, ReadWrite }

typedef Region { byte sequence; mtype prot = ReadOnly }
typedef Table { bit locked; bit dead; byte entries; byte frame[2] = NONE; mtype prot[2] }

Table table[2];
Region region[3];          // the last is B's
#define TABLES 0
#define REGIONS 2
mtype state[5] = Unused;   // of tables, then of regions
byte life[5];
mtype frame[FRAMES] = Free;
byte map[2] = NONE;        // RegionMap: the region of each address
byte link = NONE;          // the parent's slot: the leaf table
bit link_locked;           // the parent's lock
bit space_lock;            // the address-space lock
byte in_flight;            // AddressSpace: frames that faults without the lock have taken and not yet mapped
byte really_in_flight;
bit reading[FAULTERS];     // rcu::Reader
byte finished;

#define same_table assert(life[TABLES + t] == table_life)
#define same_region assert(life[REGIONS + r] == region_life)

inline lock(bit_) { atomic { !bit_ -> bit_ = 1 } }

// FramePool: out of frames is an ordinary outcome.
inline take_frame(f) {
  d_step {
    f = 0;
    do
    :: f < FRAMES && frame[f] != Free -> f++
    :: f < FRAMES && frame[f] == Free -> frame[f] = Taken; break
    :: f == FRAMES -> f = NONE; break
    od
  }
}

// Walker::write of an absent entry: the entry and its table's count.
inline map_entry() {
  d_step {
    assert(frame[f] == Taken && table[t].frame[at] == NONE);
    assert(state[REGIONS + r] == InUse);  // its unmap has not returned
    frame[f] = Mapped;
    table[t].frame[at] = f;
    table[t].prot[at] = region[r].prot;
    table[t].entries++
  }
}

// TablePool::allocate, and regions likewise: what was retired is used again after a grace period, in which each
// reader is seen outside once (rcu::synchronize). Under the address-space lock.
inline allocate(first, i) {
  do
  :: i = (state[first] == Unused -> 0 : 1);
     if
     :: state[first + i] == Unused -> state[first + i] = InUse; break
     :: else ->
        !reading[0];
        !reading[1];
        d_step {
          i = 0;
          do
          :: i < 2 && state[first + i] == Retired -> state[first + i] = Unused; life[first + i]++; i++
          :: i < 2 && state[first + i] != Retired -> i++
          :: i == 2 -> break
          od
        }
     fi
  od
}

proctype fault(byte me, faults) {
  byte at, r, t, f, s, region_life, table_life;
  do
  :: faults == 0 -> break
  :: faults > 0 ->
     faults--;
     if
     :: at = A
     :: at = B
     fi;
     atomic {
       reading[me] = 1;
       r = map[at];
       if
       :: r == NONE -> goto classic
       :: else -> region_life = life[REGIONS + r]
       fi
     }
     atomic {
       same_region;
       s = region[r].sequence;
       if
       :: s % 2 == 1 -> goto classic
       :: else
       fi
     }
     atomic {
       t = link;
       if
       :: t != NONE -> table_life = life[TABLES + t]
       :: else  // below
       fi
     }
     if
     :: t == NONE ->  // Walker::add_table, with one that TablePool::take_stocked() had or not
        atomic {
          if
          :: link_locked -> goto classic
          :: !link_locked && state[TABLES] == Unused -> t = 0
          :: !link_locked && state[TABLES] != Unused && state[TABLES + 1] == Unused -> t = 1
          :: else -> goto classic
          fi;
          link_locked = 1;
          state[TABLES + t] = InUse;
          table_life = life[TABLES + t]
        }
        atomic {
          same_region;
          if
#ifndef BROKEN_table_without_check
          :: region[r].sequence != s -> state[TABLES + t] = Unused; link_locked = 0; goto classic
#endif
          :: link != NONE -> state[TABLES + t] = Unused; link_locked = 0; goto classic
          :: else
          fi
        }
        d_step {
          assert(state[REGIONS + r] == InUse);  // its unmap has not returned
          table[t].dead = 0;
          link = t;
          link_locked = 0
        }
     :: else
     fi;
     atomic {
       same_table;
       if
       :: table[t].frame[at] != NONE -> goto done  // somebody else was quicker: spurious
       :: else
       fi
     }
     in_flight++;
     if
     :: in_flight > BUDGET -> in_flight--; goto classic
     :: else
     fi;
     atomic {
       take_frame(f);
       if
       :: f == NONE -> in_flight--; goto classic
       :: else -> really_in_flight++; assert(really_in_flight <= BUDGET)
       fi
     }
#ifdef BROKEN_check_before_lock
     if
     :: region[r].sequence != s -> goto give_back
     :: else
     fi;
#endif
     atomic {  // TableLock::try_lock
       same_table;
       if
       :: table[t].locked -> goto give_back
       :: else -> table[t].locked = 1
       fi
     }
     atomic {
       same_table;
       same_region;
       if
#ifndef BROKEN_no_dead_check
       :: table[t].dead -> table[t].locked = 0; goto give_back
#endif
#if !defined(BROKEN_no_sequence_check) && !defined(BROKEN_check_before_lock)
       :: region[r].sequence != s -> table[t].locked = 0; goto give_back
#endif
#ifndef BROKEN_no_entry_check
       :: table[t].frame[at] != NONE -> table[t].locked = 0; goto give_back
#endif
       :: else
       fi
     }
     map_entry();
     d_step { table[t].locked = 0; in_flight--; really_in_flight-- }
     goto done;
give_back:
     atomic {
       frame[f] = Free;
       really_in_flight--;
#ifndef BROKEN_budget_kept
       in_flight--
#endif
     }
classic:
#ifndef BROKEN_classic_in_reader
     reading[me] = 0;
#endif
     lock(space_lock);
     r = map[at];
     if
     :: r == NONE  // refused: nothing is mapped here
     :: else ->
        if
        :: link == NONE ->
           allocate(TABLES, t);
           atomic {
             !link_locked;
             if
             :: link == NONE -> table[t].dead = 0; link = t
             :: else -> state[TABLES + t] = Unused; t = link
             fi
           }
        :: else -> t = link
        fi;
        lock(table[t].locked);
        if
        :: table[t].frame[at] == NONE ->
           take_frame(f);
           if
           :: f == NONE
           :: else -> map_entry()
           fi
        :: else
        fi;
        table[t].locked = 0
     fi;
     space_lock = 0;
done:
     atomic { reading[me] = 0; r = 0; t = 0; f = 0; s = 0; region_life = 0; table_life = 0 }
  od;
  finished++
}

// Walker::walk lets go by who has the parent's lock.
inline pass() {
#ifndef BROKEN_no_pass
  !link_locked
#else
  skip
#endif
}

// Walker::unmap and drop_if_empty, then FlushBatch::commit.
inline clear_a() {
  pass();
  t = link;
  f = NONE;
  gone = 0;
  if
#ifdef BROKEN_empty_without_lock
  :: t != NONE && table[t].frame[A] == NONE
#endif
  :: t != NONE ->
     lock(table[t].locked);
     d_step {
       f = table[t].frame[A];
       if
       :: f != NONE ->
          assert(frame[f] == Mapped);
          frame[f] = Gathered;
          table[t].frame[A] = NONE;
          table[t].entries--
       :: else
       fi
     }
     table[t].locked = 0;
     atomic { !table[t].locked -> gone = (table[t].entries == 0); table[t].dead = gone }
     if
     :: gone -> atomic { !link_locked -> link = NONE }
     :: else
     fi
  :: else
  fi;
  // Strict flush. Only then:
  if
  :: f != NONE -> frame[f] = Free
  :: else
  fi;
  if
#ifdef BROKEN_no_grace_period
  :: gone -> d_step { state[TABLES + t] = Unused; life[TABLES + t]++ }
#else
  :: gone -> state[TABLES + t] = Retired
#endif
  :: else
  fi
}

inline insert_region(permission) {
  allocate(REGIONS, fresh);
  atomic { region[fresh].sequence = 0; region[fresh].prot = permission; map[A] = fresh }
}

proctype change() {
  byte n, r, t, f, fresh;
  bit gone;
  do
  :: n == CHANGES -> break
  :: n < CHANGES ->
     n++;
     lock(space_lock);
     r = map[A];
     region[r].sequence++;           // seize
     if
     :: clear_a();                   // unmap
        map[A] = NONE;               // RegionMap::remove
        state[REGIONS + r] = Retired;   // it has returned
        assert(link == NONE || table[link].frame[A] == NONE);
        space_lock = 0;
        lock(space_lock);            // map, with another region and perhaps another table
        insert_region(ReadOnly)
     :: clear_a();                   // advise: the frames go, the region stays
        region[r].sequence++         // release
     :: pass();
        t = link;                    // protect: the entry changes, and a copy takes the region's place
        if
        :: t != NONE ->
           lock(table[t].locked);
           table[t].prot[A] = ReadWrite;
           table[t].locked = 0
        :: else
        fi;
        insert_region(ReadWrite);
        state[REGIONS + r] = Retired
     fi;
     assert(link == NONE || table[link].frame[A] == NONE || table[link].prot[A] == region[map[A]].prot);
     space_lock = 0;
     d_step { r = 0; t = 0; f = 0; gone = 0; fresh = 0 }
  od;
  finished++
}

init {
  byte f, i, at;
  atomic {
    state[REGIONS] = InUse;
    state[REGIONS + 2] = InUse;
    map[A] = 0;
    map[B] = 2;
    run fault(0, 1);
    run fault(1, 1);
    run change()
  }
  finished == FAULTERS + 1;
  // No frame was lost, none is mapped twice, and the books agree.
  d_step {
    assert(in_flight == 0);
    f = 0;
    do
    :: f < FRAMES ->
       i = 0;
       at = 0;
       do
       :: at < 2 && link != NONE -> i = i + (table[link].frame[at] == f); at++
       :: else -> break
       od;
       assert(i == (frame[f] == Mapped) && (frame[f] == Mapped || frame[f] == Free));
       f++
    :: else -> break
    od;
    assert(link == NONE || !table[link].dead);
    assert(link == NONE || table[link].entries == (table[link].frame[A] != NONE) + (table[link].frame[B] != NONE))
  }
}

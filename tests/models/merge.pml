// Merge and split, against faults without the address-space lock, a dump, and the processor's own walker.
//
//   parent slot -> block,  or  -> table: [ 0 | 1 | ... ]
//
// change() holds the address-space lock: Walker::merge, split_leaf, update, and FlushBatch with its DeferredTables.
// fault() is Walker::publish and upgrade, dump() Walker::dump; both read within an rcu::Reader. processor() caches
// translations and, as a paging-structure cache does, where the table is. Where the frames lie is left out: entries
// are uniform when they are alike. With ARM64 a leaf and a table change places by break-before-make.
//
// The lives are for the assertions only: a page that is freed begins another life.

#define PAGES 2
#define CHANGES 5
#define FAULTS 2
#define BLOCK PAGES        // the parent slot: a table page, or one of these
#define CHANGING 7
#define NONE 15

mtype = { Absent, ReadOnly, ReadWrite }                // entries
mtype = { Unused, InUse, Deferred, Retired }           // table pages
typedef Table { bit locked, dead; byte continuing; mtype entry[2] = Absent, state = Unused; byte life }

Table table[PAGES];
byte parent = BLOCK;
mtype block = ReadWrite;   // the leaf in the parent slot
bit parent_locked;
bit reading[2];            // rcu::Reader, of fault() and of dump()
mtype want[2] = ReadWrite;  // what the address maps, for the assertions

// The processor's caches.
byte cached_table = NONE, cached_life;
mtype cached[2] = Absent;
mtype cached_block = Absent;

// The processor walks on from the table that it knows of, if that yields anything new.
#define found(i) table[cached_table].entry[i]
#define leads_on(i) (cached_table != NONE && found(i) != Absent && found(i) != cached[i])
#define cached_alive assert(table[cached_table].life == cached_life)
#ifdef ARM64  // translations of both sizes at once are a fault of software
#define one_size assert(cached_block == Absent || (cached[0] == Absent && cached[1] == Absent))
#else
#define one_size skip
#endif

#define for_each_page(which, what) \
  p = 0; do :: p < PAGES && table[p].state == which -> what; p++ :: p < PAGES && table[p].state != which -> p++ \
  :: p == PAGES -> p = 0; break od

#define same_table assert(table[t].life == life)
inline lock(bit_) { atomic { !bit_ -> bit_ = 1 } }

// How many entries continue the first.
#define recount(t) (table[t].entry[0] != Absent && table[t].entry[1] == table[t].entry[0])

// Walker::write and count, with the table's lock held.
inline write(i, e, kept) {
  d_step { table[t].entry[i] = e; want[i] = e }
  if
  :: kept -> table[t].continuing = recount(t)
  :: else
  fi
}

// What a flush drops everywhere; how, is in flush.pml. Tables that merges took away ride along.
inline flush_strict() {
  d_step {
    cached_table = NONE; cached_life = 0; cached[0] = Absent; cached[1] = Absent; cached_block = Absent;
    for_each_page(Deferred, table[p].state = Retired)
  }
}

// TablePool::allocate: a new page, or those retired, after a grace period. Deferred ones are flushed first.
inline allocate() {
  do
  :: table[0].state == Unused -> t = 0; break
  :: table[0].state != Unused && table[1].state == Unused -> t = 1; break
  :: table[0].state != Unused && table[1].state != Unused ->
     if
     :: table[0].state == Deferred || table[1].state == Deferred -> flush_strict()
     :: else
     fi;
#ifndef BROKEN_no_grace_period
     !reading[0];
     !reading[1];
#endif
     d_step { for_each_page(Retired, table[p].state = Unused; table[p].life++) }
  od;
  table[t].state = InUse
}

// The parent's slot from one kind of entry to the other, with the parent's lock held.
inline change_places(to) {
#if defined(ARM64) && !defined(BROKEN_no_break)
  parent = CHANGING;
  flush_strict();
#endif
  parent = to
}

inline merge() {
  lock(parent_locked);
  t = parent;
  lock(table[t].locked);
  if
#ifdef BROKEN_no_recheck
  :: true ->
#else
  :: table[t].continuing == 1 ->
#endif
#ifndef BROKEN_no_dead_mark
     table[t].dead = 1;
#endif
     block = table[t].entry[0];
     change_places(BLOCK);
#ifdef BROKEN_no_flush
     table[t].state = Retired
#else
     table[t].state = Deferred
#endif
#ifndef BROKEN_no_recheck
  :: else
#endif
  fi;
  table[t].locked = 0;
  parent_locked = 0
}

inline split() {
  allocate();
  lock(parent_locked);
  d_step { table[t].entry[0] = block; table[t].entry[1] = block; table[t].continuing = 1; table[t].dead = 0 }
  change_places(t);
  parent_locked = 0
}

inline update_entry(i, e) {
  t = parent;
  lock(table[t].locked);
  write(i, e, true);
  table[t].locked = 0;
  flush_strict()
}

// Every address maps what was last written for it, the counts are right, and after a strict flush nobody may do more.
inline audit() {
  d_step {
    t = parent;
    i = 0;
    do
    :: i == 2 -> break
    :: i < 2 ->
       assert(want[i] == (t == BLOCK -> block : table[t].entry[i]));
       assert(cached[i] == Absent || cached[i] == want[i] || want[i] == ReadWrite);
       assert(cached_block == Absent || cached_block == want[i] || want[i] == ReadWrite);
       i++
    od;
    assert(t == BLOCK || table[t].locked || table[t].continuing == recount(t));
    assert(t == BLOCK || !table[t].dead);
    i = 0;
    t = 0
  }
}

proctype change() {
  byte n, t, i, p;
  do
  :: n == CHANGES -> break
  :: n < CHANGES ->
     n++;
     if
     :: parent == BLOCK -> split()
     :: parent == BLOCK -> lock(parent_locked); d_step { block = ReadOnly; want[0] = ReadOnly; want[1] = ReadOnly };
        parent_locked = 0; flush_strict()
     :: parent != BLOCK && table[parent].continuing == 1 -> merge()
     :: parent != BLOCK -> update_entry(0, Absent)
     :: parent != BLOCK -> update_entry(1, ReadOnly)
     fi;
     audit()
  od
}

proctype fault() {
  byte faults = FAULTS, t, i, life;
  mtype seen;
  do
  :: faults == 0 -> break
  :: faults > 0 ->
     faults--;
     if
     :: i = 0
     :: i = 1
     fi;
     atomic {
       reading[0] = 1;
       t = parent;
       if
       :: t < PAGES -> life = table[t].life
       :: else
       fi
     }
     if
     :: t == CHANGING  // classic
     :: t == BLOCK ->
        atomic {  // the parent's lock, tried once
          if
          :: !parent_locked -> parent_locked = 1
          :: else -> goto done
          fi
        }
        if
        :: parent == BLOCK && block == ReadOnly ->
           d_step { block = ReadWrite; want[0] = ReadWrite; want[1] = ReadWrite }
        :: else
        fi;
        parent_locked = 0
     :: t < PAGES ->
        atomic { same_table; seen = table[t].entry[i] }
        atomic {
          same_table;
          if
          :: !table[t].locked && seen != ReadWrite -> table[t].locked = 1
          :: else -> goto done
          fi
        }
        same_table;
        if
        :: !table[t].dead && table[t].entry[i] == seen ->
#ifdef BROKEN_count
           write(i, ReadWrite, seen == Absent)  // publish() keeps the count, upgrade() does not
#else
           write(i, ReadWrite, true)
#endif
        :: else
        fi;
        table[t].locked = 0
     fi;
done:
     atomic { reading[0] = 0; t = 0; i = 0; life = 0; seen = 0 }
  od
}

proctype dump() {
  byte walks = 2, t, life;
  do
  :: walks == 0 -> break
  :: walks > 0 ->
     walks--;
     atomic {
       reading[1] = 1;
       t = parent;
       if
       :: t < PAGES -> life = table[t].life
       :: else -> goto done
       fi
     }
     same_table;  // it reads the entries, one
     same_table;  // after the other
done:
     atomic { reading[1] = 0; t = 0; life = 0 }
  od
}

proctype processor() {
end:
  do
  :: atomic { parent < PAGES && cached_table != parent -> cached_table = parent; cached_life = table[parent].life }
  :: atomic { parent == BLOCK && cached_block != block -> cached_block = block ; one_size }
  :: atomic { leads_on(0) -> cached_alive; cached[0] = found(0) ; one_size }
  :: atomic { leads_on(1) -> cached_alive; cached[1] = found(1) ; one_size }
  od
}

init { atomic { run change(); run fault(); run dump(); run processor() } }

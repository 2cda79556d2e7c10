// The process machine's mirror: fills, flushes, gains and evictions of one page, by two vCPUs and whoever changes its entry.
//
// What is mapped, noted and waiting to be made is how much may be done with the page: nothing, reading, or writing. cpu() is
// ProcessVcpu::run with Mirror::enter and evict, and the thread of the guest's process that carries out its list. change()
// is protect and unmap with the address-space lock: Mirror::flush with make_batch, and Mirror::gained.

#define CPUS 2
#define CHANGES 2
#define NOTHING 0
#define READ 1
#define WRITE 2
#define NONE 3                // no change

byte entry = WRITE;           // what the page's entry allows
byte noted = NOTHING;
byte mapped = NOTHING;        // by the process: of all its threads
byte pending = NONE, gain = NONE;
byte batch = NONE;            // that the mapper is to make

// A vCPU's list: what waited, what was gained, what it fills; in this order.
typedef List { byte pending; byte gain; byte fill }
List list[CPUS];
bit applied[CPUS] = 1;
bit settling[CPUS];
#define maps(who, what) (list[who].pending == what || list[who].gain == what || list[who].fill == what)
// Whether a list or a batch under way maps something else than the entry says.
#define differs(who) (!applied[who] && (maps(who, NOTHING) || (entry != READ && maps(who, READ)) || (entry != WRITE && maps(who, WRITE))))
bit inside[CPUS];

byte most = WRITE;            // for the assertion: what guest code may do, now that flushes have returned

inline make(what) {
  if
  :: what != NONE -> atomic { mapped = what; what = NONE }
  :: else
  fi
}

// What lists and batches under way may still map stays noted.
inline note_underway() {
  noted = NOTHING;
  other = 0;
  do
  :: other < CPUS ->
    if
    :: !applied[other] && list[other].fill != NONE -> noted = list[other].fill
    :: !applied[other] && list[other].fill == NONE && list[other].gain != NONE -> noted = list[other].gain
    :: else
    fi;
    other++
  :: else -> break
  od;
  if
  :: batch != NONE && batch > noted -> noted = batch
  :: else
  fi
}

inline evict() {
  d_step { gain = NONE; note_underway(); pending = NOTHING }
}

#ifdef BROKEN_fills_in_any_order
#define conflict(who) 0
#else
#define conflict(who) (differs(who) || (batch != NONE && batch != entry))
#endif

proctype cpu(byte me) {
  byte other;
  bit fault;
  do
  :: atomic {
       (!(fault && entry != NOTHING && conflict(1 - me))
#ifndef BROKEN_settling
         && !(settling[1 - me] && !applied[1 - me])
#endif
       ) ->
       settling[me] = (pending != NONE);
       list[me].pending = pending;
       list[me].gain = gain;
       list[me].fill = NONE;
       pending = NONE;
       gain = NONE;
       if
       :: fault && entry != NOTHING ->
         list[me].fill = entry;
#ifndef BROKEN_fill_not_noted
         noted = entry
#endif
       :: else
       fi;
       applied[me] = 0;
       inside[me] = 1
     }
     make(list[me].pending);
     make(list[me].gain);
     make(list[me].fill);
     applied[me] = 1;
     // Guest code.
     assert(mapped <= most);
     assert(mapped <= most);
     fault = (mapped != WRITE);
     inside[me] = 0;
     if
     :: true
     :: evict()               // the host refused what it filled, or there are too many mappings
     fi
  od
}

inline flush() {
  atomic {
    wait_for[0] = 0;
    wait_for[1] = 0;
    other = 0;
    do
    :: other < CPUS ->
#ifndef BROKEN_lists_not_waited_for
#ifdef BROKEN_unmapping_not_waited_for
      wait_for[other] = !applied[other] && (list[other].fill != NONE || list[other].gain != NONE);
#else
      wait_for[other] = !applied[other] && (list[other].fill != NONE || list[other].gain != NONE || list[other].pending != NONE);
#endif
#endif
      other++
    :: else -> break
    od;
    if
    :: noted != NOTHING && noted != entry ->
      noted = entry;
      pending = entry;
#ifndef BROKEN_gain_kept
      gain = NONE
#endif
    :: else ->
#ifdef BROKEN_evicted_under_others
      goto waits
#endif
    fi;
    if
    :: pending != NONE && (inside[0] || inside[1]) -> batch = pending; pending = NONE
    :: else
    fi
  }
#ifdef BROKEN_evicted_under_others
waits:
#endif
  !wait_for[0] || applied[0];
  !wait_for[1] || applied[1];
  make(batch)
}

proctype change() {
  byte other, round;
  bit wait_for[CPUS];
  do
  :: round < CHANGES ->
    if
    :: entry = NOTHING
    :: entry = READ
    fi;
    flush();
    most = entry;
    // And back. Nothing is said of it where the entry was empty: there is nothing that could be mapped anew.
    most = WRITE;
    atomic {
      entry = WRITE;
      if
      :: noted == READ -> noted = WRITE; gain = WRITE
      :: else
      fi
    }
    ;round++
  :: else -> break
  od
}

init {
  atomic { run cpu(0); run cpu(1); run change() }
}

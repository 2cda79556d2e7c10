// Strict and relaxed flushes with their generations, what a vCPU may hold of an entry, and changes without a flush.
//
// One address with one entry, and on each vCPU a TLB of one entry, which survives leaving the guest and, as on arm64,
// the fault that it causes. cpu() is the processor, which fills, drops and uses its TLB as it likes, and the vCPU's
// thread: KvmVcpu::announce and leave, then AddressSpace::fault. change() is protect, map and unmap by a thread without
// a vCPU: Walker::write and loses, EntryFlush::flush, KvmMachine::flush and expel_older_than. A fault without the
// address-space lock may flush at the same time, for another address: each waits for the generation that it made itself.
// Tables that merges took away ride along with the next strict flush: see merge.pml.

#define CPUS 2
#define CHANGES 2

typedef Entry { bit present; bit frame; bit write; bit accessed; bit dirty }

Entry pte;
Entry tlb[CPUS];              // without the accessed bit
bit region_write = 1;         // the region permits writing
bit region_frame;             // what a fault maps
byte generation = 1;          // FlushState: of strict flushes
byte announced[CPUS];         // KvmVcpu::guest_generation, 0: not in the guest
byte reloaded[CPUS] = 1;      // the generation at which the vCPU dropped its TLB
bit behind[CPUS];             // Tlb::generation, of relaxed flushes, is not what it was when the vCPU last looked
bit kicked[CPUS];
bit space_lock;

// For the assertions only.
bit may_use[2];               // the frame is the guest's; until a strict flush that takes it away has returned
bit may_write = 1;            // the same for the permission
bit stored[2], known_dirty[2];  // the guest wrote into the frame; the VMM has found that out
bit changing;                 // the entry has changed, its flush is not over
byte spurious[CPUS];          // faults in a row, while nothing changed

inline lock(bit_) { atomic { !bit_ -> bit_ = 1 } }

inline drop() { d_step { tlb[me].present = 0; tlb[me].frame = 0; tlb[me].write = 0; tlb[me].dirty = 0 } }

// The processor's walk. It sets accessed, and dirty before a write, by an atomic update of the entry as it is now.
inline fill(for_write) {
  d_step {
    pte.accessed = 1;
    pte.dirty = pte.dirty || for_write;
    tlb[me].present = 1;
    tlb[me].frame = pte.frame;
    tlb[me].write = pte.write;
    tlb[me].dirty = pte.dirty;
    spurious[me] = 0
  }
}

inline look() {
  d_step {
    old.present = pte.present; old.frame = pte.frame; old.write = pte.write; old.accessed = pte.accessed;
    old.dirty = pte.dirty
  }
}

inline forget() { old.present = 0; old.frame = 0; old.write = 0; old.accessed = 0; old.dirty = 0 }

// Walker::write: compare and exchange, with what was read before; again, if the processor has set a bit meanwhile.
inline exchange(is_present, which, can_write, is_accessed, is_dirty) {
  d_step {
#ifndef BROKEN_plain_store
    look();
#endif
    pte.present = is_present; pte.frame = which; pte.write = can_write; pte.accessed = is_accessed;
    pte.dirty = is_dirty;
    known_dirty[old.frame] = known_dirty[old.frame] || (old.present && old.dirty);
    spurious[0] = 0; spurious[1] = 0;
    changing = 1
  }
}

// EntryFlush::flush with nothing lost.
inline flush_relaxed() {
#ifndef BROKEN_relaxed_keeps_generation
  d_step { behind[0] = 1; behind[1] = 1 }
#endif
  changing = 0
}

proctype cpu(byte me) {
  byte g;
  bit for_write;
  Entry old;
enter:
  g = generation;
  announced[me] = g;
#ifndef BROKEN_no_recheck
  atomic {
    if
    :: generation != g -> announced[me] = 0; goto enter
    :: else
    fi
  }
#endif
  atomic {
    if
    :: reloaded[me] != g -> drop(); reloaded[me] = g
    :: else
    fi;
    g = 0
  }
  do  // in the guest
  :: kicked[me] -> atomic { kicked[me] = 0; announced[me] = 0; goto enter }
  :: tlb[me].present -> drop()
  :: atomic { tlb[me].present -> assert(may_use[tlb[me].frame]) }
  :: atomic {
       tlb[me].present && tlb[me].write && tlb[me].dirty ->
       assert(may_use[tlb[me].frame] && may_write);
       stored[tlb[me].frame] = 1
     }
  :: atomic { !tlb[me].present && pte.present -> fill(0) }
  :: atomic { (!tlb[me].present || (tlb[me].write && !tlb[me].dirty)) && pte.present && pte.write -> fill(1) }
  :: atomic { !tlb[me].present && !pte.present -> for_write = 0; break }
  :: atomic { tlb[me].present && !tlb[me].write -> for_write = 1; break }
  :: atomic { !(tlb[me].present && tlb[me].dirty) && !(pte.present && pte.write) -> for_write = 1; break }
  od;
  announced[me] = 0;
  atomic {
    if
    :: pte.present && (pte.write || !for_write) ->
       if
       :: changing
       :: else -> spurious[me]++; assert(spurious[me] < 3)
       fi
    :: else -> goto classic
    fi
  }
  atomic {
    if
    :: behind[me] -> behind[me] = 0; drop()
    :: else
    fi;
    goto enter
  }
classic:
  lock(space_lock);
  if
  :: for_write && !region_write  // the guest gets a signal
  :: pte.present && (!for_write || pte.write)
  :: !pte.present && (!for_write || region_write) ->
     atomic { exchange(1, region_frame, region_write, 1, for_write); changing = 0 }  // nobody holds an absent entry
  :: pte.present && for_write && !pte.write && region_write ->
     look();
     exchange(1, old.frame, 1, 1, 1);
     flush_relaxed();
     atomic { behind[me] = 0; drop() }
  fi;
  atomic { space_lock = 0; for_write = 0; forget() }
  goto enter
}

// Whether a processor can have used the old entry for what the new one does not allow.
#ifdef BROKEN_skip_accessed
#define USED (old.present && old.dirty)
#else
#define USED (old.present && old.accessed)
#endif
#ifdef BROKEN_skip_dirty
#define USED_FOR_WRITE 0
#else
#define USED_FOR_WRITE (USED && old.write && old.dirty)
#endif

inline flush_strict() {
  atomic { generation++; mine = generation }
  i = 0;
  do
  :: i == CPUS -> break
  :: i < CPUS ->
     atomic {
       if
       :: announced[i] != 0 && announced[i] < mine -> kicked[i] = 1
       :: else
       fi;
       i++
     }
  od;
#ifndef BROKEN_no_acknowledge
  announced[0] == 0 || announced[0] >= mine;
  announced[1] == 0 || announced[1] >= mine;
#endif
  atomic { i = 0; mine = 0; changing = 0 }
}

proctype change() {
  byte n, i, mine;
  bit f;
  Entry old;
  do
  :: n == CHANGES -> break
  :: n < CHANGES ->
     n++;
     lock(space_lock);
     if
     :: region_write ->         // protect: read-only
        region_write = 0;
        look();
        exchange(old.present, old.frame, 0, old.accessed, old.dirty);
        if
        :: USED_FOR_WRITE -> flush_strict()
        :: else -> flush_relaxed()
        fi;
        may_write = 0
     :: !region_write ->        // protect: writable, at once or by the next fault
        d_step { region_write = 1; may_write = 1 }
        if
        :: look(); exchange(old.present, old.frame, 1, old.accessed, old.dirty); flush_relaxed()
        :: true
        fi
     :: f = 1 - region_frame;   // another frame, mapped at once (not yet accessed) or by the next fault
        d_step { region_frame = f; may_use[f] = 1 }
        if
        :: look(); exchange(0, 0, 0, 0, 0)
        :: look(); exchange(1, f, region_write, 0, 0)
        fi;
        if
        :: USED -> flush_strict()
        :: else -> flush_relaxed()
        fi;
        atomic {                // the old frame is given to somebody else
          assert(!stored[1 - f] || known_dirty[1 - f]);
          may_use[1 - f] = 0;
          stored[1 - f] = 0;
          known_dirty[1 - f] = 0
        }
     fi;
     atomic { space_lock = 0; f = 0; forget() }
  od
}

init {
  atomic {
    may_use[0] = 1;
    run cpu(0);
    run cpu(1);
    run change()
  }
}

// The software CPU's flushes: what a vCPU keeps of one page's entry, two who change the entry, and the notes by which the
// vCPU hears of it. cpu() is SoftVcpu::run with enter(), leave() and carry_out_notes(), and the engine, which looks at the
// entry whenever it has kept nothing. change() is note_flush() and wait_until_out(), as SoftMachine::flush() calls them.

#define CHANGERS 2

byte entry = 1;       // which frame it leads to
byte kept;            // which one the vCPU has kept; 0: none
byte inside;          // odd: guest code runs
bit noted, notes, halted;
bit freed[4];         // frames that nobody may use any more

proctype cpu() {
  do
  :: inside = 1 - inside;                       // enter()
     if
#ifndef BROKEN_no_look_for_notes
     :: noted ->
       inside = 1 - inside;
       atomic { noted = 0; if :: notes -> notes = 0; kept = 0 :: else fi }  // with notes_lock_
     :: else ->
#else
     :: true ->
#endif
       do                                       // guest code
       :: !halted ->
         if
         :: kept == 0 -> kept = entry
         :: else
         fi;
         assert(!freed[kept])
       :: halted -> break
       od;
       halted = 0;
       inside = 1 - inside
     fi
  od
}

proctype change(byte me) {
  byte old;
  bit seen;
  atomic { old = entry; entry = 2 + me }        // with the address-space lock
#ifdef BROKEN_noted_before_the_note
  noted = 1;
  notes = 1;
#else
  notes = 1;
  noted = 1;
#endif
#ifdef BROKEN_no_wait
  seen = 0;
#else
  seen = inside;
#endif
  if
  :: seen -> halted = 1; (inside != seen)
  :: else
  fi;
  freed[old] = 1
}

init {
  atomic { run cpu(); run change(0); run change(1) }
}

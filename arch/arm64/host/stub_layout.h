/* The interface between the VMM and the trap stub (stub.S). */
#ifndef RAMET_ARCH_ARM64_STUB_LAYOUT_H
#define RAMET_ARCH_ARM64_STUB_LAYOUT_H

/* The page that SP_EL1 points to, one a vCPU: what a trap saves and a resume restores. Offsets. */
#define STUB_REGS 0         /* X0 to X30, SP_EL0, ELR_EL1, SPSR_EL1: as in UserRegs */
#define STUB_ESR 272        /* of the trap */
#define STUB_FAR 280
#define STUB_THREAD 288     /* TPIDR_EL0 */
#define STUB_COMMAND 296    /* u64: what a resume does first, bits below */
#define STUB_RANGES 304     /* u64: how many ranges a flush drops, at most STUB_MOST_RANGES; 0: everything */
#define STUB_RANGE 312      /* each, u64: the number of the first page, and how many pages, not 0 */
#define STUB_MOST_RANGES 8
#define STUB_FP 512         /* as in FpSimd */

#define STUB_DO_FLUSH 0     /* drop translations, on every processor */
#define STUB_DO_LOAD_FP 1   /* load the vector registers from STUB_FP */
#define STUB_DO_SAVE_FP 2   /* store them there */
#define STUB_DO_RETURN 3    /* then leave again, with STUB_RETURNED */

/* A store to the hole, a page without memory at this offset from the stub's, leaves to the VMM. The value stored is the
   number of the vector, of 128 bytes each in the order of the Arm ARM, or STUB_RETURNED. */
#define STUB_HOLE 0x2000
#define STUB_VECTORS 16
#define STUB_RETURNED 16
#define STUB_VECTOR_SYNCHRONOUS 8   /* of 64-bit user code */
#define STUB_VECTOR_INTERRUPT 9

#endif

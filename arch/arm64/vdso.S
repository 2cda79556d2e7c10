// The vDSO that arm64 guest programs find by AT_SYSINFO_EHDR: an ELF file of one page, laid out by hand, which is copied
// into each program's memory. Its functions make the system call: no host has functions that those programs could call.
// All addresses are relative to the image. Any host assembles it: instructions are data, each with its name beside it.

#define MOV_X8(number) .long 0xd2800008 | (number) << 5   // mov x8, #number
#define SVC            .long 0xd4000001                   // svc #0
#define RET            .long 0xd65f03c0                   // ret
#define NOP            .long 0xd503201f                   // nop

	.section .rodata.ramet_vdso_arm64, "a", %progbits
	.balign 64
	.globl ramet_vdso_arm64, ramet_vdso_arm64_end, ramet_vdso_arm64_rt_sigreturn
ramet_vdso_arm64:
vdso:
	// ELF header
	.byte	0x7f, 'E', 'L', 'F', 2, 1, 1, 0       // 64 bits, little-endian
	.quad	0
	.short	3, 183                                // ET_DYN, EM_AARCH64
	.long	1
	.quad	0, segments - vdso, 0                 // no entry, no sections
	.long	0
	.short	64, 56, 3, 64, 0, 0                   // sizes, and how many segments
segments:
	.long	1, 5                                  // PT_LOAD, to be read and executed
	.quad	0, 0, 0, image_end - vdso, image_end - vdso, 0x1000
	.long	2, 4                                  // PT_DYNAMIC
	.quad	dynamic - vdso, dynamic - vdso, dynamic - vdso, dynamic_end - dynamic, dynamic_end - dynamic, 8
	.long	0x6474e550, 4                         // PT_GNU_EH_FRAME
	.quad	frames_header - vdso, frames_header - vdso, frames_header - vdso, frames - frames_header, frames - frames_header, 4

	.balign	8
dynamic:
	.quad	14, name_file - names                 // DT_SONAME
	.quad	4, hash - vdso                        // DT_HASH
	.quad	5, names - vdso                       // DT_STRTAB
	.quad	10, names_end - names                 // DT_STRSZ
	.quad	6, symbols - vdso                     // DT_SYMTAB
	.quad	11, 24                                // DT_SYMENT
	.quad	0x6ffffff0, versions - vdso           // DT_VERSYM
	.quad	0x6ffffffc, version_names - vdso      // DT_VERDEF
	.quad	0x6ffffffd, 2                         // DT_VERDEFNUM
	.quad	0, 0
dynamic_end:

	// Symbols: STB_GLOBAL, of the given type. Section 1 means "defined".
	.macro	symbol label type name
	.long	\name - names
	.byte	1 << 4 | \type, 0
	.short	1
	.quad	\label - vdso, \label\()_end - \label
	.endm
symbols:
	.quad	0, 0, 0
	symbol	rt_sigreturn 0 name_rt_sigreturn
	symbol	gettimeofday 2 name_gettimeofday
	symbol	clock_gettime 2 name_clock_gettime
	symbol	clock_getres 2 name_clock_getres

hash:	.long	1, 5                                  // one bucket: each symbol leads to the next
	.long	1
	.long	0, 2, 3, 4, 0

version_names:
	.short	1, 1, 1, 1                            // the file's own
	.long	0x0deebfa1, 20, 28
	.long	name_file - names, 0
	.short	1, 0, 2, 1
	.long	0x075fcb89, 20, 0                     // the ELF hash of its name
	.long	name_version - names, 0
versions:
	.short	0, 2, 2, 2, 2

names:	.byte	0
name_file:          .asciz "linux-vdso.so.1"
name_version:       .asciz "LINUX_2.6.39"
name_rt_sigreturn:  .asciz "__kernel_rt_sigreturn"
name_gettimeofday:  .asciz "__kernel_gettimeofday"
name_clock_gettime: .asciz "__kernel_clock_gettime"
name_clock_getres:  .asciz "__kernel_clock_getres"
names_end:

	// For unwinders: functions without frames. Without rt_sigreturn, which unwinders recognise by its instructions, as
	// they do in Linux's own vDSO.
	.balign	4
frames_header:
	.byte	1, 0x1b, 0x03, 0x3b                   // relative to here, to here, a number, relative to the header
	.long	frames - .
	.long	1
	.long	text - frames_header, text_frames - frames_header
frames:	.long	common_end - common
common:	.long	0
	.byte	1
	.asciz	"zR"
	.byte	4, 0x78, 30, 1, 0x1b                  // units of 4 and -8, the return address, pointers relative to here
	.byte	0x0c, 31, 0                           // DW_CFA_def_cfa SP + 0; the return address stays in x30
	.balign	4, 0
common_end:
text_frames:
	.long	text_frames_end - 1f
1:	.long	1b - common + 4
	.long	text - .
	.long	text_end - text
	.byte	0
	.balign	4, 0
text_frames_end:
	.long	0

	.balign	64
// Unwinders look up the address before a return address: this keeps it out of another function.
	NOP
// Where a handler without SA_RESTORER returns to.
ramet_vdso_arm64_rt_sigreturn:
rt_sigreturn:
	MOV_X8(139)
	SVC
rt_sigreturn_end:

	.balign	16
text:
// int gettimeofday(struct timeval *x0, struct timezone *x1)
gettimeofday:
	MOV_X8(169)
	SVC
	RET
gettimeofday_end:

	.balign	16
// int clock_gettime(clockid_t w0, struct timespec *x1)
clock_gettime:
	MOV_X8(113)
	SVC
	RET
clock_gettime_end:

	.balign	16
// int clock_getres(clockid_t w0, struct timespec *x1)
clock_getres:
	MOV_X8(114)
	SVC
	RET
clock_getres_end:
text_end:
image_end:
ramet_vdso_arm64_end:
	.section .note.GNU-stack, "", %progbits

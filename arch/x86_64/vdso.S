// The vDSO that guest programs find by AT_SYSINFO_EHDR: an ELF file of one page, laid out by hand, which is copied into
// each program's memory. Where the machine lets programs reach the host's own vDSO, its functions call the host's;
// otherwise, and for clocks that the host's do not give, they make the system call. All addresses are relative to the
// image; its data is in the page before it.
#include <sys/syscall.h>

#include "arch/vdso_layout.h"

#define DATA(field) vdso - VDSO_PAGE + field(%rip)

	.section .rodata.ramet_vdso, "a", @progbits
	.balign 64
	.globl ramet_vdso, ramet_vdso_end
ramet_vdso:
vdso:
	// ELF header
	.byte	0x7f, 'E', 'L', 'F', 2, 1, 1, 0       // 64 bits, little-endian
	.quad	0
	.short	3, 62                                 // ET_DYN, EM_X86_64
	.long	1
	.quad	0, segments - vdso, 0                 // no entry, no sections
	.long	0
	.short	64, 56, 3, 64, 0, 0                   // sizes, and how many segments
segments:
	.long	1, 5                                  // PT_LOAD, to be read and executed
	.quad	0, 0, 0, image_end - vdso, image_end - vdso, VDSO_PAGE
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

	// Symbols: the full name as STB_GLOBAL and the short one as STB_WEAK; both STT_FUNC. Section 1 means "defined".
	.macro	symbol label binding name
	.long	\name - names
	.byte	\binding << 4 | 2, 0
	.short	1
	.quad	\label - vdso, \label\()_end - \label
	.endm
symbols:
	.quad	0, 0, 0
	symbol	clock_gettime 1 name_vdso_clock_gettime
	symbol	clock_gettime 2 name_clock_gettime
	symbol	gettimeofday 1 name_vdso_gettimeofday
	symbol	gettimeofday 2 name_gettimeofday
	symbol	time 1 name_vdso_time
	symbol	time 2 name_time
	symbol	clock_getres 1 name_vdso_clock_getres
	symbol	clock_getres 2 name_clock_getres
	symbol	getcpu 1 name_vdso_getcpu
	symbol	getcpu 2 name_getcpu
symbols_end:

hash:	.long	1, 11                                 // one bucket: each symbol leads to the next
	.long	1
	.long	0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0

version_names:
	.short	1, 1, 1, 1                            // the file's own
	.long	0x0deebfa1, 20, 28
	.long	name_file - names, 0
	.short	1, 0, 2, 1
	.long	0x03ae75f6, 20, 0                     // the ELF hash of its name
	.long	name_version - names, 0
versions:
	.short	0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2

names:	.byte	0
name_file:               .asciz "linux-vdso.so.1"
name_version:            .asciz "LINUX_2.6"
name_vdso_clock_gettime: .ascii "__vdso_"
name_clock_gettime:      .asciz "clock_gettime"
name_vdso_gettimeofday:  .ascii "__vdso_"
name_gettimeofday:       .asciz "gettimeofday"
name_vdso_time:          .ascii "__vdso_"
name_time:               .asciz "time"
name_vdso_clock_getres:  .ascii "__vdso_"
name_clock_getres:       .asciz "clock_getres"
name_vdso_getcpu:        .ascii "__vdso_"
name_getcpu:             .asciz "getcpu"
names_end:

	// For unwinders: one function's worth, as only clock_gettime has a frame, for a few instructions.
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
	.byte	1, 0x78, 16, 1, 0x1b                  // units of 1 and -8, the return address, pointers relative to here
	.byte	0x0c, 7, 8, 0x90, 1                   // DW_CFA_def_cfa RSP + 8; the return address lies 8 below that
	.balign	4, 0
common_end:
text_frames:
	.long	text_frames_end - 1f
1:	.long	1b - common + 4
	.long	text - .
	.long	text_end - text
	.byte	0, 0x03                               // DW_CFA_advance_loc2
	.short	frame_begin - text
	.byte	0x0e, 32, 0x03                        // DW_CFA_def_cfa_offset
	.short	frame_end - frame_begin
	.byte	0x0e, 8
	.balign	4, 0
text_frames_end:
	.long	0

	.balign	64
text:
// int clock_gettime(clockid_t edi, struct timespec *rsi)
clock_gettime:
	cmp	$31, %edi
	ja	2f
	mov	DATA(VDSO_SAME), %eax
	bt	%edi, %eax
	jnc	1f
	jmp	*DATA(VDSO_CLOCK_GETTIME)
1:	mov	DATA(VDSO_MOVED), %eax
	bt	%edi, %eax
	jnc	2f
	sub	$24, %rsp
frame_begin:
	mov	%edi, (%rsp)
	mov	%rsi, 8(%rsp)
	call	*DATA(VDSO_CLOCK_GETTIME)
	mov	(%rsp), %edi
	mov	8(%rsp), %rsi
	add	$24, %rsp
frame_end:
	test	%eax, %eax
	jnz	3f
	shl	$4, %edi
	lea	DATA(VDSO_OFFSETS), %rdx
	mov	(%rdx,%rdi), %rcx
	mov	8(%rdx,%rdi), %rdx
	add	(%rsi), %rcx
	add	8(%rsi), %rdx
	cmp	$1000000000, %rdx
	jl	4f
	sub	$1000000000, %rdx
	inc	%rcx
4:	mov	%rcx, (%rsi)
	mov	%rdx, 8(%rsi)
3:	ret
2:	mov	$SYS_clock_gettime, %eax
	syscall
	ret
clock_gettime_end:

	.balign	16
// int clock_getres(clockid_t edi, struct timespec *rsi)
clock_getres:
	cmp	$31, %edi
	ja	1f
	mov	DATA(VDSO_SAME), %eax
	or	DATA(VDSO_MOVED), %eax
	bt	%edi, %eax
	jnc	1f
	cmpq	$0, DATA(VDSO_CLOCK_GETRES)
	je	1f
	jmp	*DATA(VDSO_CLOCK_GETRES)
1:	mov	$SYS_clock_getres, %eax
	syscall
	ret
clock_getres_end:

	.balign	16
// int gettimeofday(struct timeval *rdi, struct timezone *rsi): the host's time zone is not the program's
gettimeofday:
	test	%rsi, %rsi
	jnz	1f
	cmpq	$0, DATA(VDSO_GETTIMEOFDAY)
	je	1f
	jmp	*DATA(VDSO_GETTIMEOFDAY)
1:	mov	$SYS_gettimeofday, %eax
	syscall
	ret
gettimeofday_end:

	.balign	16
// time_t time(time_t *rdi)
time:
	cmpq	$0, DATA(VDSO_TIME)
	je	1f
	jmp	*DATA(VDSO_TIME)
1:	mov	$SYS_time, %eax
	syscall
	ret
time_end:

	.balign	16
// int getcpu(unsigned *rdi, unsigned *rsi, void *rdx)
getcpu:
	cmpq	$0, DATA(VDSO_GETCPU)
	je	1f
	jmp	*DATA(VDSO_GETCPU)
1:	mov	$SYS_getcpu, %eax
	syscall
	ret
getcpu_end:
text_end:
image_end:
ramet_vdso_end:
	.section .note.GNU-stack, "", @progbits

// helpers.bpf.c, as clang made it. RAMET_BPF_HELPERS is the object's path.
	.section .rodata.ramet_bpf_helpers, "a", %progbits
	.balign 8
	.globl ramet_bpf_helpers, ramet_bpf_helpers_end
ramet_bpf_helpers:
	.incbin RAMET_BPF_HELPERS
ramet_bpf_helpers_end:
	.section .note.GNU-stack, "", %progbits

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where Xen starts a paravirtual guest: page tables and a stack are there, and rsi holds the start info's address. */
#include <xen/elfnote.h>

#define NOTE(type, value...)                                                          \
        .pushsection .note.Xen, "a", @note;                                           \
        .balign 4;                                                                    \
        .long 2f - 1f, 4f - 3f, type;                                                 \
1:      .asciz "Xen";                                                                 \
2:      .balign 4;                                                                    \
3:      value;                                                                        \
4:      .balign 4;                                                                    \
        .popsection

        NOTE(XEN_ELFNOTE_GUEST_OS, .asciz "gxl-tiny")
        NOTE(XEN_ELFNOTE_XEN_VERSION, .asciz "xen-3.0")
        NOTE(XEN_ELFNOTE_LOADER, .asciz "generic")
        NOTE(XEN_ELFNOTE_VIRT_BASE, .quad 0)
        NOTE(XEN_ELFNOTE_PADDR_OFFSET, .quad 0)
        NOTE(XEN_ELFNOTE_ENTRY, .quad _start)

        .text
        .globl _start
_start:
        cld
        xor     %ebp, %ebp
        and     $-16, %rsp
        mov     %rsi, %rdi
        call    tiny_main
        ud2

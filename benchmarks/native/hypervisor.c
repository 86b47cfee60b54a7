/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Preloaded into a client: hypercalls cost about what they cost on Xen, since the host's table of domains is mapped
 * here. (gxl's own preload.c asks the simulated host through a socket, which takes as long as an eject's other work.)
 *
 * $GXL_BENCH_DOMAINS is the table. What the event code of libxl asks is answered, everything else gets ENOSYS.
 */
#define _GNU_SOURCE
#define __XEN_TOOLS__ 1
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ioctl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "domains.h"

struct hypercall {
    uint64_t op, arg[5];
};

#define IOCTL_HYPERCALL _IOC(_IOC_NONE, 'P', 0, sizeof(struct hypercall))

#define FDS 4096

static const struct table *table;
static char privcmd[FDS]; /* the fds that stand for it: each of Xen's libraries opens its own */

static int open_table(void)
{
    int (*real)(int, const char *, int, ...) = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64");
    int fd = real(AT_FDCWD, getenv("GXL_BENCH_DOMAINS"), O_RDONLY | O_CLOEXEC);
    void *mapped = table ? (void *)table : mmap(NULL, sizeof(struct table), PROT_READ, MAP_SHARED, fd, 0);

    if (fd < 0 || fd >= FDS || mapped == MAP_FAILED)
        return -1;
    table = mapped;
    privcmd[fd] = 1;
    return fd;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        mode_t mode = 0;                                                                                               \
        va_list arguments;                                                                                             \
        int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);                \
        if (!strcmp(path, "/dev/xen/privcmd"))                                                                         \
            return open_table();                                                                                       \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                                         \
            va_start(arguments, flags);                                                                                \
            mode = va_arg(arguments, mode_t);                                                                          \
            va_end(arguments);                                                                                         \
        }                                                                                                              \
        return real(path, flags, mode);                                                                                \
    }

OPEN(open)
OPEN(open64)

static int sysctl(struct xen_sysctl *sysctl)
{
    struct xen_sysctl_getdomaininfolist *list = &sysctl->u.getdomaininfolist;
    uint32_t count = 0;

    if (sysctl->cmd != XEN_SYSCTL_getdomaininfolist)
        return -ENOSYS;
    for (uint32_t d = list->first_domain; d <= table->last && count < list->max_domains; d++)
        memcpy(&list->buffer.p[count++], &table->domains[d], sizeof(table->domains[d]));
    list->num_domains = count;
    return 0;
}

static int domctl(struct xen_domctl *domctl)
{
    if (domctl->cmd != XEN_DOMCTL_getdomaininfo)
        return -ENOSYS;
    if (domctl->domain > table->last)
        return -ESRCH;
    domctl->u.getdomaininfo = table->domains[domctl->domain];
    return 0;
}

static int xen_version(uint64_t what, void *to)
{
    static const size_t sizes[] = {[1] = 16, [2] = 144, [3] = 1024, [4] = 64, [5] = 8, [9] = 1024};

    if (what == 0)
        return 4 << 16 | 17;
    if (what == 7)
        return 4096;
    if (what > 9 || !sizes[what])
        return -ENOSYS;
    memset(to, 0, sizes[what]);
    return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
    int (*real)(int, unsigned long, ...);
    struct hypercall *call;
    va_list arguments;
    int result;

    va_start(arguments, request);
    call = va_arg(arguments, void *);
    va_end(arguments);
    if (fd < 0 || fd >= FDS || !privcmd[fd] || request != IOCTL_HYPERCALL) {
        real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
        return real(fd, request, call);
    }
    switch (call->op) {
    case __HYPERVISOR_sysctl:
        result = sysctl((void *)call->arg[0]);
        break;
    case __HYPERVISOR_domctl:
        result = domctl((void *)call->arg[0]);
        break;
    case __HYPERVISOR_xen_version:
        result = xen_version(call->arg[0], (void *)call->arg[1]);
        break;
    default:
        result = -ENOSYS;
    }
    if (result < 0) {
        errno = -result;
        return -1;
    }
    return result;
}

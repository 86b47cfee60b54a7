/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lets Xen's own C xenstored run on a simulated host, where tests compare it with gxl's.
 *
 * Preloaded in front of gxl's library, which answers the hypercalls, this answers for the other doors that xenstored
 * wants open: event channels (a socket, $XENSTORED_EVENTS, on which a test sends the numbers of ports that fire, and is
 * sent one whenever xenstored unmasks or notifies), grants (a file, $XENSTORED_GRANTS, of which each mapping gets the
 * next page, where the test can play the guest), and dom0's own ring, which nobody uses.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int events = -1, grants = -1, last_port, pages;

static int memory(const char *content)
{
    int fd = memfd_create("door", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, content ? 0 : 4096))
        return -1;
    if (content && (write(fd, content, strlen(content)) < 0 || lseek(fd, 0, SEEK_SET)))
        return -1;
    return fd;
}

static int event_channels(void)
{
    struct sockaddr_un there = {.sun_family = AF_UNIX};
    const char *path = getenv("XENSTORED_EVENTS");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strncpy(there.sun_path, path ? path : "", sizeof(there.sun_path) - 1);
    return connect(fd, (const struct sockaddr *)&there, sizeof(there)) ? -1 : fd;
}

static int open_door(const char *path, int flags, mode_t mode)
{
    int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");

    if (!strcmp(path, "/dev/xen/evtchn"))
        return events = event_channels();
    if (!strcmp(path, "/dev/xen/gntdev"))
        return grants = next(getenv("XENSTORED_GRANTS"), O_RDWR | O_CLOEXEC);
    if (!strcmp(path, "/proc/xen/xsd_kva"))
        return memory(NULL);
    if (!strcmp(path, "/proc/xen/xsd_port"))
        return memory("99");
    return next(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    mode_t mode;

    va_start(arguments, flags);
    mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return open_door(path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

/* What a fortified program calls when its flags are no constant. */
int __open_2(const char *path, int flags) { return open_door(path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_door(path, flags, 0); }

int ioctl(int fd, unsigned long request, ...)
{
    int (*next)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    va_list arguments;
    void *argument;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    if (fd >= 0 && fd == events) {
        /* Binding gives a port, the first one being that of the hypervisor's exception interrupt. */
        if (_IOC_NR(request) <= 2)
            return ++last_port;
        if (_IOC_NR(request) == 4 && write(fd, argument, 4) != 4)
            return -1;
        return 0;
    }
    if (fd >= 0 && fd == grants) {
        if (_IOC_NR(request) == 0)
            *(uint64_t *)((char *)argument + 8) = 4096 * pages++; /* where in this file the grant is */
        return 0;
    }
    return next(fd, request, argument);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Preloaded into programs of these tests: a wall clock that can be set, and memory that runs out for one library. */

#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

long clock_step;                  /* seconds that the wall clock is ahead */
uintptr_t starved_from, starved_to; /* the code whose allocations are counted */
long allocations_left = -1;       /* after so many of them one fails; -1: none does */

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

int clock_gettime(clockid_t id, struct timespec *ts)
{
    int rc = syscall(SYS_clock_gettime, id, ts);
    if (!rc && id == CLOCK_REALTIME)
        ts->tv_sec += clock_step;
    return rc;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
    struct timespec ts;
    (void)tz;
    clock_gettime(CLOCK_REALTIME, &ts);
    tv->tv_sec = ts.tv_sec;
    tv->tv_usec = ts.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (out)
        *out = ts.tv_sec;
    return ts.tv_sec;
}

static int starved(void *caller)
{
    if (allocations_left < 0 || (uintptr_t)caller < starved_from || (uintptr_t)caller >= starved_to)
        return 0;
    if (allocations_left-- > 0)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return starved(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return starved(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    return starved(__builtin_return_address(0)) ? NULL : __libc_realloc(block, size);
}

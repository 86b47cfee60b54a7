/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The limit that libxenlight itself sets: a C program with osevent hooks, epoll and event callbacks.
 *
 *   client DIRECTORY death|eject DOMAINS EVENTS_PER_BYTE
 *
 * enables an evgen for each of the domains, says "ready" on standard output, and writes a byte to the host's `ack` for
 * every so many events. For a line on standard input it answers a line with what it has used; it ends with its input.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <libxl.h>
#include <libxl_event.h>
#include <xentoollog.h>

static libxl_ctx *ctx;
static int poll_fd, ack_fd, per_byte, counted;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

struct registration {
    int fd;
    short events;
    void *for_libxl;
};

static uint32_t to_epoll(short events)
{
    return (events & POLLIN ? EPOLLIN : 0) | (events & POLLOUT ? EPOLLOUT : 0) | (events & POLLPRI ? EPOLLPRI : 0);
}

static int set(int how, struct registration *registration)
{
    struct epoll_event event = {.events = to_epoll(registration->events), .data.ptr = registration};

    return epoll_ctl(poll_fd, how, registration->fd, &event) ? ERROR_OSEVENT_REG_FAIL : 0;
}

static int fd_register(void *user, int fd, void **out, short events, void *for_libxl)
{
    struct registration *registration = malloc(sizeof(*registration));

    (void)user;
    if (!registration)
        return ERROR_OSEVENT_REG_FAIL;
    *registration = (struct registration){fd, events, for_libxl};
    *out = registration;
    return set(EPOLL_CTL_ADD, registration);
}

static int fd_modify(void *user, int fd, void **update, short events)
{
    struct registration *registration = *update;

    (void)user;
    (void)fd;
    registration->events = events;
    return set(EPOLL_CTL_MOD, registration);
}

static void fd_deregister(void *user, int fd, void *for_app)
{
    (void)user;
    epoll_ctl(poll_fd, EPOLL_CTL_DEL, fd, NULL);
    free(for_app);
}

/* No workload here has a timeout. */
static int timeout_register(void *user, void **out, struct timeval abs, void *for_libxl)
{
    (void)user;
    (void)out;
    (void)abs;
    (void)for_libxl;
    return ERROR_OSEVENT_REG_FAIL;
}

static int timeout_modify(void *user, void **update, struct timeval abs)
{
    (void)user;
    (void)update;
    (void)abs;
    return ERROR_OSEVENT_REG_FAIL;
}

static const libxl_osevent_hooks osevent_hooks = {
    .fd_register = fd_register,
    .fd_modify = fd_modify,
    .fd_deregister = fd_deregister,
    .timeout_register = timeout_register,
    .timeout_modify = timeout_modify,
};

static void event_occurs(void *user, libxl_event *event)
{
    (void)user;
    libxl_event_free(ctx, event);
    if (++counted == per_byte) {
        counted = 0;
        if (write(ack_fd, "x", 1) != 1)
            die("ack");
    }
}

static void disaster(void *user, libxl_event_type type, const char *msg, int errnoval)
{
    (void)user;
    fprintf(stderr, "disaster %d: %s: %s\n", type, msg, strerror(errnoval));
    exit(1);
}

static const libxl_event_hooks event_hooks = {LIBXL_EVENTMASK_ALL, event_occurs, disaster};

static void report(void)
{
    char line[256];
    struct rusage usage;
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");

    if (!fgets(line, sizeof(line), stdin))
        exit(0);
    if (!statm || fscanf(statm, "%*d %ld", &pages) != 1)
        die("statm");
    fclose(statm);
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"rss_kib\": %ld, \"switches\": %ld, \"cpu\": %.6f}\n", pages * (sysconf(_SC_PAGESIZE) / 1024),
           usage.ru_nvcsw,
           usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct registration input = {0, POLLIN, NULL};
    struct epoll_event event;
    xentoollog_logger *logger = (xentoollog_logger *)xtl_createlogger_stdiostream(stderr, XTL_ERROR, 0);

    if (argc != 5) {
        fprintf(stderr, "usage: client DIRECTORY death|eject DOMAINS EVENTS_PER_BYTE\n");
        return 2;
    }
    per_byte = atoi(argv[4]);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/ack", argv[1]);
    ack_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (ack_fd < 0 || connect(ack_fd, (struct sockaddr *)&address, sizeof(address)))
        die("ack");
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (poll_fd < 0 || libxl_ctx_alloc(&ctx, LIBXL_VERSION, 0, logger))
        die("libxl_ctx_alloc");
    libxl_osevent_register_hooks(ctx, &osevent_hooks, NULL);
    libxl_event_register_callbacks(ctx, &event_hooks, NULL);
    for (int domid = 1; domid <= atoi(argv[3]); domid++) {
        libxl_evgen_domain_death *death;
        libxl_evgen_disk_eject *eject;
        int rc = strcmp(argv[2], "eject") ? libxl_evenable_domain_death(ctx, domid, domid, &death)
                                          : libxl_evenable_disk_eject(ctx, domid, "xvda", domid, &eject);
        if (rc)
            die("evenable");
    }
    setvbuf(stdin, NULL, _IONBF, 0);
    set(EPOLL_CTL_ADD, &input);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct registration *ready;

        if (epoll_wait(poll_fd, &event, 1, -1) != 1)
            continue;
        ready = event.data.ptr;
        if (ready == &input)
            report();
        else
            libxl_osevent_occurred_fd(ctx, ready->for_libxl, ready->fd, ready->events, POLLIN);
    }
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lets an unmodified libxenctrl talk to a simulated host.
 *
 * libxenctrl opens /dev/xen/privcmd and issues hypercalls as ioctls on it. Here, while $GXL_SIM_HYPERCALLS names a
 * socket, that open gives an unconnected Unix socket instead, and each hypercall is sent to the simulated host, which
 * decodes it and answers with a result and with what is to be written into this process's memory. The layouts of Xen's
 * structures, which change with its releases, are the host's business; only how much to send is known here. The files
 * that libxl keeps about domains, and what Linux says of the hypervisor, are the simulated host's, too.
 *
 * The variable is read at each open, so a running process can be pointed at another host.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/ioctl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct hypercall {
    uint64_t op, arg[5];
};

struct request {
    struct hypercall call;
    uint64_t length;
};

struct answer {
    int64_t result;
    uint64_t writes;
};

struct write {
    uint64_t address, length;
};

#define IOCTL_HYPERCALL _IOC(_IOC_NONE, 'P', 0, sizeof(struct hypercall))
#define DEVICES 4096

/* Whose connection a privcmd fd holds; in a forked child it is the parent's, and the child must make its own. */
static struct device {
    pid_t owner; /* 0: this fd is none of ours; -1: not connected yet */
    struct sockaddr_un host;
} devices[DEVICES];

/* One hypercall at a time: threads may share an fd, and answers carry no mark of whose they are. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void take_lock(void) { pthread_mutex_lock(&lock); }
static void leave_lock(void) { pthread_mutex_unlock(&lock); }

static int (*real_openat)(int, const char *, int, ...);
static int (*real_ioctl)(int, unsigned long, ...);

/* Other libraries' constructors may open files before this one's has run. */
__attribute__((constructor)) static void prepare(void)
{
    if (real_ioctl)
        return;
    real_openat = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64");
    real_ioctl = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    pthread_atfork(take_lock, leave_lock, leave_lock);
}

static int open_privcmd(const char *host, int flags)
{
    struct stat there;
    int fd;

    if (strlen(host) >= sizeof(devices[0].host.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (stat(host, &there))
        return -1;
    fd = socket(AF_UNIX, SOCK_STREAM | (flags & O_CLOEXEC ? SOCK_CLOEXEC : 0), 0);
    if (fd >= DEVICES) {
        close(fd);
        errno = EMFILE;
        return -1;
    }
    if (fd >= 0) {
        take_lock();
        devices[fd].owner = -1;
        devices[fd].host.sun_family = AF_UNIX;
        strcpy(devices[fd].host.sun_path, host);
        leave_lock();
    }
    return fd;
}

/* The host's own directory stands for these. */
static const struct {
    const char *path, *place;
} moved[] = {
    {"/sys/hypervisor/", "hypervisor"},
    {"/var/run/xen/", "run"}, /* the history of domids, locked and rewritten at each destruction */
    {"/run/xen/", "run"},
    {"/var/lib/xen/", "lib"}, /* libxl's notes on each domain */
};

static int begins(const char *text, const char *start) { return !strncmp(text, start, strlen(start)); }

/* The simulated host's socket, or NULL: then nothing is changed. */
static const char *simulated_host(void)
{
    const char *host = getenv("GXL_SIM_HYPERCALLS");

    return host && strchr(host, '/') ? host : NULL;
}

/* `path` itself, or in `room` the path of the file in the host's directory that stands for it. */
static const char *moved_to(const char *path, char room[PATH_MAX])
{
    for (size_t i = 0; path && i < sizeof(moved) / sizeof(moved[0]); i++) {
        const char *host;

        if (!begins(path, moved[i].path) || !(host = simulated_host()))
            continue;
        if (snprintf(room, PATH_MAX, "%.*s/%s/%s", (int)(strrchr(host, '/') - host), host, moved[i].place,
                     path + strlen(moved[i].path)) < PATH_MAX)
            return room;
    }
    return path;
}

#define MODE(flags, mode)                                                                                              \
    do {                                                                                                               \
        if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                                       \
            va_list arguments;                                                                                         \
            va_start(arguments, flags);                                                                                \
            mode = va_arg(arguments, mode_t);                                                                          \
            va_end(arguments);                                                                                         \
        }                                                                                                              \
    } while (0)

static int open_at(int directory, const char *path, int flags, mode_t mode)
{
    char room[PATH_MAX];
    const char *host;

    prepare();
    if (path && (begins(path, "/dev/xen/") || begins(path, "/proc/xen/")) && (host = simulated_host())) {
        if (!strcmp(path, "/dev/xen/privcmd"))
            return open_privcmd(host, flags);
        /* A real Xen's other doors stay shut: nothing that is meant for the simulated host may reach it. */
        errno = ENOENT;
        return -1;
    }
    return real_openat(directory, moved_to(path, room), flags, mode);
}

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;

    MODE(flags, mode);
    return open_at(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    mode_t mode = 0;

    MODE(flags, mode);
    return open_at(AT_FDCWD, path, flags, mode);
}

/* What a fortified program calls when its flags are no constant. */
int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }

int openat(int directory, const char *path, int flags, ...)
{
    mode_t mode = 0;

    MODE(flags, mode);
    return open_at(directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...)
{
    mode_t mode = 0;

    MODE(flags, mode);
    return open_at(directory, path, flags, mode);
}

#define MOVED(type, name, arguments, path, call)                                                                       \
    type name arguments                                                                                                \
    {                                                                                                                  \
        char room[PATH_MAX];                                                                                           \
        type(*real) arguments = (type(*) arguments)dlsym(RTLD_NEXT, #name);                                            \
        path = moved_to(path, room);                                                                                   \
        return real call;                                                                                              \
    }

MOVED(FILE *, fopen, (const char *path, const char *mode), path, (path, mode))
MOVED(FILE *, fopen64, (const char *path, const char *mode), path, (path, mode))
MOVED(int, stat, (const char *path, struct stat *about), path, (path, about))
MOVED(int, stat64, (const char *path, struct stat64 *about), path, (path, about))
MOVED(int, unlink, (const char *path), path, (path))

int rename(const char *from, const char *to)
{
    char from_room[PATH_MAX], to_room[PATH_MAX];
    int (*real)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");

    return real(moved_to(from, from_room), moved_to(to, to_room));
}

static int send_all(int fd, const void *data, size_t length)
{
    while (length) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return -1;
        data = (const char *)data + sent;
        length -= sent;
    }
    return 0;
}

static int receive_all(int fd, void *data, size_t length)
{
    while (length) {
        ssize_t got = recv(fd, data, length, MSG_WAITALL);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        data = (char *)data + got;
        length -= got;
    }
    return 0;
}

/* The structure that goes with a hypercall; its size has not changed in all the releases that are served. */
static const void *block_of(const struct hypercall *call, uint64_t *length)
{
    switch (call->op) {
    case 29: /* sched_op: domain and reason of a remote shutdown */
        *length = 8;
        return (const void *)call->arg[1];
    case 34: /* hvm_op: a parameter */
        *length = 16;
        return (const void *)call->arg[1];
    case 35: /* sysctl */
        *length = 136;
        return (const void *)call->arg[0];
    case 36: /* domctl */
        *length = 144;
        return (const void *)call->arg[0];
    default:
        *length = 0;
        return NULL;
    }
}

static int connect_device(int fd)
{
    struct device *device = &devices[fd];
    int flags = fcntl(fd, F_GETFD);
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connection < 0)
        return -1;
    if (connect(connection, (const struct sockaddr *)&device->host, sizeof(device->host)) ||
        dup3(connection, fd, flags & FD_CLOEXEC ? O_CLOEXEC : 0) < 0) {
        close(connection);
        return -1;
    }
    close(connection);
    device->owner = getpid();
    return 0;
}

/* Ask the host; -1 if it is not there or speaks nonsense. */
static int exchange(int fd, const struct hypercall *call, int64_t *result)
{
    struct request request = {.call = *call};
    const void *block = block_of(call, &request.length);
    struct answer answer;
    struct write write;

    if (devices[fd].owner != getpid() && connect_device(fd))
        return -1;
    if (send_all(fd, &request, sizeof(request)) || send_all(fd, block, request.length) ||
        receive_all(fd, &answer, sizeof(answer)))
        return -1;
    while (answer.writes--)
        if (receive_all(fd, &write, sizeof(write)) || receive_all(fd, (void *)write.address, write.length))
            return -1;
    *result = answer.result;
    return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;
    int64_t result;
    int failed;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    prepare();
    if (request != IOCTL_HYPERCALL || fd < 0 || fd >= DEVICES || !devices[fd].owner)
        return real_ioctl(fd, request, argument);
    take_lock();
    failed = exchange(fd, argument, &result);
    if (failed)
        devices[fd].owner = -1;
    leave_lock();
    if (failed)
        result = -EIO;
    if (result < 0) {
        errno = -result;
        return -1;
    }
    return result;
}

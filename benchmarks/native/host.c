/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A simulated host that costs next to nothing, so that what is measured is libxl and its client.
 *
 * In the directory argv[1] it serves `socket` (xenstore, as far as libxl's event code uses it) and `ack`, where the
 * client says that it has an event by writing a byte; `domains` there is what hypervisor.c answers hypercalls from.
 * Commands come on standard input, a line each; each is answered by a line on standard output:
 *
 *   domains N          N running domains, 1 to N, each with a disk xvda
 *   eject ROUNDS N     ROUNDS times: eject the disks of domains 1 to N together, and wait for one byte
 *   shutdown FIRST N   these domains shut down: one @releaseDomain; wait for one byte
 *   death FIRST N      these domains die: one @releaseDomain; wait for one byte
 *
 * The answer to the last three is a time in nanoseconds for each round, from the first write to the byte.
 */
#define _GNU_SOURCE
#define __XEN_TOOLS__ 1
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <xen/io/xs_wire.h>

#include "domains.h"

#define NODES (1 << 18)
#define DISK "51712"

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void *must(void *memory)
{
    if (!memory)
        die("memory");
    return memory;
}

/* The store: a hash table with open addressing. Nodes are never taken out; a removed one has no value. */
struct node {
    char *path, *value;
    size_t length;
};
static struct node nodes[NODES];

static struct node *node_at(const char *path, int create)
{
    uint64_t hash = 14695981039346656037u;

    for (const char *c = path; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    for (uint64_t i = hash;; i++) {
        struct node *node = &nodes[i % NODES];
        if (!node->path) {
            if (!create)
                return NULL;
            node->path = must(strdup(path));
            return node;
        }
        if (!strcmp(node->path, path))
            return node;
    }
}

static void put(const char *path, const char *value, size_t length)
{
    struct node *node = node_at(path, 1);

    if (!node->value || node->length < length)
        node->value = must(realloc(node->value, length + 1));
    memcpy(node->value, value, length);
    node->length = length;
}

/* The hypervisor's domains. */
static struct table *table;

static void map_table(const char *directory)
{
    char path[256];
    int fd;

    snprintf(path, sizeof(path), "%s/domains", directory);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(*table)))
        die(path);
    table = mmap(NULL, sizeof(*table), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (table == MAP_FAILED)
        die(path);
    close(fd);
}

static void make_domains(int count)
{
    char path[128], value[128];

    if (count > DOMAINS_MAX)
        count = DOMAINS_MAX;
    table->last = count;
    for (int d = 0; d <= count; d++) {
        struct xen_domctl_getdomaininfo *domain = &table->domains[d];

        memset(domain, 0, sizeof(*domain));
        domain->domain = d;
        domain->flags = XEN_DOMINF_running;
        domain->tot_pages = domain->max_pages = 32768;
        memcpy(domain->handle, "gxl benchmark", 13);
        memcpy(domain->handle + 13, &d, 3);
        snprintf(path, sizeof(path), "/local/domain/%d/name", d);
        put(path, value, snprintf(value, sizeof(value), "guest%d", d));
        if (!d)
            continue;
        snprintf(path, sizeof(path), "/local/domain/%d/device/vbd/" DISK "/eject", d);
        put(path, "", 0);
        snprintf(path, sizeof(path), "/local/domain/%d/device/vbd/" DISK "/dev", d);
        put(path, "xvda", 4);
        snprintf(path, sizeof(path), "/local/domain/%d/device/vbd/" DISK "/backend", d);
        put(path, value, snprintf(value, sizeof(value), "/local/domain/0/backend/qdisk/%d/" DISK, d));
    }
}

/* Clients. */
enum kind { XENSTORE, ACK, STDIN, DOORS };

struct watch {
    struct watch *next;
    char *path, *token;
};

struct peer {
    enum kind kind, door;
    int fd;
    char *in, *out;
    size_t in_used, in_size, out_used, out_size;
    struct watch *watches;
    struct peer *next;
};
static struct peer *peers;
static int poll_fd;

static void add(enum kind kind, enum kind door, int fd)
{
    struct peer *peer = must(calloc(1, sizeof(*peer)));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};

    peer->kind = kind;
    peer->door = door;
    peer->fd = fd;
    peer->in = must(malloc(peer->in_size = 65536));
    peer->next = peers;
    peers = peer;
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl");
}

static void leave(struct peer *peer)
{
    struct peer **link = &peers;

    while (*link != peer)
        link = &(*link)->next;
    *link = peer->next;
    close(peer->fd);
    while (peer->watches) {
        struct watch *watch = peer->watches;
        peer->watches = watch->next;
        free(watch->path);
        free(watch->token);
        free(watch);
    }
    free(peer->in);
    free(peer->out);
    free(peer);
}

static void say(struct peer *peer, const void *data, size_t length)
{
    if (peer->out_used + length > peer->out_size)
        peer->out = must(realloc(peer->out, peer->out_size = 2 * (peer->out_used + length)));
    memcpy(peer->out + peer->out_used, data, length);
    peer->out_used += length;
}

/* Blocks: the clients here always read. */
static void flush(struct peer *peer)
{
    size_t done = 0;

    while (done < peer->out_used) {
        ssize_t sent = send(peer->fd, peer->out + done, peer->out_used - done, MSG_NOSIGNAL);
        if (sent <= 0 && errno != EINTR)
            break;
        if (sent > 0)
            done += sent;
    }
    peer->out_used = 0;
}

static void answer(struct peer *peer, const struct xsd_sockmsg *to, uint32_t type, const void *data, size_t length)
{
    struct xsd_sockmsg header = {.type = type, .req_id = to->req_id, .tx_id = to->tx_id, .len = length};

    say(peer, &header, sizeof(header));
    say(peer, data, length);
}

static void fire(struct peer *peer, const struct watch *watch, const char *path)
{
    struct xsd_sockmsg header = {.type = XS_WATCH_EVENT};

    header.len = strlen(path) + 1 + strlen(watch->token) + 1;
    say(peer, &header, sizeof(header));
    say(peer, path, strlen(path) + 1);
    say(peer, watch->token, strlen(watch->token) + 1);
}

static int concerns(const struct watch *watch, const char *path)
{
    size_t length = strlen(watch->path);

    return !strncmp(watch->path, path, length) && (!path[length] || path[length] == '/');
}

static void changed(const char *path)
{
    for (struct peer *peer = peers; peer; peer = peer->next)
        for (struct watch *watch = peer->watches; watch; watch = watch->next)
            if (concerns(watch, path))
                fire(peer, watch, path);
}

static void flush_all(void)
{
    for (struct peer *peer = peers; peer; peer = peer->next)
        if (peer->out_used)
            flush(peer);
}

static void refuse(struct peer *peer, const struct xsd_sockmsg *request, const char *error)
{
    answer(peer, request, XS_ERROR, error, strlen(error) + 1);
}

static void xenstore(struct peer *peer, const struct xsd_sockmsg *request, char *data)
{
    char path[64];
    struct node *node;
    struct watch *watch, **link;
    const char *token = data + strlen(data) + 1;

    switch (request->type) {
    case XS_READ:
        node = node_at(data, 0);
        if (node && node->value)
            answer(peer, request, XS_READ, node->value, node->length);
        else
            refuse(peer, request, "ENOENT");
        break;
    case XS_WRITE:
        put(data, token, request->len - (token - data));
        answer(peer, request, XS_WRITE, "OK", 3);
        changed(data);
        break;
    case XS_WATCH:
        watch = must(malloc(sizeof(*watch)));
        *watch = (struct watch){peer->watches, must(strdup(data)), must(strdup(token))};
        peer->watches = watch;
        answer(peer, request, XS_WATCH, "OK", 3);
        fire(peer, watch, data);
        break;
    case XS_UNWATCH:
        for (link = &peer->watches; *link; link = &(*link)->next)
            if (!strcmp((*link)->path, data) && !strcmp((*link)->token, token)) {
                watch = *link;
                *link = watch->next;
                free(watch->path);
                free(watch->token);
                free(watch);
                break;
            }
        answer(peer, request, XS_UNWATCH, "OK", 3);
        break;
    case XS_GET_DOMAIN_PATH:
        snprintf(path, sizeof(path), "/local/domain/%d", atoi(data));
        answer(peer, request, XS_GET_DOMAIN_PATH, path, strlen(path) + 1);
        break;
    default:
        refuse(peer, request, "ENOSYS");
    }
}

/* The scenario under way. */
static enum { NOTHING, EJECT, CHANGE } task;
static int rounds_left, disks;
static struct timespec began;

static void strike(void)
{
    char path[128];

    clock_gettime(CLOCK_MONOTONIC, &began);
    if (task == EJECT) {
        for (int d = 1; d <= disks; d++) {
            snprintf(path, sizeof(path), "/local/domain/%d/device/vbd/" DISK "/eject", d);
            put(path, "eject", 5);
            changed(path);
        }
    } else {
        changed("@releaseDomain");
    }
    flush_all();
}

static void acknowledged(void)
{
    struct timespec now;

    if (task == NOTHING)
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%lld", (now.tv_sec - began.tv_sec) * 1000000000ll + now.tv_nsec - began.tv_nsec);
    if (--rounds_left) {
        putchar(' ');
        strike();
    } else {
        task = NOTHING;
        putchar('\n');
        fflush(stdout);
    }
}

static void command(char *line)
{
    int a = 0, b = 0;

    if (sscanf(line, "domains %d", &a) == 1) {
        make_domains(a);
        puts("ok");
        fflush(stdout);
    } else if (sscanf(line, "eject %d %d", &a, &b) == 2) {
        task = EJECT;
        rounds_left = a;
        disks = b;
        strike();
    } else if (sscanf(line, "shutdown %d %d", &a, &b) == 2 || sscanf(line, "death %d %d", &a, &b) == 2) {
        for (int d = a; d < a + b && d <= (int)table->last; d++)
            table->domains[d].flags = *line == 's' ? XEN_DOMINF_shutdown : table->domains[d].flags | XEN_DOMINF_dying;
        task = CHANGE;
        rounds_left = 1;
        strike();
    } else {
        printf("no such command: %s\n", line);
        fflush(stdout);
    }
}

/* How much of the input was used up. */
static size_t digest(struct peer *peer, char *data, size_t length)
{
    switch (peer->kind) {
    case XENSTORE: {
        struct xsd_sockmsg header;

        if (length < sizeof(header))
            return 0;
        memcpy(&header, data, sizeof(header));
        if (length < sizeof(header) + header.len)
            return 0;
        char *body = must(malloc(header.len + 1));
        memcpy(body, data + sizeof(header), header.len);
        body[header.len] = 0;
        xenstore(peer, &header, body);
        free(body);
        return sizeof(header) + header.len;
    }
    case ACK:
        acknowledged();
        return 1;
    default: {
        char *end = memchr(data, '\n', length);

        if (!end)
            return 0;
        *end = 0;
        command(data);
        return end + 1 - data;
    }
    }
}

static void ready(struct peer *peer)
{
    size_t used = 0, step;
    ssize_t got;

    if (peer->kind == DOORS) {
        int fd = accept4(peer->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            add(peer->door, DOORS, fd);
        return;
    }
    if (peer->in_used == peer->in_size)
        peer->in = must(realloc(peer->in, peer->in_size *= 2));
    got = read(peer->fd, peer->in + peer->in_used, peer->in_size - peer->in_used);
    if (got <= 0) {
        if (peer->kind == STDIN)
            exit(0);
        leave(peer);
        return;
    }
    peer->in_used += got;
    while (used < peer->in_used && (step = digest(peer, peer->in + used, peer->in_used - used)))
        used += step;
    memmove(peer->in, peer->in + used, peer->in_used -= used);
    flush_all();
}

static void serve(const char *directory, const char *name, enum kind kind)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", directory, name);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 64))
        die(name);
    add(DOORS, kind, fd);
}

int main(int argc, char **argv)
{
    struct epoll_event event;

    if (argc != 2) {
        fprintf(stderr, "usage: host DIRECTORY\n");
        return 2;
    }
    if ((poll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");
    map_table(argv[1]);
    make_domains(1);
    serve(argv[1], "socket", XENSTORE);
    serve(argv[1], "ack", ACK);
    add(STDIN, DOORS, 0);
    puts("ready");
    fflush(stdout);
    /* One at a time: serving one may end another. */
    for (;;)
        if (epoll_wait(poll_fd, &event, 1, -1) == 1)
            ready(event.data.ptr);
}

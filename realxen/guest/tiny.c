/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A paravirtual guest of one page of code that obeys orders from xenstore, so that a test gets a real domain in a second.
 *
 * It watches two nodes of its own and acts on their values:
 *   data/order         "shutdown N" ends with reason N, "fault" runs into an exception that it does not handle (a real
 *                      crash), "eject DEVID" asks for the ejection of a disk, "flood DEVID N" does so N times in a row, "write
 *                      PATH VALUE" writes to any node, or tries to: what xenstored said to that is in data/result. The order is
 *                      copied to data/answer when done.
 *   control/shutdown   "poweroff", "halt", "reboot", "suspend" or "crash", as a toolstack writes it.
 */
#define __XEN_INTERFACE_VERSION__ 0x00040d00
#include <stddef.h>
#include <stdint.h>
#include <xen/xen.h>
#include <xen/event_channel.h>
#include <xen/sched.h>
#include <xen/io/xs_wire.h>

#define PAGE_PRESENT_WRITABLE_USER 7

static struct start_info *start_info;
static volatile struct xenstore_domain_interface *ring;
static volatile struct shared_info *shared;
static char shared_page[4096] __attribute__((aligned(4096)));
static int watch_fired;

static long hypercall(long number, long a, long b, long c)
{
    long result;

    asm volatile ("syscall" : "=a" (result), "+D" (a), "+S" (b), "+d" (c) : "a" (number) : "rcx", "r11", "memory");
    return result;
}

static void __attribute__((noreturn)) end(unsigned int reason)
{
    struct sched_shutdown order = { .reason = reason };

    /* The call returns after a suspension that is resumed; there is nothing to go on with. */
    for (;;)
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_shutdown, (long)&order, 0);
}

/* The compiler turns loops into calls of these two even in a freestanding program. */
void *memcpy(void *to, const void *from, size_t size)
{
    asm volatile ("rep movsb" : "+D" (to), "+S" (from), "+c" (size) : : "memory");
    return to;
}

void *memset(void *to, int byte, size_t size)
{
    asm volatile ("rep stosb" : "+D" (to), "+c" (size) : "a" (byte) : "memory");
    return to;
}

static size_t length(const char *text)
{
    size_t size = 0;

    while (text[size])
        size++;
    return size;
}

/* Returns what follows `word` in `text`, or NULL where it starts otherwise. */
static const char *after(const char *text, const char *word)
{
    while (*word)
        if (*text++ != *word++)
            return NULL;
    return text;
}

static unsigned int number(const char *text)
{
    unsigned int value = 0;

    while (*text >= '0' && *text <= '9')
        value = value * 10 + (unsigned int)(*text++ - '0');
    return value;
}

static void notify(void)
{
    struct evtchn_send send = { .port = start_info->store_evtchn };

    hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_send, (long)&send, 0);
}

/* Polling needs no interrupt handler, but wakes only for an event that was not pending before: hence the clearing. */
static void wait_for_store(XENSTORE_RING_IDX seen_produced, XENSTORE_RING_IDX seen_consumed)
{
    evtchn_port_t port = start_info->store_evtchn;
    struct sched_poll poll = { .nr_ports = 1 };

    set_xen_guest_handle(poll.ports, &port);
    __atomic_and_fetch((xen_ulong_t *)&shared->evtchn_pending[port / 64], ~(1UL << port % 64), __ATOMIC_SEQ_CST);
    if (ring->rsp_prod == seen_produced && ring->req_cons == seen_consumed)
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_poll, (long)&poll, 0);
}

static void send(const void *data, size_t size)
{
    const char *bytes = data;

    while (size) {
        XENSTORE_RING_IDX consumed = ring->req_cons, produced = ring->req_prod;

        if (produced - consumed == XENSTORE_RING_SIZE) {
            wait_for_store(ring->rsp_prod, consumed);
            continue;
        }
        ring->req[MASK_XENSTORE_IDX(produced)] = *bytes++;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        ring->req_prod = produced + 1;
        size--;
    }
    notify();
}

/* Takes `size` bytes and keeps the first `room` of them. */
static void receive(void *data, size_t size, size_t room)
{
    char *bytes = data;

    while (size) {
        XENSTORE_RING_IDX consumed = ring->rsp_cons, produced = ring->rsp_prod;

        if (produced == consumed) {
            wait_for_store(produced, ring->req_cons);
            continue;
        }
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (room) {
            *bytes++ = ring->rsp[MASK_XENSTORE_IDX(consumed)];
            room--;
        }
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        ring->rsp_cons = consumed + 1;
        if (ring->rsp_prod - consumed == XENSTORE_RING_SIZE)
            notify();   /* the daemon may wait for this room */
        size--;
    }
}

/* Receives one message into `data` as a string; returns its type. */
static uint32_t message(char *data, size_t room)
{
    struct xsd_sockmsg header;
    size_t kept;

    receive(&header, sizeof(header), sizeof(header));
    kept = header.len < room - 1 ? header.len : room - 1;
    receive(data, header.len, kept);
    data[kept] = 0;
    return header.type;
}

/* Sends one request (an absent value is sent as none at all) and returns the type of the answer. */
static uint32_t ask(uint32_t type, const char *path, const char *value, size_t size, char *answer, size_t room)
{
    struct xsd_sockmsg header = { .type = type, .len = (uint32_t)(length(path) + 1 + size) };

    send(&header, sizeof(header));
    send(path, length(path) + 1);
    send(value, size);
    for (;;) {
        uint32_t got = message(answer, room);

        if (got != XS_WATCH_EVENT)
            return got;
        watch_fired = 1;
    }
}

static void watch(const char *path)
{
    char answer[8];

    ask(XS_WATCH, path, "t", 2, answer, sizeof(answer));
}

static void store(const char *path, const char *value)
{
    char answer[8];

    ask(XS_WRITE, path, value, length(value), answer, sizeof(answer));
}

static void eject(const char *device)
{
    char path[64] = "device/vbd/";
    size_t at = length(path);

    while (*device >= '0' && *device <= '9' && at < sizeof(path) - sizeof("/eject"))
        path[at++] = *device++;
    memcpy(path + at, "/eject", sizeof("/eject"));
    store(path, "eject");
}

/* `device` is followed by a space and by how often. */
static void flood(const char *device)
{
    const char *rest = device;
    unsigned int times;

    while (*rest >= '0' && *rest <= '9')
        rest++;
    for (times = number(rest + (*rest == ' ')); times; times--)
        eject(device);
}

/* `path` is followed by a space and the value. */
static void try_to_write(const char *path)
{
    char name[256], answer[16];
    size_t at = 0;

    while (path[at] && path[at] != ' ' && at < sizeof(name) - 1) {
        name[at] = path[at];
        at++;
    }
    name[at] = 0;
    path += at + (path[at] == ' ');
    ask(XS_WRITE, name, path, length(path), answer, sizeof(answer));
    store("data/result", answer);
}

static void obey(const char *order)
{
    const char *rest;

    if ((rest = after(order, "shutdown ")))
        end(number(rest));
    if ((rest = after(order, "eject ")))
        eject(rest);
    if ((rest = after(order, "flood ")))
        flood(rest);
    if ((rest = after(order, "write ")))
        try_to_write(rest);
    if (after(order, "fault"))
        __builtin_trap();
}

static void obey_toolstack(const char *word)
{
    /* Emptying the node is the answer that the toolstack waits for. */
    if (word[0])
        store("control/shutdown", "");
    if (after(word, "poweroff") || after(word, "halt"))
        end(SHUTDOWN_poweroff);
    if (after(word, "reboot"))
        end(SHUTDOWN_reboot);
    if (after(word, "suspend"))
        end(SHUTDOWN_suspend);
    if (after(word, "crash"))
        end(SHUTDOWN_crash);
}

void tiny_main(struct start_info *info)
{
    char text[256], done[256] = "";

    start_info = info;
    /* The shared page is a machine page that the start of day maps nowhere; the store's page is an ordinary one, mapped. */
    hypercall(__HYPERVISOR_update_va_mapping, (long)shared_page, (long)(info->shared_info | PAGE_PRESENT_WRITABLE_USER), UVMF_INVLPG);
    shared = (void *)shared_page;
    ring = (void *)(machine_to_phys_mapping[info->store_mfn] << 12);

    watch("control/shutdown");
    watch("data/order");
    store("data/answer", "ready");
    for (;;) {
        watch_fired = 0;
        if (ask(XS_READ, "control/shutdown", "", 0, text, sizeof(text)) == XS_READ)
            obey_toolstack(text);
        if (ask(XS_READ, "data/order", "", 0, text, sizeof(text)) == XS_READ && text[0]) {
            store("data/order", "");
            obey(text);
            memcpy(done, text, sizeof(done));
            store("data/answer", done);
        }
        while (!watch_fired)
            watch_fired = message(text, sizeof(text)) == XS_WATCH_EVENT;
    }
}

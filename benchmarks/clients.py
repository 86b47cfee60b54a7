# SPDX-License-Identifier: LGPL-2.1-or-later
"""The candidates that are written in Python: python -m benchmarks.clients NAME DIRECTORY WORKLOAD DOMAINS PER_BYTE

Each does what native/client.c does: it enables an evgen for each of the domains, says "ready", writes a byte to the
host's `ack` for every so many events, and answers each line of its standard input with what it has used. But where C
has a callback, here is whatever the candidate's users would have: mostly a parked greenlet for each domain.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from benchmarks.job import TICK, Job, ready, say, serve

COMPILED = "gxl._compiled"


def _park(job: Job, ctx: Any) -> None:
    """A greenlet for each domain, or one for all."""
    import gevent

    armed: list[Any] = []

    def wait(domid: int) -> None:
        armed.append(job.enable(ctx, domid))
        event_wait, event = ctx.event_wait, job.event
        while True:
            event(event_wait(domid=domid))

    def wait_for_all() -> None:
        event_wait, event = ctx.event_wait, job.event
        while True:
            event(event_wait())

    if job.one_greenlet:
        armed += [job.enable(ctx, domid) for domid in job.domids]
        gevent.spawn(wait_for_all)
    else:
        armed += [job.enable(ctx, domid) for domid in job.domids if domid not in job.awaited]
        for domid in job.awaited:
            gevent.spawn(wait, domid)
    gevent.sleep(0)
    # gxl has asked for each domain's name. To ask it for all of them would wait for that, too, and leave memory behind.
    while len(armed) < len(job.domids) or not all(feed.named for feed in ctx._pump.feeds.all()):
        gevent.sleep(TICK)


def _timed_engine(timed: Callable[[Callable[..., object]], Callable[..., object]]) -> None:
    from gxl.engines.libxl.osevents import OSEvents

    # As near to libxl's function as there is something that can be replaced.
    OSEvents.occurred_fd = timed(OSEvents.occurred_fd)  # type: ignore[method-assign, assignment]


def libxl_gevent(job: Job) -> None:
    import gevent

    import gxl

    job.connect()
    # Whoever has a Context at this hub, has the hub.
    gevent.get_hub()
    _park(job, job.opening(gxl.Context, "libxl", "gevent"))
    job.timed_call = _timed_engine
    serve(job)


def libxl_plain(job: Job) -> None:
    """gxl without its compiled part, as where there was no compiler.

    PURE_PYTHON in the environment leaves it out as well; but gevent's would be left out, too.
    """
    sys.modules[COMPILED] = None  # type: ignore[assignment]  # an import of it fails
    libxl_gevent(job)


def libxl_asyncio(job: Job) -> None:
    """A callback, as in C."""
    import asyncio

    from zope.interface import implementer

    import gxl
    from gxl.interfaces import IEventHooks

    @implementer(IEventHooks)
    class Hooks:
        event_occurs_mask = 2**64 - 1
        event_occurs = staticmethod(job.event)
        disaster = None

    async def tick() -> None:
        while True:
            job.tick()
            await asyncio.sleep(TICK)
            job.ticked()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ctx = job.opening(gxl.Context, "libxl", "asyncio")
        ctx.event_register_callbacks(Hooks())
        armed = [job.enable(ctx, domid) for domid in job.domids]
        ended = asyncio.Event()
        ticking: list[asyncio.Task[None]] = []

        def line() -> None:
            if lines := os.read(0, 4096).decode().splitlines():
                job.answer(lines[0], lambda: ticking.append(loop.create_task(tick())))
            else:
                ended.set()

        loop.add_reader(0, line)
        job.timed_call = _timed_engine
        await asyncio.sleep(TICK)
        ready()
        await ended.wait()
        del armed
        os._exit(0)

    job.connect()
    asyncio.run(main())


def libxl_poll(job: Job) -> None:
    """Without a loop: a thread that waits. What ticks is another thread."""
    import gxl

    job.connect()
    ctx = job.opening(gxl.Context, "libxl", "poll")
    armed = [job.enable(ctx, domid) for domid in job.domids]

    def tick() -> None:
        while True:
            job.tick()
            time.sleep(TICK)
            job.ticked()

    def answer() -> None:
        for line in sys.stdin:
            job.answer(line.strip(), threading.Thread(target=tick, daemon=True).start)
        os._exit(0)

    threading.Thread(target=answer, daemon=True).start()
    ready()
    while armed:
        job.event(ctx.event_wait())


def _parked_on_queues(job: Job) -> Callable[[Any], None]:
    """What those who have no gxl do: a greenlet for each domain, or one for all, each on a queue of its own."""
    import gevent
    from gevent.queue import SimpleQueue

    def wait(queue: SimpleQueue[Any]) -> None:
        while True:
            job.event(queue.get())

    if job.one_greenlet:
        only: SimpleQueue[Any] = SimpleQueue()
        gevent.spawn(wait, only)
        gevent.sleep(0)
        return only.put
    queues: dict[int, SimpleQueue[Any]] = {domid: SimpleQueue() for domid in job.domids}
    for queue in queues.values():
        gevent.spawn(wait, queue)
    gevent.sleep(0)
    return lambda event: queues[event.domid].put(event)


def _raw(job: Job) -> Any:
    from benchmarks.raw import Ctx

    job.connect()
    ctx = job.opening(Ctx)
    for domid in job.domids:
        ctx.enable(job.kind, domid)
    return ctx


def threadpool(job: Job) -> None:
    """libxl_event_wait, which blocks, in gevent's pool of threads."""
    import gevent

    ctx = _raw(job)
    # One greenlet for all of them can be the one that asks.
    deliver = job.event if job.one_greenlet else _parked_on_queues(job)

    def pump() -> None:
        apply = gevent.get_hub().threadpool.apply
        while True:
            deliver(apply(ctx.event_wait))

    gevent.spawn(pump)
    serve(job)


def native_thread(job: Job) -> None:
    """libxl_event_wait in a native thread, which hands the events to the hub."""
    import gevent

    ctx = _raw(job)
    deliver = _parked_on_queues(job)
    arrived: deque[Any] = deque()
    awake = gevent.get_hub().loop.async_()

    def hand_over() -> None:
        while arrived:
            deliver(arrived.popleft())

    def pump() -> None:
        while True:
            arrived.append(ctx.event_wait())
            awake.send()

    awake.start(hand_over)
    threading.Thread(target=pump, daemon=True).start()
    serve(job)


def bare(job: Job) -> None:
    """No gxl."""
    from benchmarks import bare

    bare.run(job)


def embedded(job: Job) -> None:
    """gxl's own engine: the host is in the same process, and takes the host's commands."""
    import gevent
    from gevent.event import Event as Flag

    import gxl
    from gxl.engines.embedded import EmbeddedEngine

    host = gxl.SimHost()
    for domid in job.domids:
        host.create_domain(domid=domid)
        if job.kind == "eject":
            host.add_disk(domid, "xvda")
    ctx = job.opening(lambda: gxl.Context(EmbeddedEngine(host), "gevent"))
    acknowledged = Flag()
    job.acknowledge = acknowledged.set
    _park(job, ctx)

    def strike(action: Callable[[int], object], first: int, count: int) -> int:
        acknowledged.clear()
        with host.quiet():
            for domid in range(first, first + count):
                action(domid)
            # Nobody has been told yet. What the host has taken to get there is no client's business.
            job.excuse()
            began = time.perf_counter_ns()
        acknowledged.wait()
        return time.perf_counter_ns() - began

    def act(line: str) -> bool:
        words = line.split()
        if len(words) != 3:
            return False
        what, a, b = words[0], int(words[1]), int(words[2])
        if what == "eject":
            times = [strike(lambda domid: host.eject_disk(domid, "xvda"), 1, b) for _ in range(a)]
        elif what == "shutdown":
            times = [strike(lambda domid: host.shutdown_domain(domid, 0), a, b)]
        else:
            times = [strike(host.mark_dying, a, b)]
        say(" ".join(map(str, times)))
        return True

    gevent.spawn(serve, job, act).join()


CLIENTS: dict[str, Callable[[Job], None]] = {
    "gxl": libxl_gevent,
    "gxl-plain": libxl_plain,
    "bare": bare,
    "threadpool": threadpool,
    "thread": native_thread,
    "gxl-asyncio": libxl_asyncio,
    "gxl-poll": libxl_poll,
    "embedded": embedded,
}


if __name__ == "__main__":
    name, directory, workload, domains, per_byte = sys.argv[1:]
    CLIENTS[name](Job(directory, workload, int(domains), int(per_byte)))

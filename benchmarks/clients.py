# SPDX-License-Identifier: LGPL-2.1-or-later
"""The candidates that are written in Python: python -m benchmarks.clients NAME DIRECTORY WORKLOAD DOMAINS PER_BYTE

Each does what native/client.c does: it enables an evgen for each of the domains, says "ready", writes a byte to the
host's `ack` for every so many events, and answers each line of its standard input with what it has used. But where C
has a callback, each domain here has whatever the candidate's users would have: a greenlet that is parked, mostly.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

TICK = 0.001


class Job:
    """What is to be done, and the count of what was."""

    def __init__(self, directory: str, workload: str, domains: int, per_byte: int) -> None:
        self.directory = Path(directory)
        self.workload = workload
        self.domids = range(1, domains + 1)
        self.acknowledge: Callable[[], object] = lambda: None
        self.pause = 0.0
        """The longest that the ticker has been late, in seconds. All of these are since the last report."""
        self.worked = 0.0
        """The most that this thread has worked between two ticks: a pause without what other processes have taken."""
        self.call = 0.0
        """The longest call of libxl's."""
        self.call_worked = 0.0
        """The most that this thread has worked in one."""
        self.shares: list[float] = []
        """For each event, how long after libxl's call had returned it reached the application."""
        self.opened = 0.0
        self._due = 0.0
        self._worked_by_then = 0.0
        self._returned = 0.0
        self._per_byte = per_byte
        self._counted = 0

    def connect(self) -> None:
        """Count for the host."""
        ack = socket.socket(socket.AF_UNIX)
        ack.connect(str(self.directory / "ack"))
        fd = ack.detach()
        self.acknowledge = lambda: os.write(fd, b"x")

    def enable(self, source: Any, domid: int) -> Any:
        """An evgen of this workload's on a Context or an engine."""
        if self.workload == "eject":
            return source.evenable_disk_eject(domid, "xvda", domid)
        return source.evenable_domain_death(domid, domid)

    def event(self, event: object = None) -> None:
        """An event has reached the application."""
        if self._returned and self._per_byte == 1:
            self.shares.append(time.perf_counter() - self._returned)
        self._counted += 1
        if self._counted == self._per_byte:
            self._counted = 0
            self.acknowledge()

    def observe(self) -> None:
        """Tick from now on, and note how long libxl takes when it is told of an fd, which is when it finds events."""
        import gevent

        from gxl.engines.libxl import LibxlEngine

        call = LibxlEngine.osevent_occurred_fd

        def timed(*args: Any) -> None:
            began, worked = time.perf_counter(), time.thread_time()
            try:
                call(*args)
            finally:
                self.call_worked = max(self.call_worked, time.thread_time() - worked)
                self._returned = time.perf_counter()
                self.call = max(self.call, self._returned - began)

        LibxlEngine.osevent_occurred_fd = timed  # type: ignore[assignment, method-assign]
        gevent.spawn(self._tick)

    def _tick(self) -> None:
        """What another greenlet sees of the hub: for how long after its time it can't go on."""
        import gevent

        while True:
            self._due, self._worked_by_then = time.perf_counter() + TICK, time.thread_time()
            gevent.sleep(TICK)
            self.pause = max(self.pause, time.perf_counter() - self._due)
            self.worked = max(self.worked, time.thread_time() - self._worked_by_then)

    def excuse(self) -> None:
        """What has kept the ticker waiting until now is not the client's doing: this process has been the host."""
        self._due, self._worked_by_then = max(self._due, time.perf_counter()), time.thread_time()

    def report(self) -> None:
        """What was used so far, and what was measured since the last report."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used = {
            "rss_kib": pages * os.sysconf("SC_PAGESIZE") // 1024,
            "switches": usage.ru_nvcsw,
            "fds": len(os.listdir("/proc/self/fd")),
            "threads": len(os.listdir("/proc/self/task")),
            "timers": sum(type(thing).__name__ == "timer" for thing in gc.get_objects()),
            "pause": self.pause,
            "worked": self.worked,
            "call": self.call,
            "call_worked": self.call_worked,
            "share": median(self.shares) if self.shares else 0.0,
            "opened": self.opened,
        }
        self.pause = self.worked = self.call = self.call_worked = 0.0
        self.shares.clear()
        self.excuse()  # from this report, which has taken some time itself
        say(json.dumps(used))


def ready() -> None:
    """All is as in a program that has run for long: what it keeps is not new to the garbage collector."""
    gc.collect()
    say("ready")


def say(line: str) -> None:
    print(line, flush=True)


def answer(lines: Iterable[str], job: Job) -> None:
    """In a thread of its own, where there is no loop to read standard input."""
    for _ in lines:
        job.report()
    os._exit(0)


def _timed(job: Job, make: Callable[..., Any], *args: object) -> Any:
    """What is made, by a call whose time is noted."""
    began = time.perf_counter()
    made = make(*args)
    job.opened = time.perf_counter() - began
    return made


def _park(job: Job, ctx: Any) -> None:
    """A greenlet for each domain."""
    import gevent

    armed = []

    def wait(domid: int) -> None:
        armed.append(job.enable(ctx, domid))
        event_wait, event = ctx.event_wait, job.event
        while True:
            event(event_wait(domid=domid))

    for domid in job.domids:
        gevent.spawn(wait, domid)
    while len(armed) < len(job.domids):
        gevent.sleep(0)


def _serve(job: Job, act: Callable[[str], object]) -> None:
    """Under gevent: carry out standard input's lines, to its end."""
    from gevent.fileobject import FileObjectPosix

    ready()
    for line in FileObjectPosix(os.dup(0), "r"):
        if line == "observe\n":
            job.observe()
            say("observes")
        else:
            act(line)
    os._exit(0)


def libxl_gevent(job: Job) -> None:
    import gxl

    job.connect()
    _park(job, _timed(job, gxl.Context, "libxl", "gevent"))
    _serve(job, lambda line: job.report())


def libxl_asyncio(job: Job) -> None:
    import asyncio

    from zope.interface import implementer

    import gxl
    from gxl.interfaces import IEventHooks

    @implementer(IEventHooks)
    class Hooks:
        event_occurs_mask = 2**64 - 1
        event_occurs = staticmethod(job.event)
        disaster = None

    async def main() -> None:
        ctx = _timed(job, gxl.Context, "libxl", "asyncio")
        ctx.event_register_callbacks(Hooks())
        armed = [job.enable(ctx, domid) for domid in job.domids]
        ended = asyncio.Event()

        def line() -> None:
            if os.read(0, 4096):
                job.report()
            else:
                ended.set()

        asyncio.get_running_loop().add_reader(0, line)
        ready()
        await ended.wait()
        del armed
        os._exit(0)

    job.connect()
    asyncio.run(main())


def libxl_poll(job: Job) -> None:
    import gxl

    job.connect()
    ctx = _timed(job, gxl.Context, "libxl", "poll")
    armed = [job.enable(ctx, domid) for domid in job.domids]
    threading.Thread(target=answer, args=(sys.stdin, job), daemon=True).start()
    ready()
    while armed:
        job.event(ctx.event_wait())


def _parked_on_queues(job: Job) -> Callable[[Any], None]:
    """What those who have no gxl do: a greenlet for each domain, on a queue of its own."""
    import gevent
    from gevent.queue import SimpleQueue

    queues: dict[int, SimpleQueue[Any]] = {domid: SimpleQueue() for domid in job.domids}

    def wait(queue: SimpleQueue[Any]) -> None:
        while True:
            job.event(queue.get())

    for queue in queues.values():
        gevent.spawn(wait, queue)
    gevent.sleep(0)
    return lambda event: queues[event.domid].put(event)


def threadpool(job: Job) -> None:
    """event_wait, as it blocks, in gevent's pool of threads."""
    import gevent

    from gxl.engines.libxl import LibxlEngine

    job.connect()
    engine = _timed(job, LibxlEngine)
    armed = [job.enable(engine, domid) for domid in job.domids]
    deliver = _parked_on_queues(job)

    def pump() -> None:
        apply = gevent.get_hub().threadpool.apply
        while armed:
            deliver(apply(engine.event_wait))

    gevent.spawn(pump)
    _serve(job, lambda line: job.report())


def native_thread(job: Job) -> None:
    """event_wait in a native thread, which hands the events to the hub."""
    import gevent

    from gxl.engines.libxl import LibxlEngine

    job.connect()
    engine = _timed(job, LibxlEngine)
    armed = [job.enable(engine, domid) for domid in job.domids]
    deliver = _parked_on_queues(job)
    arrived: deque[Any] = deque()
    awake = gevent.get_hub().loop.async_()

    def hand_over() -> None:
        while arrived:
            deliver(arrived.popleft())

    def pump() -> None:
        while armed:
            arrived.append(engine.event_wait())
            awake.send()

    awake.start(hand_over)
    threading.Thread(target=pump, daemon=True).start()
    _serve(job, lambda line: job.report())


def embedded(job: Job) -> None:
    """gxl's own engine: the host is in the same process, and takes the host's commands."""
    import gevent
    from gevent.event import Event as Flag

    import gxl

    host = gxl.SimHost()
    for domid in job.domids:
        host.create_domain(domid=domid)
        if job.workload == "eject":
            host.add_disk(domid, "xvda")
    from gxl.engines.embedded import EmbeddedEngine

    ctx = _timed(job, lambda: gxl.Context(EmbeddedEngine(host), "gevent"))
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

    def act(line: str) -> None:
        words = line.split()
        if len(words) != 3:
            job.report()
            return
        what, a, b = words[0], int(words[1]), int(words[2])
        if what == "eject":
            times = [strike(lambda domid: host.eject_disk(domid, "xvda"), 1, b) for _ in range(a)]
        elif what == "shutdown":
            times = [strike(lambda domid: host.shutdown_domain(domid, 0), a, b)]
        else:
            times = [strike(host.mark_dying, a, b)]
        say(" ".join(map(str, times)))

    gevent.spawn(_serve, job, act).join()


OBSERVED = ("gxl", "threadpool", "thread", "embedded")
"""Those that have a greenlet to tick."""

CLIENTS: dict[str, Callable[[Job], None]] = {
    "gxl": libxl_gevent,
    "gxl-asyncio": libxl_asyncio,
    "gxl-poll": libxl_poll,
    "threadpool": threadpool,
    "thread": native_thread,
    "embedded": embedded,
}


if __name__ == "__main__":
    name, directory, workload, domains, per_byte = sys.argv[1:]
    CLIENTS[name](Job(directory, workload, int(domains), int(per_byte)))

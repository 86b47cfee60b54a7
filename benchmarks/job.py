# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each candidate that is written in Python has in common: its task, and what it notes and tells of itself."""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

TICK = 0.001

Call = Callable[..., object]


class Job:
    """What is to be done, and the count of what was.

    `workload` is the kind of events, "death" or "eject", and who takes them: a greenlet for each domain; "/one": one
    for all of them; "/ten": a greenlet for each of the first ten, while all are watched.
    """

    def __init__(self, directory: str, workload: str, domains: int, per_byte: int) -> None:
        self.directory = Path(directory)
        self.kind, _, takers = workload.partition("/")
        self.one_greenlet = takers == "one"
        self.domids = range(1, domains + 1)
        self.awaited = self.domids[:10] if takers == "ten" else self.domids
        self.acknowledge: Callable[[], object] = lambda: None
        self.timed_call: Callable[[Callable[[Call], Call]], object] | None = None
        """Puts what it is given around the function that tells libxl of an fd, which is when libxl finds events."""
        self.pause = 0.0
        """The longest that the ticker has been late, in seconds. All of these are since the last report."""
        self.worked = 0.0
        """The longest that this thread has worked while the ticker was late: what other processes took is left out."""
        self.call = 0.0
        """The longest call of libxl's."""
        self.beyond = 0.0
        """How much of the longest pause was not the longest call in it."""
        self.shares: list[float] = []
        """For each event, how long after libxl's call had returned it reached the application."""
        self.counts: list[int] = []
        """For each event, how many functions were called meanwhile."""
        self.opened = 0.0
        self._due = 0.0
        self._worked_by_then = 0.0
        # How long the longest call has kept the ticker waiting that is late now.
        self._kept = 0.0
        self._returned = 0.0
        self._counts = False
        self._called = 0
        self._per_byte = per_byte
        self._counted = 0

    def connect(self) -> None:
        """Count for the host."""
        ack = socket.socket(socket.AF_UNIX)
        ack.connect(str(self.directory / "ack"))
        fd = ack.detach()
        self.acknowledge = lambda: os.write(fd, b"x")

    def opening(self, make: Callable[..., Any], *args: object) -> Any:
        """What is made, by a call whose time is noted."""
        began = time.perf_counter()
        made = make(*args)
        self.opened = time.perf_counter() - began
        return made

    def enable(self, source: Any, domid: int) -> Any:
        """An evgen of this workload's on a Context or an engine."""
        if self.kind == "eject":
            return source.evenable_disk_eject(domid, "xvda", domid)
        return source.evenable_domain_death(domid, domid)

    def event(self, event: object = None) -> None:
        """An event has reached the application."""
        if self._returned and self._per_byte == 1:
            self.shares.append(time.perf_counter() - self._returned)
            if self._counts:
                self.counts.append(self._called)
                sys.setprofile(self._count)
        self._counted += 1
        if self._counted == self._per_byte:
            self._counted = 0
            self.acknowledge()

    def observe(self) -> None:
        """From now on note how long libxl takes. The candidate's ticker begins, too."""
        if self.timed_call is not None:
            self.timed_call(self._timed)

    def _timed(self, call: Call) -> Call:
        def timed(*args: Any) -> None:
            began = time.perf_counter()
            try:
                call(*args)
            finally:
                self._returned = time.perf_counter()
                self.call = max(self.call, self._returned - began)
                # A call that began before its time has kept it waiting only from then on.
                self._kept = max(self._kept, self._returned - max(began, self._due))
                if self._counts:
                    self._called = 0
                    sys.setprofile(self._count)

        return timed

    def count(self) -> None:
        """From now on note how many functions are called from libxl's return to the application.

        Python profiles a greenlet only from when it has asked for that itself, and so its first event is not counted
        in full.
        """
        self._counts = True

    def _count(self, frame: object, what: str, argument: object) -> None:
        self._called += what in ("call", "c_call")

    def tick(self) -> None:
        """The ticker is about to sleep for TICK."""
        self._due, self._worked_by_then = time.perf_counter() + TICK, time.thread_time()
        self._kept = 0.0

    def ticked(self) -> None:
        """It goes on. For how long after its time could it not? That is what others than gxl see of the loop."""
        late = time.perf_counter() - self._due
        if late > self.pause:
            self.pause, self.beyond = late, late - self._kept
        # Some of the work may have been done before the ticker was late, but not more than it is late after that.
        self.worked = max(self.worked, min(late, time.thread_time() - self._worked_by_then))

    def excuse(self) -> None:
        """What has kept the ticker waiting until now is not the client's doing: this process has been the host."""
        self._due, self._worked_by_then = max(self._due, time.perf_counter()), time.thread_time()
        self._kept = 0.0

    def report(self) -> None:
        """What was used so far, and what was measured since the last report."""
        # Before anything that a ticker in another thread would have to wait for.
        used = {
            "pause": self.pause,
            "worked": self.worked,
            "call": self.call,
            "beyond": self.beyond,
            "share": median(self.shares) if self.shares else 0.0,
            "calls": self.counts[-1] if self.counts else 0,
            "opened": self.opened,
        }
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used |= {
            "rss_kib": pages * os.sysconf("SC_PAGESIZE") // 1024,
            "switches": usage.ru_nvcsw,
            "fds": len(os.listdir("/proc/self/fd")),
            "threads": len(os.listdir("/proc/self/task")),
            "timers": sum(type(thing).__name__ == "timer" for thing in gc.get_objects()),
        }
        self.pause = self.worked = self.call = self.beyond = 0.0
        self.shares.clear()
        self.counts.clear()
        self.excuse()  # from this report, which has taken some time itself
        say(json.dumps(used))

    def answer(self, line: str, start_ticker: Callable[[], object]) -> None:
        """Carry out a line of standard input."""
        if line == "observe":
            self.observe()
            start_ticker()
            say("observes")
        elif line == "count":
            self.count()
            say("counts")
        else:
            self.report()


def ready() -> None:
    """All is as in a program that has run for long: what it keeps is not new to the garbage collector."""
    gc.collect()
    say("ready")


def say(line: str) -> None:
    print(line, flush=True)


def serve(job: Job, act: Callable[[str], bool] = lambda line: False) -> None:
    """Under gevent: carry out standard input's lines, to its end. `act` does those that are not for every job."""
    import gevent
    from gevent.fileobject import FileObjectPosix

    def ticks() -> None:
        while True:
            job.tick()
            gevent.sleep(TICK)
            job.ticked()

    # The loop turns for the first time before anything is measured.
    gevent.sleep(TICK)
    ready()
    for line in FileObjectPosix(os.dup(0), "r"):
        if not act(line):
            job.answer(line.strip(), lambda: gevent.spawn(ticks))
    os._exit(0)

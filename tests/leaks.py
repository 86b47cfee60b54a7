# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a process holds that has to be given back, so that a test can compare before and after.

Fds, threads and children are asked of the kernel; greenlets and the loop's watchers of Python's garbage collector, in
whose lists each of them stands for as long as it exists; C's memory is tests/faults/test_c_memory.py's business.
"""

from __future__ import annotations

import functools
import gc
import os
import re
import threading
import time
from collections import Counter
from typing import Any

import gevent
from greenlet import greenlet

from gxl import pump

# Whose watchers there are: the loop's own signal and wake-up watchers are not among the collector's objects.
_LOOPS = ("gevent.libev.", "gevent.libuv.", "gevent._ffi.")


def held() -> dict[str, str]:
    """This process's open fds and native threads, with what each is."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[f"fd {fd}"] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the fd that listed the directory
            continue
    # In a patched process each greenlet that has asked is a thread of Python's, a dummy with the native thread's id.
    named = (thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread))
    names = {str(thread.native_id): thread.name for thread in named}
    for task in os.listdir("/proc/self/task"):
        found[f"thread {task}"] = names.get(task, "not Python's")
    return found


def children() -> list[str]:
    """The children of this process that nobody has reaped, dead or alive."""
    with open(f"/proc/self/task/{os.getpid()}/children") as listed:
        return listed.read().split()


@functools.cache
def _set_aside() -> None:
    """What was there before the first look is nobody's leak, and need not be looked through each time."""
    gc.collect()
    gc.freeze()


def alive() -> Counter[str]:
    """How many greenlets have not ended, watchers are active and contexts are pumped; and how many children there are.

    The greenlet that asks and the hub are not counted, nor what nobody can reach any more.
    """
    _set_aside()
    gc.collect()
    found: Counter[str] = Counter()
    asking = gevent.getcurrent()
    for thing in gc.get_objects():
        kind = type(thing)
        if isinstance(thing, greenlet):
            if thing and thing is not asking and not isinstance(thing, type(gevent.get_hub())):
                found[f"greenlet {thing!r}"] += 1
        elif str(kind.__module__).startswith(_LOOPS) and getattr(thing, "active", False) is True:
            found[f"watcher {kind.__name__}"] += 1
    found["open context"] = len(pump._pumps)
    found.update(f"child {pid}" for pid in children())
    return found


def census() -> Counter[str]:
    """How many there are of each kind: for what may be replaced by its like, such as a connection by the next one."""
    return alive() + Counter(re.sub(r"\[\d+\]", "", name) for name in held().values())


class Ledger:
    """What was held and alive at one moment."""

    def __init__(self) -> None:
        # A hub keeps the fds that it opens when it is first used.
        gevent.sleep(0)
        self._held = held()
        self._alive = alive()

    def surplus(self, but: tuple[str, ...] = ()) -> dict[str, Any]:
        """What there is now and was not then. Things that are on their way out get a moment to go.

        `but`: how the names begin of what may stay.
        """
        deadline = time.monotonic() + 5
        while True:
            # In a patched process os.close only notes the fd; the hub closes it after it has slept.
            gevent.sleep(0.01)
            left: dict[str, Any] = {what: name for what, name in held().items() if self._held.get(what) != name}
            left.update(alive() - self._alive)
            left = {what: name for what, name in left.items() if not what.startswith(but)}
            if not left or time.monotonic() > deadline:
                return left

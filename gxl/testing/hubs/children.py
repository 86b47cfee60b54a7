# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for IChildProcHooks: real children, and the accidents that happen to them."""

from __future__ import annotations

import os
import posix
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from gxl.errors import MisuseError
from gxl.interfaces import SigchldOwner
from gxl.testing.hubs.rig import Rig

_LOST = 255 << 8


def fork(rig: Any, child: Callable[[], Any]) -> int:
    """A child made by `rig.childproc` as an engine makes one; `child` returns its exit code."""
    replacement = rig.childproc.fork_replacement
    assert replacement is not None
    pid: int = replacement()
    if pid == 0:
        code = 99
        try:
            code = child() or 0
        finally:
            os._exit(code)
    return pid


def linger() -> int:
    """For a child: do nothing until a signal ends it, or a minute is over.

    Not time.sleep: in a patched process that runs the parent's loop, on the epoll set and the eventfd that the child
    shares with it, and takes the parent's wake-ups.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
    while True:
        signal.pause()


def dead(pid: int) -> None:
    """Returns once the child has ended, without reaping it and without letting the loop run."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def the_loop_reaps(rig: Rig) -> None:
    assert rig.childproc.chldowner is SigchldOwner.MAINLOOP
    assert rig.childproc.reaped_callback is None
    assert callable(rig.childproc.fork_replacement)


async def a_childs_status_is_reported_as_from_waitpid(rig: Rig) -> None:
    pids = {
        fork(rig, lambda: 0): 0,
        fork(rig, lambda: 7): 7 << 8,
        fork(rig, lambda: os.kill(os.getpid(), signal.SIGKILL)): signal.SIGKILL,
    }
    await rig.until(lambda: len(rig.sink.children) == 3, "all three are reported")
    assert dict(rig.sink.children) == pids


async def a_childs_end_is_reported_soon(rig: Rig) -> None:
    def start() -> Callable[[], object]:
        pid = fork(rig, lambda: 0)
        dead(pid)
        return lambda: pid in dict(rig.sink.children)

    await rig.soon(start, "a child's end is reported", within=0.5)


async def a_child_that_is_dead_before_anybody_looks_is_reported(rig: Rig) -> None:
    pid = fork(rig, lambda: 3)
    dead(pid)
    assert rig.sink.children == []
    await rig.until(lambda: rig.sink.children, "it is reported")
    assert rig.sink.children == [(pid, 3 << 8)]


async def dozens_that_die_at_once_are_each_reported_once(rig: Rig) -> None:
    reader, writer = os.pipe()

    def when_all_are_there(number: int) -> int:
        posix.close(writer)
        os.read(reader, 1)
        return number

    expected = {fork(rig, lambda n=n: when_all_are_there(n)): n << 8 for n in range(50)}  # type: ignore[misc]  # mypy infers no lambda that has a default
    posix.close(writer)
    posix.close(reader)
    for pid in expected:
        dead(pid)
    await rig.until(lambda: len(rig.sink.children) >= 50, "all are reported")
    await rig.turn()
    assert len(rig.sink.children) == 50
    assert dict(rig.sink.children) == expected


async def a_child_is_gone_when_it_is_reported_and_the_next_may_be_forked_there(rig: Rig) -> None:
    generations: list[int] = []

    def again(pid: int, status: int) -> None:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            generations.append(pid)
        if len(rig.sink.children) < 5:
            fork(rig, lambda: 0)

    rig.sink.answers["child"] = again
    fork(rig, lambda: 0)
    await rig.until(lambda: len(rig.sink.children) == 5, "five generations are reported")
    assert len(generations) == 5


async def a_child_that_stops_and_goes_on_is_not_reported_until_it_ends(rig: Rig) -> None:
    pid = fork(rig, linger)
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    await rig.turn()
    os.kill(pid, signal.SIGCONT)
    await rig.turn()
    assert rig.sink.children == []
    os.kill(pid, signal.SIGTERM)
    await rig.until(lambda: rig.sink.children, "it is reported")
    assert rig.sink.children == [(pid, signal.SIGTERM)]


async def in_the_engines_own_child_fork_replacement_is_a_plain_fork(rig: Rig) -> None:
    # libxl forks a middle process, which forks the one that does the work, and waits for it.
    def middle() -> int:
        replacement = rig.childproc.fork_replacement
        assert replacement is not None
        inner = replacement()
        if inner == 0:
            os._exit(5)
        return os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) + 1

    pid = fork(rig, middle)
    await rig.until(lambda: rig.sink.children, "the middle process is reported")
    assert rig.sink.children == [(pid, 6 << 8)]


async def a_status_that_somebody_took_is_reported_as_a_failure_once(rig: Rig) -> None:
    # A stray os.waitpid(-1) of the application's. Unnoticed, libxl's operation would hang for ever.
    pids = [fork(rig, lambda: 0) for _ in range(3)]
    for pid in pids:
        dead(pid)
        os.waitpid(pid, 0)
    await rig.until(lambda: len(rig.sink.children) >= 3, "they are reported")
    await rig.turn()
    assert sorted(rig.sink.children) == sorted((pid, _LOST) for pid in pids)


async def the_applications_own_children_are_left_to_it(rig: Rig) -> None:
    expected = {fork(rig, lambda n=n: n): n << 8 for n in range(20)}  # type: ignore[misc]  # mypy infers no lambda that has a default
    codes = []
    for number in range(10):
        done = subprocess.run([sys.executable, "-S", "-E", "-c", f"raise SystemExit({number})"], check=False)
        codes.append(done.returncode)
    await rig.until(lambda: len(rig.sink.children) >= 20, "the engine's children are reported")
    assert codes == list(range(10))
    assert dict(rig.sink.children) == expected


async def a_child_leaves_no_fd_behind(rig: Rig) -> None:
    fork(rig, lambda: 0)  # the loop may open some of its own for the first
    await rig.until(lambda: len(rig.sink.children) == 1, "the first is reported")
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        fork(rig, lambda: 0)
    await rig.until(lambda: len(rig.sink.children) == 4, "they are reported")
    assert sorted(os.listdir("/proc/self/fd")) == before


async def close_forgets_the_children(rig: Rig) -> None:
    other = rig.another()
    pid = fork(other, linger)
    other.binding.close()
    os.kill(pid, signal.SIGKILL)
    dead(pid)
    await rig.turn()
    assert other.sink.children == []
    try:
        fork(other, lambda: 0)
    except MisuseError:
        return
    raise AssertionError("a closed binding forked")

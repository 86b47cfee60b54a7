# SPDX-License-Identifier: LGPL-2.1-or-later
"""What cases for child processes work with: modes, forks that can be watched, and a look at SIGCHLD."""

from __future__ import annotations

import os
import posix
import signal
from collections.abc import Callable
from types import SimpleNamespace

from gxl.interfaces import SigchldOwner
from gxl.testing.engines.rig import Rig

FAIL = -3


def set_mode(
    rig: Rig,
    owner: SigchldOwner,
    fork_replacement: Callable[[], int] | None = None,
    reaped_callback: Callable[[int, int], object] | None = None,
) -> None:
    """Set the childproc mode."""
    rig.engine.childproc_setmode(
        SimpleNamespace(chldowner=owner, fork_replacement=fork_replacement, reaped_callback=reaped_callback)
    )


def sigchld_is_caught() -> bool:
    """Whether the kernel calls a handler for SIGCHLD in this process."""
    with open("/proc/self/status") as status:
        [mask] = [line.split()[1] for line in status if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> (signal.SIGCHLD - 1) & 1)


def child_that_exits(status: int = 0) -> int:
    """A child of the application's, that ends at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(status)
    return pid


def ended(pid: int) -> int:
    """Waits for the end of `pid`, and leaves it to be reaped."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


class Forks:
    """A fork_replacement that keeps the pids."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def __call__(self) -> int:
        pid = posix.fork()
        if pid:
            self.pids.append(pid)
        return pid


def stopped_fork(pids: list[int]) -> int:
    """A fork whose child stops before it does anything."""
    pid = posix.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        return 0
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    pids.append(pid)
    return pid

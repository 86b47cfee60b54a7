# SPDX-License-Identifier: LGPL-2.1-or-later
"""libxl's children through a Context, on each engine: reaped beside the application's, and never its greenlets."""

from __future__ import annotations

import logging
import os
import posix
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.monkey
import gevent.os
import gevent.pool
import gevent.signal
import gevent.subprocess
import pytest
from requirements import Requirements
from worlds import World, outcome, until

import gxl
from gxl.errors import Fail
from gxl.interfaces import SigchldOwner

HUNDREDS = 200


def libxls(ctx: gxl.Context) -> list[int]:
    """The pids of libxl's children that are being watched."""
    return [child.pid for child in ctx._pump.binding.childproc._children]


def children() -> set[int]:
    """This process's children, dead ones included."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def test_the_natural_mode_is_set_up_by_itself(world: World) -> None:
    ctx = world.open()
    assert ctx._pump.binding.childproc.chldowner is SigchldOwner.MAINLOOP
    before = children()
    domid = world.host.create_domain()
    operation = ctx.domain_destroy(domid, wait=False)
    [child] = children() - before
    operation.wait(10)
    # Others, which a closed Context had left, may be gone as well.
    assert child not in children()


def test_children_that_are_dead_before_the_loop_looks_are_not_lost(world: World) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(30)]
    doomed = [ctx.domain_destroy(domid, wait=False) for domid in domids]
    for pid in libxls(ctx):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert len(libxls(ctx)) == 30
    gevent.wait(doomed, timeout=20)
    assert [operation.rc for operation in doomed] == [0] * 30


@pytest.fixture
def choose_pid(require: Requirements) -> Callable[[int], None]:
    """Lets the next process of the machine have this pid, if nobody else is quicker."""
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    try:
        last_pid.write_text(last_pid.read_text() or "1000")
    except OSError as error:
        require.missing(f"a way to choose pids ({error})")

    def choose(pid: int) -> None:
        last_pid.write_text(str(pid - 1))

    return choose


def test_a_pid_that_is_used_again_is_another_child(world: World, choose_pid: Callable[[int], None]) -> None:
    ctx = world.open()
    again = 0
    used = 0
    for _ in range(200):
        domid = world.host.create_domain()
        if used:
            choose_pid(used)
        operation = ctx.domain_destroy(domid, wait=False)
        (pid,) = libxls(ctx)
        again += pid == used
        used = pid
        operation.wait(10)
        if again >= 3:
            break
    assert again >= 3


def test_hundreds_of_the_applications_children_keep_their_exit_codes(world: World) -> None:
    ctx = world.open()

    def popen(number: int) -> int:
        return int(gevent.subprocess.call(["/bin/sh", "-c", f"exit {number % 256}"]))

    def fork(number: int) -> int:
        pid = gevent.os.fork_and_watch()
        if pid == 0:
            posix._exit(number % 256)
        return os.waitstatus_to_exitcode(gevent.os.waitpid(pid, 0)[1])

    pool = gevent.pool.Pool(20)
    running: list[Any] = []

    def application() -> None:
        for number in range(HUNDREDS):
            running.append(pool.spawn(fork if number % 2 else popen, number))

    spawner = gevent.spawn(application)
    doomed = []
    for _ in range(40):
        doomed.append(ctx.domain_destroy(world.host.create_domain(), wait=False))
        gevent.sleep(0)
    spawner.join(30)
    assert [greenlet.get(timeout=30) for greenlet in running] == [number % 256 for number in range(HUNDREDS)]
    gevent.wait(doomed, timeout=20)
    assert [operation.rc for operation in doomed] == [0] * 40


def test_the_applications_own_sigchld_handler_takes_nothing_from_libxl(world: World) -> None:
    ctx = world.open()
    calls: list[int] = []
    previous = gevent.signal.signal(signal.SIGCHLD, lambda *_: calls.append(1))
    try:
        ctx.domain_destroy(world.host.create_domain(), timeout=10)
        gevent.subprocess.check_call(["/bin/true"])
        until(lambda: calls)
        ctx.domain_destroy(world.host.create_domain(), timeout=10)
    finally:
        gevent.signal.signal(signal.SIGCHLD, previous or signal.SIG_DFL)


def test_a_handler_that_replaces_gevents_loses_no_child(world: World) -> None:
    ctx = world.open()
    ctx.domain_destroy(world.host.create_domain(), timeout=10)
    loop: Any = gevent.get_hub().loop
    original = gevent.monkey.get_original("signal", "signal")
    original(signal.SIGCHLD, lambda *_: None)
    try:
        ctx.domain_destroy(world.host.create_domain(), timeout=10)
    finally:
        loop.reset_sigchld()
        loop.install_sigchld()


class Witness(logging.Handler):
    """Writes down in which process something ran: a pipe tells of children as well."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK)
        self.armed = True

    def note(self) -> None:
        if self.armed:
            os.write(self.writer, b"%d " % os.getpid())

    def emit(self, record: logging.LogRecord) -> None:
        self.note()

    def pids(self) -> set[int]:
        seen = b""
        try:
            while True:
                seen += os.read(self.reader, 65536)
        except BlockingIOError:
            return {int(pid) for pid in seen.split()}


@pytest.fixture
def witness() -> Iterator[Witness]:
    witness = Witness()
    yield witness
    witness.armed = False
    os.close(witness.reader)
    os.close(witness.writer)


@pytest.fixture
def running_greenlet(witness: Witness) -> Iterator[Witness]:
    """A greenlet that is always ready to run, and an at-fork handler that would let it."""

    def run() -> None:
        while witness.armed:
            witness.note()
            gevent.sleep(0)

    def yields() -> None:
        if witness.armed:
            gevent.sleep(0)

    os.register_at_fork(after_in_child=yields, after_in_parent=yields, before=yields)
    greenlet = gevent.spawn(run)
    yield witness
    witness.armed = False
    greenlet.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_greenlet_runs_in_libxls_children(
    world: World, running_greenlet: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python prints what the handlers raise when they are refused to yield.
    monkeypatch.setattr(sys, "unraisablehook", lambda *_: None)
    ctx = world.open()
    for _ in range(5):
        ctx.domain_destroy(world.host.create_domain(), timeout=10)
    assert running_greenlet.pids() == {os.getpid()}


def test_no_log_handler_runs_in_libxls_children(world: World, witness: Witness) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    logger = logging.getLogger("gxl")
    level = logger.level
    logger.addHandler(witness)
    logger.setLevel(logging.DEBUG)
    try:
        world.host.fail_next("destroydomain", 16)
        with pytest.raises(Fail):
            ctx.domain_destroy(domid, timeout=10)
    finally:
        logger.removeHandler(witness)
        logger.setLevel(level)
    assert witness.pids() == {os.getpid()}


def test_a_child_that_is_killed_fails_its_operation_only(world: World) -> None:
    ctx = world.open()
    operation = ctx.domain_destroy(world.host.create_domain(), wait=False)
    (pid,) = libxls(ctx)
    os.kill(pid, signal.SIGKILL)
    result = outcome(gevent.spawn(operation.wait))
    # It may have been done with its work.
    assert result is None or isinstance(result, Fail)
    ctx.domain_destroy(world.host.create_domain(), timeout=10)


def test_a_hub_that_is_busy_finds_them_afterwards(world: World) -> None:
    ctx = world.open()
    operation = ctx.domain_destroy(world.host.create_domain(), wait=False)
    gevent.monkey.get_original("time", "sleep")(0.05)
    began = time.monotonic()
    operation.wait(10)
    assert time.monotonic() - began < 5

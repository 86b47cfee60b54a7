# SPDX-License-Identifier: LGPL-2.1-or-later
"""libxl's children beside gevent's and the application's."""

from __future__ import annotations

import _thread
import itertools
import os
import posix
import signal
import warnings
from typing import Any

import gevent
import gevent.os
import gevent.signal
import gevent.subprocess
import pytest
from blocking import BlockingRig
from gevent.monkey import get_original

from gxl.errors import GxlError
from gxl.forking import in_library_fork
from gxl.testing.hubs.children import dead, fork

HUB = gevent.get_hub()


def test_children_of_gevents_subprocess_and_patched_forks_run_beside(rig: BlockingRig) -> None:
    expected = {}
    greenlets = []

    def popen(number: int) -> tuple[int, int]:
        with gevent.subprocess.Popen(["/bin/sh", "-c", f"exit {number}"]) as process:
            return number, process.wait(timeout=20)

    def fork_and_wait(number: int) -> tuple[int, int]:
        pid = gevent.os.fork_and_watch()
        if pid == 0:
            os._exit(number)
        return number, os.waitstatus_to_exitcode(gevent.os.waitpid(pid, 0)[1])

    for number in range(40):
        greenlets.append(gevent.spawn(popen, number))
        greenlets.append(gevent.spawn(fork_and_wait, number))
        pid = fork(rig, lambda number=number: number)  # type: ignore[misc]  # mypy infers no lambda that has a default
        expected[pid] = number << 8
        gevent.sleep(0)
    rig.until(lambda: len(rig.sink.children) >= 40, "the engine's children are reported")
    for running in greenlets:
        number, code = running.get(timeout=20)
        assert code == number
    assert dict(rig.sink.children) == expected
    assert len(rig.sink.children) == 40


def test_the_application_may_handle_sigchld_through_gevent(rig: BlockingRig) -> None:
    calls = []
    previous = gevent.signal.signal(signal.SIGCHLD, lambda *_: calls.append(1))
    try:
        pid = fork(rig, lambda: 4)
        rig.until(lambda: rig.sink.children, "the child is reported")
        assert rig.sink.children == [(pid, 4 << 8)]
        assert calls == [], "the application was told of a child that it does not know"
        gevent.subprocess.check_call(["/bin/true"])
        gevent.sleep(0.001)
        assert calls
    finally:
        gevent.signal.signal(signal.SIGCHLD, previous or signal.SIG_DFL)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, lambda *_: None], ids=["default", "own"])
def test_a_sigchld_handler_replaced_behind_gevents_back_loses_no_child(rig: BlockingRig, handler: Any) -> None:
    fork(rig, lambda: 1)
    rig.until(lambda: len(rig.sink.children) == 1, "the first is reported")
    get_original("signal", "signal")(signal.SIGCHLD, handler)
    try:
        pid = fork(rig, lambda: 2)
        rig.until(lambda: len(rig.sink.children) == 2, "the second is reported")
        assert rig.sink.children[1] == (pid, 2 << 8)
    finally:
        HUB.loop.reset_sigchld()  # type: ignore[attr-defined]  # its stubs don't know
        HUB.loop.install_sigchld()


def test_a_handler_that_reaps_everything_is_noticed(rig: BlockingRig, reported: list[BaseException]) -> None:
    pid = fork(rig, lambda: 0)
    dead(pid)
    assert get_original("os", "waitpid")(-1, 0)[0] == pid
    rig.until(lambda: rig.sink.children, "the child is reported")
    rig.turn()
    assert rig.sink.children == [(pid, 255 << 8)]
    assert [type(error) for error in reported] == [GxlError]
    assert f"process {pid}" in str(reported[0])


def test_without_pidfds_the_loop_alone_tells(rig: BlockingRig, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", unknown)
    # As in a process that has had no child yet: a SIGCHLD that finds no handler is gone.
    HUB.loop.reset_sigchld()  # type: ignore[attr-defined]  # its stubs don't know
    pids = {fork(rig, lambda n=n: n): n << 8 for n in range(5)}  # type: ignore[misc]  # mypy infers no lambda that has a default
    for pid in pids:
        dead(pid)
    rig.until(lambda: len(rig.sink.children) == 5, "the children are reported")
    assert dict(rig.sink.children) == pids


def test_a_fork_that_fails_is_an_oserror_and_leaves_nothing(rig: BlockingRig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    fork(rig, lambda: 0)
    rig.until(lambda: rig.sink.children, "the first is reported")
    before = sorted(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(posix, "fork", fails)
        with pytest.raises(BlockingIOError):
            rig.childproc.fork_replacement()
    assert not in_library_fork()
    gevent.sleep(0)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_warning_that_is_an_error_does_not_lose_a_child(rig: BlockingRig, monkeypatch: pytest.MonkeyPatch) -> None:
    # Python 3.12 warns when a process with threads forks.
    real = posix.fork

    def warns() -> int:
        pid = real()
        if pid:
            warnings.warn("this process is multi-threaded", DeprecationWarning, stacklevel=1)
        return pid

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with monkeypatch.context() as patch:
            patch.setattr(posix, "fork", warns)
            pid = fork(rig, lambda: 0)
    rig.until(lambda: rig.sink.children, "the child is reported")
    assert rig.sink.children == [(pid, 0)]


def test_an_interrupt_during_the_fork_does_not_lose_the_child(rig: BlockingRig) -> None:
    # A signal arrives while the kernel forks, and its handler runs at the next bytecode. This handler has none.
    signals = itertools.chain([signal.SIGINT], itertools.repeat(signal.SIGWINCH))
    os.register_at_fork(after_in_parent=map(_thread.interrupt_main, signals).__next__)
    pid = fork(rig, lambda: 0)
    assert pid > 0
    rig.sink.waiter = None
    with pytest.raises(KeyboardInterrupt):
        rig.waiter.wait(5)
    rig.sink.waiter = rig.waiter
    rig.until(lambda: rig.sink.children, "the child is reported")
    assert rig.sink.children == [(pid, 0)]


def test_an_at_fork_handler_that_yields_runs_no_greenlet_in_the_engines_child(rig: BlockingRig) -> None:
    ran: list[int] = []
    armed = True

    def yields() -> None:
        if armed:
            gevent.sleep(0)

    os.register_at_fork(after_in_child=yields)

    def work() -> None:
        while armed:
            ran.append(os.getpid())
            gevent.sleep(0)

    worker = gevent.spawn(work)
    gevent.sleep(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the handler's error is printed as unraisable
        pid = fork(rig, lambda: 1 if os.getpid() in ran else 0)
    armed = False
    rig.until(lambda: rig.sink.children, "the child is reported")
    assert rig.sink.children == [(pid, 0)]
    worker.join()

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bindings, native threads and forked processes."""

from __future__ import annotations

import os
import posix
import threading
import time
from collections.abc import Callable
from select import POLLIN

import gevent
import pytest
from blocking import BlockingRig
from gevent.monkey import get_original

from gxl.errors import MisuseError
from gxl.forking import in_library_fork
from gxl.hubhooks.gevent import GeventHub
from gxl.testing.hubs import Case, life, run_case
from gxl.testing.hubs.children import fork
from gxl.testing.hubs.rig import Provider, Rig

HUB = gevent.get_hub()


def natively(f: Callable[[], object]) -> None:
    """Run `f` in a native thread, whatever is patched, and return when it has ended."""
    done: list[bool] = []

    def run() -> None:
        try:
            f()
        finally:
            done.append(True)

    get_original("_thread", "start_new_thread")(run, ())
    deadline = time.monotonic() + 10
    while not done and time.monotonic() < deadline:
        get_original("time", "sleep")(0.001)
    assert done


def test_a_native_thread_is_refused_and_a_patched_one_is_welcome(rig: BlockingRig) -> None:
    outcome: list[BaseException | None] = []

    def attempt() -> None:
        for call in (rig.binding.check_caller, rig.binding.waiter):
            try:
                call()
                outcome.append(None)
            except BaseException as error:
                outcome.append(error)

    natively(attempt)
    assert [type(error) for error in outcome] == [MisuseError, MisuseError]
    assert "another thread" in str(outcome[0])
    outcome.clear()
    HUB.threadpool.apply(attempt)
    assert [type(error) for error in outcome] == [MisuseError, MisuseError]
    outcome.clear()
    if gevent.monkey.is_module_patched("threading"):
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        assert outcome == [None, None]


def test_another_native_thread_may_have_a_binding_of_its_own_but_no_children() -> None:
    outcome: list[object] = []

    def in_a_thread() -> None:
        try:
            rig = BlockingRig(Rig(Provider(GeventHub)))
            with rig.cleanup:
                rig.turn()
                outcome.append(rig.binding.childproc)
            gevent.get_hub().destroy(destroy_loop=True)
        except BaseException as error:
            outcome.append(error)

    natively(in_a_thread)
    assert outcome == [None]


def test_close_is_possible_after_the_hub_was_destroyed() -> None:
    outcome: list[object] = []

    def in_a_thread() -> None:
        try:
            rig = BlockingRig(Rig(Provider(GeventHub)))
            reader, _ = rig.pipe()
            rig.osevent.fd_register(reader, POLLIN, "fd")
            rig.osevent.timeout_register(time.time() + 3600, "far")
            gevent.get_hub().destroy()
            rig.cleanup.close()
            outcome.append("closed")
        except BaseException as error:
            outcome.append(error)

    natively(in_a_thread)
    assert outcome == ["closed"]


@pytest.mark.parametrize(
    "case",
    [
        life.a_forked_child_is_refused_and_may_close,
        life.a_forked_child_that_only_closes_leaves_the_parents_loop_unharmed,
    ],
    ids=lambda case: case.__name__,
)
def test_a_fork_that_gevent_does_not_know_of(case: Case) -> None:
    # There libuv shares its epoll set with the parent for good.
    run_case(Provider(GeventHub, fork=posix.fork), case)


def test_a_forked_child_lets_go_without_being_asked(rig: BlockingRig) -> None:
    reader, writer = rig.pipe()
    rig.osevent.fd_register(reader, POLLIN, "shared")
    rig.turn()

    def child() -> None:
        with pytest.raises(MisuseError):
            rig.osevent.timeout_register(0, "too late")
        assert HUB.join(timeout=5) is True

    rig.fork(child)()
    os.write(writer, b"x")
    rig.until(lambda: rig.sink.of("shared"), "the parent still hears of its fd")


def test_an_engines_own_child_keeps_what_it_was_forked_with(rig: BlockingRig) -> None:
    # The at-fork handler runs in libxl's children too, and must know them from the application's.
    child_of_library: list[bool] = []
    os.register_at_fork(after_in_child=lambda: child_of_library.append(in_library_fork()))

    def child() -> int:
        return 0 if child_of_library == [True] and not rig.binding.closed else 1

    pid = fork(rig, child)
    rig.until(lambda: rig.sink.children, "the child is reported")
    assert rig.sink.children == [(pid, 0)]

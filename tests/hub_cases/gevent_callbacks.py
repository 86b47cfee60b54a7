# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes wrong in callbacks, and what must not switch."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from select import POLLIN
from types import FrameType
from typing import Any

import gevent
import gevent.event
import gevent.lock
import gevent.queue
import greenlet
import pytest
from blocking import BlockingRig
from gevent.exceptions import BlockingSwitchOutError

from gxl.errors import MisuseError
from gxl.testing.hubs.children import fork

HUB = gevent.get_hub()


def test_an_exception_in_a_report_goes_to_the_error_handler_and_stops_nothing(
    rig: BlockingRig, reported: list[BaseException]
) -> None:
    # Left alone, libev prints it and stops the watcher for good; the other loops throw it into the main greenlet.
    def fail(*_: object) -> None:
        raise KeyError("from a sink")

    reader, writer = rig.pipe()
    other, also = rig.pipe()
    registrations = {
        name: rig.osevent.fd_register(fd, POLLIN, name) for name, fd in (("fails", reader), ("works", other))
    }
    rig.sink.answers.update({"fails": fail, "timeout": fail, "child": fail})
    os.write(writer, b"x")
    os.write(also, b"x")
    rig.osevent.timeout_register(time.time() + 0.001, "timeout")
    fork(rig, lambda: 0)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        rig.waiter.wait(0.01)
        if len(rig.sink.of("fails")) > 2 and rig.sink.of("works") and rig.sink.timeouts and rig.sink.children:
            break
    assert len(rig.sink.of("fails")) > 2, "the fd is watched no more"
    assert rig.sink.of("works"), "another fd of the same turn was skipped"
    assert rig.sink.timeouts == ["timeout"]
    assert len(rig.sink.children) == 1
    assert len(reported) == len(rig.sink.of("fails")) + 2
    assert all(isinstance(error, KeyError) for error in reported)
    rig.osevent.fd_deregister(reader, registrations["fails"])


def test_a_keyboard_interrupt_in_a_report_reaches_the_main_greenlet_and_stops_nothing(rig: BlockingRig) -> None:
    reader, writer = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "fd")

    def interrupt(*_: object) -> None:
        rig.sink.answers.clear()
        raise KeyboardInterrupt

    rig.sink.answers["fd"] = interrupt
    rig.sink.waiter = None
    os.write(writer, b"x")
    with pytest.raises(KeyboardInterrupt):
        rig.waiter.wait(5)
    rig.sink.waiter = rig.waiter
    seen = len(rig.sink.of("fd"))
    rig.until(lambda: len(rig.sink.of("fd")) > seen, "the fd is still watched")
    rig.osevent.fd_deregister(reader, registration)


def test_a_signal_handler_that_raises_while_fds_are_looked_at_stops_nothing(
    rig: BlockingRig, reported: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "fd")
    fds = rig.binding._fds
    epoll = fds._epoll

    class Interrupted:
        def poll(self, timeout: float, maxevents: int) -> None:
            monkeypatch.setattr(fds, "_epoll", epoll)
            raise RuntimeError("from a signal handler")

    monkeypatch.setattr(fds, "_epoll", Interrupted())
    os.write(writer, b"x")
    rig.until(lambda: rig.sink.of("fd"), "the fd is still watched")
    assert [str(error) for error in reported] == ["from a signal handler"]
    rig.osevent.fd_deregister(reader, registration)


def test_what_call_soon_and_spawn_raise_goes_to_the_error_handler(
    rig: BlockingRig, reported: list[BaseException]
) -> None:
    def fail() -> None:
        raise KeyError("of the application's")

    called = []
    rig.binding.call_soon(fail)
    rig.binding.call_soon(lambda: called.append("next"))
    rig.binding.spawn(fail)
    rig.binding.spawn(lambda: called.append("spawned"))
    rig.turn()
    assert called == ["next", "spawned"]
    assert [type(error) for error in reported] == [KeyError, KeyError]


def test_fds_have_their_turn_before_each_call_of_the_next_turn(rig: BlockingRig) -> None:
    reader, writer = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "fd")
    os.write(writer, b"x")
    reports: list[int] = []

    def again() -> None:
        reports.append(len(rig.sink.of("fd")))
        if len(reports) < 5:
            rig.binding.call_next_turn(again)

    rig.binding.call_next_turn(again)
    rig.until(lambda: len(reports) == 5, "it was called again and again")
    assert all(later > earlier for earlier, later in pairwise(reports)), reports
    rig.osevent.fd_deregister(reader, registration)


def test_what_is_left_for_the_next_turn_is_called_though_the_binding_is_closed(rig: BlockingRig) -> None:
    called: list[str] = []
    rig.binding.call_next_turn(lambda: called.append("before"))
    rig.binding.close()
    rig.binding.call_next_turn(lambda: called.append("after"))
    gevent.sleep(0)
    assert called == ["before", "after"]


def test_report_never_raises_even_if_the_error_handler_does(
    rig: BlockingRig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(HUB, "handle_error", broken)
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    rig.binding.report(ValueError("what nobody else heard"))
    assert "what nobody else heard" in capfd.readouterr().err


def test_report_does_not_switch_even_for_what_ends_the_program(rig: BlockingRig) -> None:
    with rig.binding.no_switch():
        rig.binding.report(SystemExit(3))
    with pytest.raises(SystemExit):
        gevent.sleep(1)


def wait_for_a_timer() -> None:
    with HUB.loop.timer(0.001) as timer:  # type: ignore[attr-defined]  # its stubs don't know
        HUB.wait(timer)


def blocking_calls() -> list[Callable[[], object]]:
    held = gevent.lock.Semaphore(0)
    return [
        lambda: gevent.sleep(0),
        lambda: gevent.sleep(0.001),
        lambda: gevent.event.Event().wait(0.001),
        lambda: gevent.with_timeout(0.001, gevent.queue.Queue().get, timeout_value=None),
        lambda: held.acquire(timeout=0.001),
        lambda: gevent.spawn(int).join(),
        lambda: HUB.threadpool.apply(int),
        wait_for_a_timer,
    ]


@pytest.mark.parametrize("number", range(len(blocking_calls())))
def test_whatever_would_block_is_refused_under_the_guard(rig: BlockingRig, number: int) -> None:
    call = blocking_calls()[number]
    outcome: list[BaseException | None] = []

    def attempt() -> None:
        try:
            with rig.binding.no_switch():
                call()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    attempt()
    gevent.spawn(attempt).join()
    raw = greenlet.greenlet(attempt, parent=HUB)
    HUB.loop.run_callback(raw.switch)
    HUB.loop.run_callback(attempt)
    gevent.sleep(0.01)
    # In main, in a Greenlet and in a bare greenlet by the guard; in the hub by gevent itself, in its own way.
    assert [type(error).__name__ for error in outcome[:3]] == ["SwitchRefused"] * 3
    assert len(outcome) == 4
    assert outcome[3] is not None
    assert isinstance(outcome[0], MisuseError)
    assert isinstance(outcome[0], BlockingSwitchOutError)
    call()


def test_what_needs_no_switch_is_allowed_under_the_guard(rig: BlockingRig) -> None:
    lock, event = gevent.lock.RLock(), gevent.event.Event()
    native: queue.Queue[int] = queue.Queue()
    channel: gevent.queue.SimpleQueue[int] = gevent.queue.SimpleQueue()
    done: list[int] = []
    with rig.binding.no_switch():
        with lock, threading.Lock():
            gevent.spawn(done.append, 1)
        event.set()
        channel.put(1)
        native.put(1)
    assert event.wait(0)
    assert channel.get() == 1
    gevent.sleep(0)
    assert done == [1]


def test_what_strikes_as_the_loop_calls_leaves_the_fds_watched(rig: BlockingRig, reported: list[BaseException]) -> None:
    reader, writer = rig.pipe()
    rig.osevent.fd_register(reader, POLLIN, "fd")
    struck: list[str] = []

    def strike(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_name == "dispatch" and not struck:
            struck.append(event)
            raise KeyError("struck")

    os.write(writer, b"x")
    sys.settrace(strike)
    try:
        deadline = time.monotonic() + 5
        while not rig.sink.of("fd") and time.monotonic() < deadline:
            rig.waiter.wait(0.01)
    finally:
        sys.settrace(None)
    assert struck == ["call"]
    assert rig.sink.of("fd"), "the fd is watched no more"
    assert [str(error) for error in reported] == ["'struck'"]


def test_who_is_switched_to_behind_the_guards_back_may_not_enter(rig: BlockingRig) -> None:
    # A bare switch() gets past the hub, in the hub itself too: gevent's Waiter does it. libxl's lock is recursive and
    # would let the second greenlet in, on top of the first one's stack.
    outcome: list[object] = []

    def intrude() -> None:
        for entry in (rig.binding.check_caller, rig.binding.no_switch):
            try:
                outcome.append(entry())
            except MisuseError as error:
                outcome.append(str(error))

    def inside() -> None:
        with rig.binding.no_switch():
            # Its parent is this greenlet: when it has ended, it is this one's turn again.
            greenlet.greenlet(intrude).switch()
            rig.binding.check_caller()

    inside()
    HUB.loop.run_callback(inside)
    gevent.sleep(0.001)
    assert len(outcome) == 4
    assert all("switched away from inside libxl" in str(entry) for entry in outcome)
    rig.binding.check_caller()


def test_two_guards_nest_and_a_greenlets_own_switch_out_survives(rig: BlockingRig) -> None:
    other = rig.another()
    calls: list[str] = []

    def attempt() -> None:
        current: Any = greenlet.getcurrent()
        current.switch_out = lambda: calls.append("mine")
        with rig.binding.no_switch(), other.binding.no_switch(), rig.binding.no_switch():
            pass
        with rig.binding.no_switch():
            with other.binding.no_switch():
                pass
            with pytest.raises(BlockingSwitchOutError):
                gevent.sleep(0)
        assert calls == []
        gevent.sleep(0)
        assert calls == ["mine"]

    gevent.spawn(attempt).get(timeout=5)

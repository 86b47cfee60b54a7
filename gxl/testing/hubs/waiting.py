# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for IHubBinding and IWaiter: waiting, running code, the guard, whose call it is, closing."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from select import POLLIN, POLLOUT

from zope.interface.verify import verifyClass, verifyObject

from gxl.errors import MisuseError
from gxl.interfaces import IChildProcHooks, IHub, IHubBinding, IOSEventHooks, IWaiter
from gxl.testing.hubs.rig import Rig


def everything_has_the_contracts_shape(rig: Rig) -> None:
    things = [
        (IHub, rig.hub),
        (IHubBinding, rig.binding),
        (IWaiter, rig.waiter),
        (IOSEventHooks, rig.binding.osevent),
        (IChildProcHooks, rig.binding.childproc),
    ]
    for interface, thing in things:
        if thing is not None:
            verifyObject(interface, thing)
            verifyClass(interface, type(thing))


def a_wake_up_is_kept_until_somebody_waits_and_used_up_by_that(rig: Rig) -> None:
    waiter = rig.binding.waiter()
    waiter.wake()
    waiter.wake()
    assert waiter.wait(None) is True
    assert waiter.wait(0) is False
    waiter.wake()
    assert waiter.wait(0) is True


def a_wait_ends_when_its_time_is_up_and_not_before(rig: Rig) -> None:
    waiter = rig.binding.waiter()
    for span in (0.0001, 0.001, 0.0123, 0.0307):
        started = time.monotonic()
        assert waiter.wait(span) is False
        took = time.monotonic() - started
        assert span <= took < span + 2, took


def a_wake_up_from_a_report_ends_a_wait(rig: Rig) -> None:
    waiter = rig.binding.waiter()
    rig.sink.answers["now"] = lambda _: waiter.wake()
    rig.osevent.timeout_register(time.time() + 0.005, "now")
    assert waiter.wait(None) is True
    rig.osevent.timeout_register(time.time() + 0.005, "now")
    assert waiter.wait(10) is True
    assert waiter.wait(0) is False


def one_waiter_is_woken_and_no_other(rig: Rig) -> None:
    woken = []
    waiters = []

    def wait(number: int) -> None:
        waiter = rig.binding.waiter()
        waiters.append(waiter)
        rig.waiter.wake()
        if waiter.wait(10):
            woken.append(number)
            rig.waiter.wake()

    for number in range(5):
        rig.binding.spawn(lambda number=number: wait(number))  # type: ignore[misc]
    rig.until(lambda: len(waiters) == 5, "all wait")
    waiters[3].wake()
    rig.until(lambda: woken, "one was woken")
    rig.turn()
    assert woken == [3]
    for waiter in waiters:
        waiter.wake()
    rig.until(lambda: len(woken) == 5, "all were woken")


def call_soon_calls_in_order_and_not_from_inside(rig: Rig) -> None:
    called: list[int] = []
    for number in range(3):
        rig.binding.call_soon(lambda number=number: called.append(number))  # type: ignore[misc]
    assert called == []
    rig.binding.call_soon(rig.waiter.wake)
    rig.until(lambda: len(called) == 3, "all were called")
    assert called == [0, 1, 2]


def what_is_spawned_may_wait_and_so_may_what_it_spawns(rig: Rig) -> None:
    done: list[str] = []

    def inner() -> None:
        rig.binding.waiter().wait(0.001)
        done.append("inner")
        rig.waiter.wake()

    def outer() -> None:
        rig.binding.spawn(inner)
        rig.binding.waiter().wait(0.001)
        done.append("outer")
        rig.waiter.wake()

    rig.binding.spawn(outer)
    assert done == []
    rig.until(lambda: len(done) == 2, "both are done")


def a_callback_of_the_loop_cannot_wait(rig: Rig) -> None:
    outcome: list[object] = []

    def attempt(_: object) -> None:
        for wait in (rig.binding.waiter, lambda: rig.waiter.wait(1)):
            try:
                outcome.append(wait())
            except MisuseError as error:
                outcome.append(error)

    rig.sink.waiter = None
    rig.sink.answers["try"] = attempt
    rig.osevent.timeout_register(0, "try")
    rig.waiter.wait(0.05)
    rig.sink.waiter = rig.waiter
    assert [type(entry) for entry in outcome] == [MisuseError, MisuseError]


def the_guard_refuses_to_switch_and_only_while_it_is_entered(rig: Rig) -> None:
    waiter = rig.binding.waiter()

    def refused() -> bool:
        try:
            waiter.wait(0.001)
        except MisuseError:
            return True
        return False

    for _ in range(2):
        with rig.binding.no_switch():
            assert refused()
            with rig.binding.no_switch():
                assert refused()
            assert refused(), "the inner guard ended the outer one"
            waiter.wake()
            assert waiter.wait(None) is True, "what needs no switch is allowed"
            rig.binding.call_soon(waiter.wake)
            rig.binding.spawn(waiter.wake)
        assert waiter.wait(10) is True
        assert not refused()
        try:
            with rig.binding.no_switch():
                raise KeyError
        except KeyError:
            pass
        assert not refused(), "an exception left the guard behind"
        while waiter.wait(0.001):
            pass


def another_native_thread_is_refused(rig: Rig) -> None:
    # In a patched process, what threading calls a thread may be one of the loop's own greenlets, and welcome.
    here = os.readlink("/proc/thread-self")
    outcome: list[tuple[str, BaseException | None]] = []

    def attempt() -> None:
        there = os.readlink("/proc/thread-self")
        try:
            rig.binding.check_caller()
        except BaseException as error:
            outcome.append((there, error))
        else:
            outcome.append((there, None))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    there, error = outcome[0]
    assert isinstance(error, MisuseError) == (here != there), error
    rig.binding.check_caller()


def a_forked_child_is_refused_and_may_close(rig: Rig) -> None:
    reader, writer = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "shared")
    rig.osevent.timeout_register(time.time() + 0.2, "timeout")
    rig.turn()

    def child() -> None:
        try:
            rig.binding.check_caller()
        except MisuseError:
            pass
        else:
            raise AssertionError("the child may call")
        # In either order, and twice: an engine lets go of its fds before or after its hub does.
        rig.osevent.fd_deregister(reader, registration)
        rig.binding.close()
        rig.binding.close()
        os.write(writer, b"x")

    rig.fork(child)()
    rig.until(lambda: rig.sink.of("shared"), "the parent still hears of its fd")
    rig.until(lambda: "timeout" in rig.sink.timeouts, "the parent still hears of its timeout")


def a_forked_child_that_only_closes_leaves_the_parents_loop_unharmed(rig: Rig) -> None:
    reader, writer = rig.pipe()
    rig.osevent.fd_register(reader, POLLIN, "shared")
    rig.turn()
    rig.fork(rig.binding.close)()
    rig.turn()
    os.write(writer, b"x")
    rig.until(lambda: rig.sink.of("shared"), "the parent still hears of its fd")


def a_forked_child_hears_nothing_of_what_its_parent_watched(rig: Rig) -> None:
    reader, writer = rig.pipe()
    rig.osevent.fd_register(reader, POLLIN, "shared")
    rig.osevent.timeout_register(time.time() + 0.01, "timeout")
    rig.turn()

    def child() -> None:
        rig.sink.fds.clear()
        rig.sink.timeouts.clear()
        os.write(writer, b"x")
        time.sleep(0.02)
        rig.another().turn()
        assert not rig.sink.fds
        assert not rig.sink.timeouts

    rig.fork(child)()


def after_close_nothing_is_reported_and_nothing_is_left(rig: Rig) -> None:
    reader, writer = rig.pipe()
    before = os.listdir("/proc/self/fd")
    other = rig.another()
    timeout = other.osevent.timeout_register(time.time() + 0.001, "timeout")
    registration = other.osevent.fd_register(reader, POLLIN, "fd")
    other.osevent.timeout_register(0, "due")
    os.write(writer, b"x")
    with tempfile.TemporaryFile() as file:
        other.osevent.fd_register(file.fileno(), POLLOUT, "file")
        other.binding.close()
        other.binding.close()
    rig.osevent.timeout_register(time.time() + 0.01, "later")
    rig.until(lambda: "later" in rig.sink.timeouts, "time passes")
    assert (other.sink.fds, other.sink.timeouts) == ([], [])
    # What an engine lets go of when it is freed last.
    other.osevent.fd_deregister(reader, registration)
    other.osevent.timeout_modify(timeout, 0)
    for hook in (
        lambda: other.osevent.fd_register(reader, POLLIN, "fd"),
        lambda: other.osevent.timeout_register(0, "timeout"),
        lambda: other.osevent.fd_modify(reader, registration, POLLIN),
    ):
        _must_refuse(hook)
    rig.turn()
    assert (other.sink.fds, other.sink.timeouts) == ([], [])
    assert sorted(os.listdir("/proc/self/fd")) == sorted(before)


def close_works_inside_a_report(rig: Rig) -> None:
    other = rig.another()
    for name in ("a", "b"):
        reader, writer = rig.pipe()
        other.osevent.fd_register(reader, POLLIN, name)
        other.sink.answers[name] = lambda *_: other.binding.close()
        os.write(writer, b"x")
    other.waiter.wait(10)
    assert len(other.sink.fds) == 1
    rig.turn()
    assert len(other.sink.fds) == 1


def two_bindings_do_not_disturb_each_other(rig: Rig) -> None:
    other = rig.another()
    reader, writer = rig.pipe()
    mine = rig.osevent.fd_register(reader, POLLIN, "mine")
    theirs = other.osevent.fd_register(reader, POLLIN, "theirs")
    os.write(writer, b"x")
    rig.until(lambda: rig.sink.of("mine") and other.sink.of("theirs"), "both are told")
    assert not rig.sink.of("theirs")
    assert not other.sink.of("mine")
    other.osevent.fd_deregister(reader, theirs)
    other.binding.close()
    seen = len(rig.sink.of("mine"))
    rig.until(lambda: len(rig.sink.of("mine")) > seen, "the first is still told")
    rig.osevent.fd_deregister(reader, mine)


def a_reported_exception_is_swallowed(rig: Rig) -> None:
    for error in (RuntimeError("reported by a test; no reason to worry"), BaseException("likewise")):
        rig.binding.report(error)


def _must_refuse(call: Callable[[], object]) -> None:
    try:
        call()
    except MisuseError:
        return
    raise AssertionError("a hook of a closed binding did not refuse")

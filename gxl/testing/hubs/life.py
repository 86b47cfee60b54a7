# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for the life of a binding at a loop: who may call it, forks, several bindings, closing."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from select import POLLIN, POLLOUT

from gxl.errors import MisuseError
from gxl.interfaces import IAwaitableWaiter
from gxl.testing.hubs.children import fork
from gxl.testing.hubs.rig import Rig


async def a_wake_up_from_a_report_ends_a_wait(rig: Rig) -> None:
    waiter = rig.binding.waiter()
    rig.sink.answers["now"] = lambda _: waiter.wake()
    rig.osevent.timeout_register(time.time() + 0.005, "now")
    assert await rig.wait(waiter, None) is True
    rig.osevent.timeout_register(time.time() + 0.005, "now")
    assert await rig.wait(waiter, 10) is True
    assert await rig.wait(waiter, 0) is False


async def a_wake_up_from_a_callback_ends_a_wait(rig: Rig) -> None:
    waiter = rig.binding.waiter()
    reader, writer = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "now")
    rig.sink.answers["now"] = lambda *_: waiter.wake()
    os.write(writer, b"x")
    assert await rig.wait(waiter, None) is True
    rig.osevent.fd_deregister(reader, registration)
    while await rig.wait(waiter, 0):
        pass
    rig.binding.call_soon(waiter.wake)
    assert await rig.wait(waiter, None) is True
    if rig.binding.childproc is not None:
        rig.sink.answers["child"] = lambda *_: waiter.wake()
        fork(rig, lambda: 0)
        assert await rig.wait(waiter, None) is True


async def a_callback_of_the_loop_cannot_wait(rig: Rig) -> None:
    # Where the loop runs coroutines, a callback may make a waiter, for a task to await.
    spare = rig.binding.waiter()
    attempts: list[Callable[[], object]] = [lambda: spare.wait(0.01)]
    if not IAwaitableWaiter.providedBy(rig.waiter):
        attempts.append(rig.binding.waiter)
    outcome: list[object] = []

    def attempt(_: object) -> None:
        for wait in attempts:
            try:
                outcome.append(wait())
            except MisuseError as error:
                outcome.append(error)

    rig.sink.waiter = None
    rig.sink.answers["try"] = attempt
    rig.osevent.timeout_register(0, "try")
    await rig.wait(rig.waiter, 0.05)
    rig.sink.waiter = rig.waiter
    assert [type(entry) for entry in outcome] == [MisuseError] * len(attempts)


async def another_native_thread_is_refused(rig: Rig) -> None:
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


async def a_forked_child_is_refused_and_may_close(rig: Rig) -> None:
    reader, writer = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "shared")
    rig.osevent.timeout_register(time.time() + 0.2, "timeout")
    await rig.turn()

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
    await rig.until(lambda: rig.sink.of("shared"), "the parent still hears of its fd")
    await rig.until(lambda: "timeout" in rig.sink.timeouts, "the parent still hears of its timeout")


async def a_forked_child_that_only_closes_leaves_the_parents_loop_unharmed(rig: Rig) -> None:
    reader, writer = rig.pipe()
    rig.osevent.fd_register(reader, POLLIN, "shared")
    await rig.turn()
    rig.fork(rig.binding.close)()
    await rig.turn()
    os.write(writer, b"x")
    await rig.until(lambda: rig.sink.of("shared"), "the parent still hears of its fd")


async def a_forked_child_hears_nothing_of_what_its_parent_watched(rig: Rig) -> None:
    reader, writer = rig.pipe()
    rig.osevent.fd_register(reader, POLLIN, "shared")
    rig.osevent.timeout_register(time.time() + 0.01, "timeout")
    await rig.turn()

    async def child() -> None:
        rig.sink.fds.clear()
        rig.sink.timeouts.clear()
        os.write(writer, b"x")
        time.sleep(0.02)
        await rig.fresh().turn()
        assert not rig.sink.fds
        assert not rig.sink.timeouts

    rig.fork(child)()


async def after_close_nothing_is_reported_and_nothing_is_left(rig: Rig) -> None:
    reader, writer = rig.pipe()
    fds, threads = (set(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
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
    await rig.until(lambda: "later" in rig.sink.timeouts, "time passes")
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
    await rig.turn()
    assert (other.sink.fds, other.sink.timeouts) == ([], [])
    assert set(os.listdir("/proc/self/fd")) == fds
    # A thread that was there before may have ended since.
    assert set(os.listdir("/proc/self/task")) <= threads


async def close_works_inside_a_report(rig: Rig) -> None:
    other = rig.another()
    for name in ("a", "b"):
        reader, writer = rig.pipe()
        other.osevent.fd_register(reader, POLLIN, name)
        other.sink.answers[name] = lambda *_: other.binding.close()
        os.write(writer, b"x")
    await rig.wait(other.waiter, 10)
    assert len(other.sink.fds) == 1
    await rig.turn()
    assert len(other.sink.fds) == 1


async def two_bindings_do_not_disturb_each_other(rig: Rig) -> None:
    other = rig.another()
    reader, writer = rig.pipe()
    mine = rig.osevent.fd_register(reader, POLLIN, "mine")
    theirs = other.osevent.fd_register(reader, POLLIN, "theirs")
    os.write(writer, b"x")
    await rig.until(lambda: rig.sink.of("mine") and other.sink.of("theirs"), "both are told")
    assert not rig.sink.of("theirs")
    assert not other.sink.of("mine")
    other.osevent.fd_deregister(reader, theirs)
    other.binding.close()
    seen = len(rig.sink.of("mine"))
    await rig.until(lambda: len(rig.sink.of("mine")) > seen, "the first is still told")
    rig.osevent.fd_deregister(reader, mine)


def _must_refuse(call: Callable[[], object]) -> None:
    try:
        call()
    except MisuseError:
        return
    raise AssertionError("a hook of a closed binding did not refuse")


async def an_engines_child_keeps_the_parents_loop_unharmed(rig: Rig) -> None:
    if rig.binding.childproc is None:
        return
    reader, writer = rig.pipe()
    rig.osevent.fd_register(reader, 1, "fd")
    await rig.turn()
    fork(rig, lambda: 0)
    await rig.until(lambda: rig.sink.children, "the child is reported")
    os.write(writer, b"x")
    await rig.until(lambda: rig.sink.of("fd"), "the fd is reported")

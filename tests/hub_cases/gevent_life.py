# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the gevent hub's bindings do to the loop's life, and what waiting is like for greenlets."""

from __future__ import annotations

import gc
import os
import signal
import time
import weakref
from select import POLLIN

import gevent
import gevent.event
import gevent.socket
import pytest
from blocking import BlockingRig
from gevent.exceptions import LoopExit

from gxl.errors import MisuseError
from gxl.hubhooks.gevent import GeventHub
from gxl.testing.hubs.children import fork, linger
from gxl.testing.hubs.rig import Provider, Rig

HUB = gevent.get_hub()


@pytest.fixture
def watching(rig: BlockingRig) -> BlockingRig:
    """A rig that is interested in this and that, of which nothing happens."""
    reader, _ = rig.pipe()
    rig.osevent.fd_register(reader, POLLIN, "quiet")
    rig.osevent.timeout_register(time.time() + 3600, "far")
    rig.turn()
    return rig


def test_an_idle_binding_does_not_keep_the_loop_running(watching: BlockingRig) -> None:
    assert HUB.join(timeout=5) is True


def test_an_idle_binding_does_not_hide_that_nothing_can_happen_any_more(watching: BlockingRig) -> None:
    with pytest.raises(LoopExit):
        gevent.event.Event().wait()


def test_while_somebody_waits_the_loop_goes_on(watching: BlockingRig) -> None:
    assert watching.waiter.wait(0.01) is False
    watching.osevent.timeout_register(time.time() + 0.01, "soon")
    assert watching.waiter.wait(None) is True
    reader, writer = watching.pipe()
    watching.osevent.fd_register(reader, POLLIN, "fd")
    assert watching.binding.childproc is not None
    pid = fork(watching, lambda: os.write(writer, b"x") - 1)
    assert watching.waiter.wait(None) is True
    assert watching.sink.of("fd") or watching.sink.children == [(pid, 0)]
    watching.until(lambda: watching.sink.children, "the child is reported")


def test_once_nobody_waits_the_loop_may_end(watching: BlockingRig) -> None:
    waiters = [gevent.spawn(lambda: watching.binding.waiter().wait(0.01)) for _ in range(3)]
    gevent.sleep(0)
    waiters[0].kill()
    gevent.joinall(waiters)
    assert HUB.join(timeout=5) is True


def test_an_idle_binding_wakes_the_loop_no_oftener_than_the_bare_loop_wakes_itself(rig: BlockingRig) -> None:
    def turns() -> int:
        check = HUB.loop.check(ref=False)
        count = 0

        def counted() -> None:
            nonlocal count
            count += 1

        check.start(counted)
        gevent.sleep(0.35)
        check.stop()
        check.close()
        return count

    rig.binding.close()
    bare = turns()
    busy = BlockingRig(Rig(Provider(GeventHub)))
    reader, _ = busy.pipe()
    busy.osevent.fd_register(reader, POLLIN, "quiet")
    busy.osevent.timeout_register(time.time() + 3600, "far")
    pid = fork(busy, linger)
    waiting_greenlet = gevent.spawn(busy.waiter.wait, None)
    gevent.sleep(0.05)
    assert turns() <= bare + 1
    os.kill(pid, signal.SIGKILL)
    waiting_greenlet.kill()
    with busy.cleanup:
        busy.until(lambda: busy.sink.children, "the child is reported")


def test_a_closed_binding_is_forgotten_by_the_loop() -> None:
    rig = BlockingRig(Rig(Provider(GeventHub)))
    reader, _ = rig.pipe()
    rig.osevent.fd_register(reader, POLLIN, "fd")
    rig.osevent.timeout_register(time.time() + 3600, "far")
    binding = weakref.ref(rig.binding)
    rig.cleanup.close()
    del rig
    gevent.sleep(0.001)
    gc.collect()
    assert binding() is None


def test_a_foreign_timeout_passes_through_and_loses_no_wake_up(rig: BlockingRig) -> None:
    waiter = rig.binding.waiter()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.005):
        waiter.wait(10)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.005):
        waiter.wait(None)
    waits = gevent.spawn(gevent.with_timeout, 0.005, waiter.wait, None, timeout_value="late")
    assert waits.get(timeout=5) == "late"
    waiter.wake()
    assert waiter.wait(None) is True


def test_a_kill_passes_through_and_a_wake_up_in_the_same_turn_is_kept(rig: BlockingRig) -> None:
    waiter = rig.binding.waiter()
    waits = gevent.spawn(waiter.wait, None)
    gevent.sleep(0)
    waits.kill(block=False)
    waiter.wake()
    waits.join()
    assert isinstance(waits.value, gevent.GreenletExit)
    assert waiter.wait(0) is True


def test_a_stray_switch_does_not_end_a_wait(rig: BlockingRig) -> None:
    waiter = rig.binding.waiter()
    waits = gevent.spawn(waiter.wait, None)
    gevent.sleep(0)
    for _ in range(3):
        HUB.loop.run_callback(waits.switch)
    gevent.sleep(0.001)
    assert not waits.ready()
    waiter.wake()
    assert waits.get(timeout=5) is True


def test_a_wake_up_does_not_disturb_what_the_greenlet_does_next(rig: BlockingRig) -> None:
    waiter = rig.binding.waiter()

    def wait_and_then_sleep() -> float:
        with gevent.Timeout(0.005, False):  # type: ignore[arg-type]  # its stubs want an exception, and False is none
            waiter.wait(None)
        started = time.monotonic()
        gevent.sleep(0.05)
        return time.monotonic() - started

    sleeps = gevent.spawn(wait_and_then_sleep)
    gevent.sleep(0)
    deadline = time.monotonic() + 5
    while waiter.parked is not None and time.monotonic() < deadline:
        gevent.sleep(0)
    waiter.wake()
    # libuv counts in whole milliseconds: its sleeps end up to one early.
    assert sleeps.get(timeout=5) >= 0.048


def test_a_waiter_is_for_one_greenlet(rig: BlockingRig) -> None:
    waits = gevent.spawn(rig.waiter.wait, None)
    gevent.sleep(0)
    with pytest.raises(MisuseError, match="already"):
        rig.waiter.wait(1)
    rig.waiter.wake()
    assert waits.get(timeout=5) is True


def test_waiters_resume_in_the_order_in_which_they_were_woken(rig: BlockingRig) -> None:
    order: list[int] = []
    waiters = [rig.binding.waiter() for _ in range(5)]

    def wait(number: int) -> None:
        waiters[number].wait(None)
        order.append(number)

    greenlets = [gevent.spawn(wait, number) for number in range(5)]
    gevent.sleep(0)
    for number in (3, 0, 4, 1, 2):
        waiters[number].wake()
    assert order == []
    gevent.joinall(greenlets, timeout=5)
    assert order == [3, 0, 4, 1, 2]


def test_a_thousand_that_wait_cost_no_fd_timer_or_thread(rig: BlockingRig) -> None:
    def possessions() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    before = possessions()
    waiters = [rig.binding.waiter() for _ in range(1000)]
    greenlets = [gevent.spawn(waiter.wait, None) for waiter in waiters]
    gevent.sleep(0)
    fds, threads = possessions()
    assert fds <= before[0]
    assert threads <= before[1]  # one of gevent's pool may have ended meanwhile
    for waiter in waiters:
        waiter.wake()
    gevent.joinall(greenlets, timeout=10)
    assert all(greenlet.value is True for greenlet in greenlets)


def test_a_replaced_time_function_does_not_matter(rig: BlockingRig, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = time.time() + 0.02
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 0.0)
        rig.osevent.timeout_register(moment, "soon")
    rig.until(lambda: "soon" in rig.sink.timeouts, "it is reported")
    assert time.time() >= moment


def test_a_socket_of_gevents_may_be_used_by_its_number(rig: BlockingRig) -> None:
    # The loop watches that fd too then, for somebody else.
    left, right = gevent.socket.socketpair()
    registration = rig.osevent.fd_register(left.fileno(), POLLIN, "shared")
    reads = gevent.spawn(left.recv, 1)
    gevent.sleep(0)
    right.send(b"x")
    assert reads.get(timeout=5) == b"x"
    right.send(b"y")
    rig.until(lambda: rig.sink.of("shared"), "the engine is told as well")
    rig.osevent.fd_deregister(left.fileno(), registration)
    assert left.recv(1) == b"y"
    left.close()
    right.close()

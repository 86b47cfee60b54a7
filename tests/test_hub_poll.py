# SPDX-License-Identifier: LGPL-2.1-or-later
"""The poll hub: the conformance suite, and threads that share a Context."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from select import POLLIN
from types import FrameType
from typing import Any

import pytest
from worlds import World
from zope.interface import implementer

import gxl
from gxl import DomainDeath
from gxl.engines.embedded import EmbeddedEngine
from gxl.hubhooks import poll
from gxl.hubhooks.poll import PollHub
from gxl.interfaces import IEventHooks, IPollSource
from gxl.sidechannel import SideChannel
from gxl.simhost import SimHost
from gxl.testing.hubs import HubProviderTests
from gxl.testing.hubs.rig import Recorder

HUBS = ("poll",)


class TestPollHub(HubProviderTests):
    def make_hub(self) -> PollHub:
        return PollHub()


class Thread(threading.Thread):
    """Calls f and keeps what comes of it."""

    def __init__(self, f: Callable[..., Any], *args: Any, **how: Any) -> None:
        super().__init__(daemon=True)
        self._f: Callable[[], Any] = lambda: f(*args, **how)
        self._outcome: Any = None
        self.start()

    def run(self) -> None:
        try:
            self._outcome = self._f()
        except BaseException as error:
            self._outcome = error

    @property
    def outcome(self) -> Any:
        """What f returned or raised, waiting for it for a while."""
        self.join(60)
        assert not self.is_alive(), "the thread hangs"
        return self._outcome


def parked(ctx: gxl.Context) -> int:
    """How many threads wait at this Context, the one that pumps included."""
    with ctx._pump.lock:
        return len(ctx._pump.binding._waiting)  # type: ignore[attr-defined]  # behind the interface, this implementation's own


def until(condition: Callable[[], object]) -> None:
    """Look again and again, for what another thread does."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.0005)


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that were woken, in this order."""
    woken: list[threading.Thread] = []
    sleep = poll._Waiter.sleep

    def noting(waiter: Any, seconds: float | None) -> None:
        sleep(waiter, seconds)
        woken.append(threading.current_thread())

    monkeypatch.setattr(poll._Waiter, "sleep", noting)
    return woken


def test_an_event_wakes_the_thread_that_gets_it_and_no_other(world: World, woken: list[threading.Thread]) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(8)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    pumping = Thread(ctx.event_wait, user=77)
    until(lambda: parked(ctx) == 1)
    threads = {}
    for count, domid in enumerate(domids, 2):
        threads[domid] = Thread(ctx.event_wait, domid=domid)
        until(lambda count=count: parked(ctx) == count)  # type: ignore[misc]  # mypy infers no lambda that has a default
    for domid in reversed(domids):
        world.host.destroy_domain(domid)
        assert threads[domid].outcome.domid == domid
    assert woken == [threads[domid] for domid in reversed(domids)]
    ctx.close()
    assert isinstance(pumping.outcome, gxl.ContextClosed)


def test_an_event_of_a_watcher_wakes_one_of_the_threads_that_share_it(
    world: World, woken: list[threading.Thread]
) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(5)]
    watcher = ctx.watch(*domids)
    pumping = Thread(ctx.event_wait, user=77)
    until(lambda: parked(ctx) == 1)
    threads = []
    for count in range(2, 7):
        threads.append(Thread(next, watcher))
        until(lambda count=count: parked(ctx) == count)  # type: ignore[misc]  # mypy infers no lambda that has a default
    for thread, domid in zip(threads[:4], domids, strict=False):
        world.host.destroy_domain(domid)
        assert thread.outcome.domid == domid
    assert woken == threads[:4]
    ctx.close()
    assert isinstance(threads[4].outcome, gxl.ContextClosed)
    assert isinstance(pumping.outcome, gxl.ContextClosed)


def test_the_thread_that_leaves_hands_the_pumping_on(world: World) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(5)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    threads = []
    for count, domid in enumerate(domids, 1):
        threads.append(Thread(ctx.event_wait, domid=domid))
        until(lambda count=count: parked(ctx) == count)  # type: ignore[misc]  # mypy infers no lambda that has a default
    # Each is the one that pumps when its event comes.
    for domid, thread in zip(domids, threads, strict=True):
        world.host.destroy_domain(domid)
        assert thread.outcome.domid == domid


def test_a_thread_whose_time_is_up_hands_the_pumping_on(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    first = Thread(ctx.event_wait, user=77, timeout=0.05)
    until(lambda: parked(ctx) == 1)
    second = Thread(ctx.event_wait)
    assert isinstance(first.outcome, gxl.WaitTimeout)
    world.host.destroy_domain(domid)
    assert isinstance(second.outcome, DomainDeath)


@implementer(IPollSource)
class Pipes:
    """What to poll for, and what was reported."""

    def __init__(self) -> None:
        self.fds: list[tuple[int, int]] = []
        self.reported: list[tuple[int, int, int]] = []

    def before_poll(self) -> tuple[list[tuple[int, int]], float | None]:
        return self.fds, None

    def after_poll(self, fds: list[tuple[int, int, int]]) -> None:
        self.reported += [entry for entry in fds if entry[2]]


def test_whoever_leaves_the_lock_makes_the_pump_look_again_at_what_to_poll_for() -> None:
    # At a Context the answer to a question of gxl's own may come in between, and hide that this fails.
    binding = PollHub().attach(Recorder())
    source = Pipes()
    binding.poll_for(source)
    waiter = binding.waiter()
    waiting = Thread(waiter.wait, 10)
    until(lambda: binding.lock._polled)
    reader, writer = os.pipe()
    os.write(writer, b"x")
    with binding.lock:
        source.fds = [(reader, POLLIN)]
    until(lambda: source.reported)
    waiter.wake()
    assert waiting.outcome is True
    assert source.reported[0] == (reader, POLLIN, POLLIN)
    binding.close()
    os.close(reader)
    os.close(writer)


def test_interest_that_another_thread_adds_wakes_the_pump(world: World) -> None:
    # libxl's own event_wait sleeps on: the first evgen of a ctx brings its first fd.
    ctx = world.open()
    domid = world.host.create_domain()
    waiting = Thread(ctx.event_wait)
    until(lambda: ctx._pump.lock._polled)  # type: ignore[attr-defined]  # behind the interface, this implementation's own
    ctx.evenable_domain_death(domid)
    world.host.destroy_domain(domid)
    assert isinstance(waiting.outcome, DomainDeath)


def test_a_timeout_that_another_thread_adds_wakes_the_pump(world: World) -> None:
    # The engine's own, by which an operation gives up: here it is asked to, and so needs the pump at once.
    ctx = world.open()
    domid = world.host.create_domain()
    world.host.pause_domain(domid)
    waiting = Thread(ctx.event_wait)
    until(lambda: parked(ctx) == 1)
    operation = ctx.domain_shutdown(domid, wait=False, for_user=5)
    operation.abort()
    assert waiting.outcome.for_user == 5


def test_the_applications_own_operation_wakes_the_pump(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    waiting = Thread(ctx.event_wait)
    until(lambda: parked(ctx) == 1)
    ctx.engine.domain_destroy(domid, gxl.AsyncHow(for_event=9))
    event = waiting.outcome
    assert isinstance(event, gxl.OperationComplete)
    assert (event.rc, event.for_user) == (0, 9)


def test_nothing_progresses_while_nobody_waits(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    world.host.destroy_domain(domid)
    assert ctx.event_check() is None
    assert isinstance(ctx.event_wait(timeout=5), DomainDeath)


def test_dozens_of_threads_create_destroy_and_wait_at_once(world: World) -> None:
    ctx = world.open()
    one_at_a_time = threading.Lock()

    def work(number: int) -> list[bool]:
        seen = []
        for _ in range(5):
            with one_at_a_time:
                domid = world.host.create_domain()
            with ctx.evenable_domain_death(domid, user=number):
                ctx.domain_destroy(domid)
                seen.append(ctx.event_wait(domid=domid, user=number, timeout=20).domid == domid)
        return seen

    threads = [Thread(work, number) for number in range(1, 25)]
    assert [thread.outcome for thread in threads] == [[True] * 5] * 24
    assert ctx.event_check() is None
    assert parked(ctx) == 0


def test_only_whoever_holds_the_lock_talks_to_xenstored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two threads that send at once send a request twice, and nobody has asked for the second answer.
    ctx = world.open()
    domid = world.host.create_domain("web1")
    held: list[bool] = []
    flush = SideChannel._flush

    def noting(side: SideChannel) -> None:
        held.append(ctx._pump.lock._lock._is_owned())  # type: ignore[attr-defined]  # behind the interface, this implementation's own
        flush(side)

    monkeypatch.setattr(SideChannel, "_flush", noting)
    asking: list[Callable[[], object]] = [
        ctx.list_domain,
        lambda: ctx.domid_of("web1"),
        lambda: ctx.domain_pause(domid, for_user=1),
        lambda: ctx.domain_unpause(domid, wait=False, for_user=2).wait(10),
        lambda: ctx.evenable_domain_death(domid),
        lambda: ctx.evenable_disk_eject(domid, "hdc"),
        ctx.follow_domains,
        lambda: ctx.watch("web1").close(),
        ctx.watch().close,
    ]
    for ask in asking:
        ask()
        assert all(held), ask
    assert len(held) > 5


def test_watchers_and_expectations_belong_to_threads_of_their_own(world: World) -> None:
    ctx = world.open()
    domids = [world.host.create_domain(f"web{number}") for number in range(6)]
    watchers = [Thread(lambda domid=domid: list(ctx.watch(domid, timeout=10))) for domid in domids]
    waiters = [Thread(ctx.wait_shutdown, f"web{number}", 10) for number in range(6)]
    until(lambda: parked(ctx) == 12 and ctx._pump.feeds.live()[0] == 12)
    for domid in domids:
        world.host.destroy_domain(domid)
    assert [[event.domid for event in thread.outcome] for thread in watchers] == [[domid] for domid in domids]
    assert [thread.outcome.domid for thread in waiters] == domids


def test_closing_ends_every_wait_and_frees_what_the_pump_polls(world: World) -> None:
    ctx = world.open()
    watcher = ctx.watch(world.host.create_domain())
    before = parked(ctx)
    threads = [Thread(ctx.event_wait) for _ in range(3)] + [Thread(next, watcher)]
    until(lambda: parked(ctx) == before + 4)
    ctx.close()
    assert [type(thread.outcome) for thread in threads] == [gxl.ContextClosed] * 4


def test_closing_waits_for_operations_while_another_thread_pumps(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    world.host.pause_domain(domid)
    operation = ctx.domain_shutdown(domid, wait=False)
    waiting = Thread(operation.wait)
    until(lambda: parked(ctx) == 1)
    ctx.close()
    assert isinstance(waiting.outcome, (gxl.LibxlError, gxl.ContextClosed))
    assert not ctx._pump.abandoned


def test_ctrl_c_ends_the_wait_and_another_thread_pumps_on(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    others: list[Thread] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not others:
            # Only now: so the main thread is the one that pumps.
            others.append(Thread(ctx.event_wait))
        elif parked_unlocked(ctx) == 2:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        with pytest.raises(KeyboardInterrupt):
            ctx.event_wait(user=77, timeout=10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    world.host.destroy_domain(domid)
    assert isinstance(others[0].outcome, DomainDeath)


def parked_unlocked(ctx: gxl.Context) -> int:
    return len(ctx._pump.binding._waiting)  # type: ignore[attr-defined]  # behind the interface, this implementation's own


def test_callbacks_run_one_after_the_other_in_a_thread_where_they_may_wait(world: World) -> None:
    ctx = world.open()
    here = threading.get_ident()
    seen: list[tuple[int, bool]] = []
    other = world.host.create_domain()

    @implementer(IEventHooks)
    class Hooks:
        event_occurs_mask = gxl.mask(DomainDeath)
        disaster = None

        @staticmethod
        def event_occurs(event: gxl.Event) -> None:
            ctx.domain_pause(other)
            seen.append((event.domid, threading.get_ident() != here))
            if len(seen) == 5:
                ctx.domain_unpause(other, for_user=1)

    ctx.event_register_callbacks(Hooks())
    domids = [world.host.create_domain() for _ in range(5)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    for domid in domids:
        world.host.destroy_domain(domid)
    assert isinstance(ctx.event_wait(timeout=10), gxl.OperationComplete)
    assert seen == [(domid, True) for domid in domids]


def test_code_that_runs_inside_the_pump_can_not_wait(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    waiting = Thread(ctx.event_wait, predicate=lambda event: ctx.event_wait(timeout=1))
    until(lambda: parked(ctx) == 1)
    world.host.destroy_domain(domid)
    assert isinstance(waiting.outcome, gxl.MisuseError)
    assert isinstance(ctx.event_wait(timeout=5), DomainDeath)


def test_children_leave_sigchld_and_the_applications_children_alone(world: World) -> None:
    ctx = world.open()
    before = signal.getsignal(signal.SIGCHLD)
    commands = [
        Thread(subprocess.call, [sys.executable, "-S", "-E", "-c", f"raise SystemExit({number})"])
        for number in range(8)
    ]
    doomed = [Thread(ctx.domain_destroy, world.host.create_domain()) for _ in range(8)]
    assert [thread.outcome.rc for thread in doomed] == [0] * 8
    assert [thread.outcome for thread in commands] == list(range(8))
    assert signal.getsignal(signal.SIGCHLD) is before


def test_without_pidfds_children_are_looked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(24, "out of fds")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    ctx = world.open()
    ctx.domain_destroy(world.host.create_domain(), timeout=10)


def test_a_forked_child_is_refused_even_if_another_thread_held_the_lock(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    evgen = ctx.evenable_domain_death(domid)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with ctx._pump.lock:
            held.set()
            release.wait(10)

    holder = Thread(hold)
    held.wait(10)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(10)
            try:
                ctx.event_wait()
            except gxl.MisuseError as error:
                os.write(writer, str(error).encode())
            evgen.disable()
            ctx.close()
            os.write(writer, b"; closed")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    said = os.read(reader, 1000).decode()
    os.close(reader)
    release.set()
    holder.join()
    assert "process" in said
    assert said.endswith("; closed")
    world.host.destroy_domain(domid)
    assert isinstance(ctx.event_wait(timeout=5), DomainDeath)


def test_a_coroutine_finds_nothing_to_await_here(world: World) -> None:
    ctx = world.open()
    operation = ctx.domain_shutdown(world.host.create_domain(), wait=False)
    with pytest.raises(gxl.MisuseError, match="no coroutines"):
        operation.__await__().send(None)


def test_another_hubs_guard_is_a_threads_own(world: World) -> None:
    ctx = world.open()
    with ctx._pump.binding.no_switch():
        with pytest.raises(gxl.MisuseError):
            ctx.event_wait(timeout=1)
        assert isinstance(Thread(ctx.event_wait, timeout=0.01).outcome, gxl.WaitTimeout)


IN_A_PATCHED_PROCESS = """
from gevent import monkey; monkey.patch_all()
import threading, time
import gxl
from gxl.engines.embedded import EmbeddedEngine
with gxl.SimHost() as host, gxl.Context(engine=EmbeddedEngine(host), hub="poll") as ctx:
    domids = [host.create_domain() for _ in range(5)]
    deaths = []
    threads = [threading.Thread(target=lambda d=d: deaths.append(ctx.wait_shutdown(d, 10).domid)) for d in domids]
    for thread in threads:
        thread.start()
    time.sleep(0.01)
    for domid in domids:
        ctx.domain_destroy(domid)
    for thread in threads:
        thread.join()
    print(sorted(deaths) == domids)
"""


def test_where_gevent_has_patched_threads_they_are_greenlets_and_share_a_context_all_the_same() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IN_A_PATCHED_PROCESS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.stdout, ran.returncode) == ("True\n", 0), ran.stderr


CHILDREN_OF_A_PATCHED_PROCESS = """
from gevent import monkey; monkey.patch_all()
import gevent
import gxl
from gxl.engines.embedded import EmbeddedEngine
gevent.get_hub().loop.install_sigchld()  # as gevent.subprocess does: from here on the loop reaps every child
with gxl.SimHost() as host, gxl.Context(engine=EmbeddedEngine(host), hub="poll") as ctx:
    print([ctx.domain_destroy(host.create_domain(), timeout=10).rc for _ in range(10)])
"""


def test_where_gevents_loop_reaps_every_child_operations_learn_how_theirs_have_ended() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CHILDREN_OF_A_PATCHED_PROCESS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.stdout, ran.returncode, ran.stderr) == (f"{[0] * 10}\n", 0, "")


def test_where_gevent_polls_by_libuv_it_says_so_and_names_the_remedy() -> None:
    program = """
from gevent import monkey; monkey.patch_all()
import gxl
from gxl.engines.embedded import EmbeddedEngine
host = gxl.SimHost()
try:
    gxl.Context(engine=lambda: EmbeddedEngine(host), hub="poll")
except gxl.MisuseError as error:
    print(error)
"""
    variables = os.environ | {"GEVENT_LOOP": "libuv-cffi"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert "its loop is libuv: open the Context with hub='gevent'" in ran.stdout, ran.stderr


def test_what_nobody_can_catch_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    ctx = world.open()
    ctx._pump.binding.call_soon(lambda: 1 / 0)
    with contextlib.suppress(gxl.WaitTimeout):
        ctx.event_wait(timeout=0.01)
    assert "ZeroDivisionError" in caplog.text


def test_what_a_callback_runs_can_be_ended_by_signals() -> None:
    # A thread has the signals blocked that its maker had, and so has each program that it starts.
    blocked: list[set[int | signal.Signals]] = []

    @implementer(IEventHooks)
    class Hooks:
        event_occurs_mask = 2**64 - 1
        disaster = None

        def event_occurs(self, event: gxl.Event) -> None:
            blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    with SimHost() as host, gxl.Context(lambda: EmbeddedEngine(host), hub="poll") as ctx:
        ctx.event_register_callbacks(Hooks())
        domid = host.create_domain()
        ctx.evenable_domain_death(domid)
        host.destroy_domain(domid)
        with pytest.raises(gxl.WaitTimeout):
            ctx.event_wait(timeout=0.2)
        end = time.monotonic() + 5
        while not blocked and time.monotonic() < end:
            time.sleep(0.01)
    assert not blocked[0] & {signal.SIGTERM, signal.SIGINT}

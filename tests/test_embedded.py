# SPDX-License-Identifier: LGPL-2.1-or-later
"""The embedded engine beyond what the conformance suite asks of every engine."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from gxl.engines.embedded import EmbeddedEngine, native
from gxl.errors import Disaster, EngineUnavailable, Fail, MisuseError
from gxl.events import DomainDeath, OperationComplete
from gxl.interfaces import AsyncHow, SigchldOwner
from gxl.simhost import SimHost
from gxl.testing.engines.processes import Forks
from gxl.testing.engines.rig import Drive, Rig, in_a_fresh_process, users


@pytest.fixture
def host() -> Iterator[SimHost]:
    with SimHost() as host:
        yield host


@pytest.fixture
def rig(host: SimHost) -> Iterator[Rig]:
    rig = make_rig(host)
    with rig.cleanup:
        yield rig


def make_rig(host: SimHost, drive: Drive = "poll") -> Rig:
    return Rig(host, lambda: EmbeddedEngine(host), "header", drive)


# Hosts


def test_without_a_host_it_makes_one_and_closes_it() -> None:
    engine = EmbeddedEngine()
    domid = engine.host.create_domain()
    assert engine.domain_info(domid).domid == domid
    engine.ctx_free()
    with pytest.raises(OSError, match=r"closed|refused"):
        engine.host.connect()


def test_a_host_that_was_given_stays_open(host: SimHost) -> None:
    EmbeddedEngine(host).ctx_free()
    host.connect().close()


def test_a_host_must_be_a_simulated_one() -> None:
    with pytest.raises(TypeError, match="SimHost"):
        EmbeddedEngine("localhost")  # type: ignore[arg-type]  # that it is refused is what is tested


def test_a_host_that_refuses_connections_is_no_engine(host: SimHost, leaves_nothing: None) -> None:
    host.fail_next("connect", errno.EACCES)
    with pytest.raises(EngineUnavailable, match="Permission denied"):
        EmbeddedEngine(host)


def test_an_engine_that_is_dropped_warns(host: SimHost) -> None:
    engine = EmbeddedEngine(host)
    ctx = engine._ctx
    with pytest.warns(ResourceWarning, match="ctx_free"):
        ctx.__del__()
    engine.ctx_free()


def test_freeing_leaves_nothing_behind(leaves_nothing: None) -> None:
    engine = EmbeddedEngine()
    engine.evenable_domain_death(1)
    engine.evenable_disk_eject(1, "xvda")
    engine.domain_shutdown(engine.host.create_domain())
    engine.osevent_beforepoll()
    engine.ctx_free()
    gc.collect()


# Costs


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python `work` runs: a cost that no busy machine distorts."""
    count = 0

    def trace(frame: object, what: str, argument: object) -> object:
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)  # type: ignore[arg-type]  # its type is recursive: mypy has no name for it
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def test_a_death_and_an_eject_cost_the_same_among_ten_domains_and_among_thousands() -> None:
    def costs(domains: int, queued: int) -> tuple[int, int]:
        with SimHost() as host:
            rig = make_rig(host)
            with rig.cleanup:
                for user in range(domains):
                    domid = rig.domain_with_disk()
                    rig.engine.evenable_domain_death(domid, user)
                    rig.engine.evenable_disk_eject(domid, "xvda", user)
                watched = rig.domain_with_disk()
                rig.engine.evenable_domain_death(watched, 1)
                rig.engine.evenable_disk_eject(watched, "xvda", 2)
                for _ in range(queued):
                    rig.engine.domain_pause(watched, AsyncHow(3))
                rig.settle()

                def turn() -> None:
                    rig.turn(1000)
                    assert rig.engine.event_check(1 << 2 | 1 << 3) is not None

                host.eject_disk(watched, "xvda")
                eject = lines_run(turn)
                host.destroy_domain(watched)
                return lines_run(turn), eject

    few, many = costs(10, 10), costs(2000, 2000)
    assert many[0] <= few[0] * 1.3
    assert many[1] <= few[1] * 1.3


# The store


def test_a_slow_store_is_waited_for_and_its_events_are_not_lost(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    answered = threading.Event()
    with rig.host.stalled():
        rig.host.destroy_domain(domid)
        # Blocks until the store catches up; its reply comes after the event of the death.
        thread = threading.Thread(target=lambda: (rig.engine.evenable_disk_eject(domid, "xvda"), answered.set()))
        thread.start()
        assert not answered.wait(0.05)
    thread.join(10)
    assert answered.is_set()
    fds, _ = rig.engine.osevent_beforepoll()
    poller = select.poll()
    for fd, events in fds:
        poller.register(fd, events)
    assert poller.poll(0), "the death was read together with a reply, and nothing says so"
    assert users(rig.events()) == [1]


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ECONNRESET])
def test_a_store_that_breaks_during_a_call_ends_the_engine(rig: Rig, number: int) -> None:
    rig.engine.domain_shutdown(rig.domain(paused=True), AsyncHow(1))
    rig.host.fail_next("WATCH", number)
    with pytest.raises(Disaster, match="xenstored is lost"):
        rig.engine.evenable_disk_eject(2, "xvda")
    with pytest.raises(Disaster, match="xenstored is lost"):
        rig.engine.event_check()


def test_a_lost_store_is_reported_once_to_the_hook_and_to_the_call(rig: Rig) -> None:
    listener = rig.listen()
    rig.host.drop_connections()
    with pytest.raises(Disaster):
        rig.engine.evenable_domain_death(1)
    with pytest.raises(Disaster):
        rig.engine.evenable_domain_death(1)
    assert len(listener.disasters) == 1


def test_freeing_gets_to_its_end_though_the_store_is_found_lost_on_the_way(leaves_nothing: None, rig: Rig) -> None:
    listener = rig.listen()
    rig.engine.evenable_domain_death(1)
    rig.engine.evenable_disk_eject(1, "xvda")
    rig.host.drop_connections()
    rig.engine.ctx_free()
    assert len(listener.disasters) == 1
    with pytest.raises(MisuseError, match="closed"):
        rig.engine.event_check()


def test_a_lost_store_fails_the_operations_that_wait_for_it(rig: Rig) -> None:
    ended: list[int] = []
    rig.engine.domain_shutdown(rig.domain(paused=True), AsyncHow(callback=ended.append))
    rig.host.drop_connections()
    with pytest.raises(Disaster):
        rig.until(lambda: False, "the disaster")
    assert ended == [Fail.code]
    rig.engine.ctx_free()


def test_an_abort_that_finds_the_store_lost_ends_the_operation_once(rig: Rig) -> None:
    ended: list[int] = []
    rig.listen()
    how = AsyncHow(callback=ended.append)
    rig.engine.domain_shutdown(rig.domain(paused=True), how)
    rig.host.drop_connections()
    rig.engine.ao_abort(how)
    assert ended == [Fail.code]
    rig.engine.ctx_free()


def test_a_refused_read_fails_an_evgen_and_an_operation(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    # The first is for the stub domain, which most domains do not have.
    for _ in range(2):
        rig.host.fail_next("READ", errno.EIO)
    with pytest.raises(Fail):
        rig.engine.evenable_disk_eject(domid, "xvda")
    rig.engine.domain_shutdown(rig.domain(paused=True), AsyncHow(1))
    rig.host.fail_next("READ", errno.EIO)
    [event] = rig.until(rig.queued, "the operation fails")
    assert isinstance(event, OperationComplete)
    assert event.rc == Fail.code


# Guards and threads


def test_what_a_hook_raises_beyond_exceptions_passes_through(host: SimHost) -> None:
    rig = make_rig(host, "hooks")
    with rig.cleanup:
        rig.loop.fail["fd_register"] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            rig.engine.evenable_domain_death(1)
        assert not rig.loop.fds
        rig.engine.evenable_domain_death(1)
        assert rig.loop.fds


def test_a_claimed_engines_code_of_the_applications_runs_under_the_guard(rig: Rig) -> None:
    depth = 0
    seen: list[tuple[str, int]] = []

    @contextmanager
    def guard() -> Iterator[None]:
        nonlocal depth
        depth += 1
        try:
            yield
        finally:
            depth -= 1

    def note(what: str) -> Callable[..., object]:
        return lambda *arguments: seen.append((what, depth))

    def forking() -> int:
        seen.append(("fork", depth))
        return native.fork()

    engine = rig.engine = rig.engine.claim(guard)
    engine.childproc_setmode(
        SimpleNamespace(chldowner=SigchldOwner.MAINLOOP, fork_replacement=forking, reaped_callback=None)
    )
    engine.event_register_callbacks(
        SimpleNamespace(event_occurs_mask=1 << 4, event_occurs=note("event"), disaster=note("disaster"))
    )
    domid = rig.domain_with_disk()
    engine.domain_pause(domid, AsyncHow(1))
    engine.domain_pause(domid, AsyncHow(callback=note("operation")))
    engine.evenable_domain_death(31000, 1)
    engine.evenable_disk_eject(domid, "xvda")
    rig.turn()
    engine.event_check(1 << 2, note("predicate"))
    rig.host.eject_disk(domid, "xvda")
    rig.host.fail_next("WRITE", errno.EIO)
    rig.turn()
    engine.domain_destroy(domid, AsyncHow(2))
    engine.childproc_reaped(*os.waitpid(-1, 0))
    assert {what for what, _ in seen} == {"event", "operation", "predicate", "disaster", "fork"}
    assert {depth for _, depth in seen} == {1}


def test_another_thread_waits_for_its_turn(rig: Rig) -> None:
    expected = rig.queue_deaths(1)
    inside, leave = threading.Event(), threading.Event()

    def dawdle(event: object) -> bool:
        inside.set()
        leave.wait(10)
        return False

    slow = threading.Thread(target=lambda: rig.engine.event_check(predicate=dawdle))
    slow.start()
    assert inside.wait(10)
    found: list[object] = []
    other = threading.Thread(target=lambda: found.append(rig.engine.event_check()))
    other.start()
    other.join(0.05)
    assert not found
    leave.set()
    slow.join(10)
    other.join(10)
    assert found == expected


def test_freeing_is_refused_while_a_thread_waits(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    waiter = threading.Thread(target=rig.engine.event_wait)
    waiter.start()
    rig.until(lambda: rig.engine._ctx.core.osevents.awaited, "the thread waits")  # type: ignore[attr-defined]  # behind the interface, this implementation's own
    with pytest.raises(MisuseError, match="another thread"):
        rig.engine.ctx_free()
    rig.host.destroy_domain(domid)
    waiter.join(10)
    assert not waiter.is_alive()


def test_a_callback_that_raises_ends_a_wait_and_costs_no_event(rig: Rig) -> None:
    rig.engine.event_register_callbacks(
        SimpleNamespace(event_occurs_mask=1 << 1, event_occurs=lambda event: 1 / 0, disaster=None)
    )
    down, gone = rig.domain(), rig.domain()
    rig.engine.evenable_domain_death(down, 1)
    rig.engine.evenable_domain_death(gone, 2)
    with rig.host.quiet():
        rig.host.shutdown_domain(down)
        rig.host.destroy_domain(gone)
    with pytest.raises(ZeroDivisionError):
        rig.engine.event_wait()
    assert rig.engine.event_wait() == DomainDeath(gone, for_user=2)


def test_many_deaths_are_found_over_several_calls_and_in_order(rig: Rig) -> None:
    domids = [rig.domain() for _ in range(200)]
    for user, domid in enumerate(domids):
        rig.engine.evenable_domain_death(domid, user)
    drive = rig.domain_with_disk("hdc")
    rig.engine.evenable_disk_eject(drive, "hdc", 1000)
    rig.settle()
    with rig.host.quiet():
        for domid in domids:
            rig.host.destroy_domain(domid)
    rig.host.eject_disk(drive, "hdc")
    rig.turn()  # finds who has changed, and that they are many
    rig.turn()
    first = len(rig.queued())
    assert 0 < first <= 100
    rig.engine.evdisable_disk_eject(rig.engine.evenable_disk_eject(drive, "hdd"))  # which talks to xenstored meanwhile
    assert users(rig.events()) == [*range(first, 200), 1000]


def test_many_ejects_are_found_over_several_calls_and_in_order(rig: Rig) -> None:
    drives = [rig.domain_with_disk("hdc") for _ in range(20)]
    for user, domid in enumerate(drives):
        rig.engine.evenable_disk_eject(domid, "hdc", user)
    rig.settle()
    for domid in drives:
        rig.host.eject_disk(domid, "hdc")
    rig.turn()
    first = len(rig.queued())
    assert 0 < first <= 10
    assert users(rig.events()) == [*range(first, 20)]


def test_what_callbacks_raise_during_a_synchronous_operation_waits_for_its_end(rig: Rig) -> None:
    rig.engine.event_register_callbacks(
        SimpleNamespace(event_occurs_mask=1 << 2, event_occurs=lambda event: 1 / 0, disaster=None)
    )
    gone, domid = rig.domain(), rig.domain(paused=True)
    rig.engine.evenable_domain_death(gone, 1)
    rig.host.destroy_domain(gone)
    acknowledge = threading.Timer(0.1, rig.host.write, [f"/local/domain/{domid}/control/shutdown", ""])
    acknowledge.start()
    with pytest.raises(ZeroDivisionError):
        rig.engine.domain_shutdown(domid)
    assert rig.host.read(f"/local/domain/{domid}/control/shutdown") == b""
    acknowledge.join()


def test_sigchld_can_be_had_on_the_main_thread_only(host: SimHost) -> None:
    def attempt() -> None:
        rig = make_rig(host)
        domid = rig.domain()
        said: list[str] = []

        def misuse(call: Callable[[], object]) -> None:
            try:
                call()
            except MisuseError as error:
                said.append(str(error))

        always = SimpleNamespace(chldowner=2, fork_replacement=None, reaped_callback=None)
        for call in (
            lambda: rig.engine.childproc_setmode(always),
            lambda: rig.engine.domain_destroy(domid, AsyncHow(1)),
        ):
            thread = threading.Thread(target=misuse, args=[call])
            thread.start()
            thread.join(10)
        assert len(said) == 2
        for message in said:
            assert "main thread" in message
            assert "MAINLOOP" in message
        assert host.domain_info(domid).domid == domid
        # With the handler installed there, any thread can go on.
        rig.engine.childproc_setmode(always)
        thread = threading.Thread(target=rig.engine.domain_destroy, args=[domid, AsyncHow(1)])
        thread.start()
        thread.join(10)
        rig.until(lambda: users(rig.queued()) == [1], "the operation ends")
        rig.engine.ctx_free()

    in_a_fresh_process(attempt)


def test_a_fork_replacement_that_fails_oddly_fails_the_operation_and_says_so(rig: Rig) -> None:
    def choke() -> int:
        raise ZeroDivisionError

    rig.engine.childproc_setmode(SimpleNamespace(chldowner=1, fork_replacement=choke, reaped_callback=None))
    domid = rig.domain()
    with pytest.raises(ZeroDivisionError):
        rig.engine.domain_destroy(domid, AsyncHow(1))
    assert rig.queued() == [OperationComplete(domid, Fail.code, for_user=1)]
    assert rig.host.domain_info(domid).domid == domid


def test_a_domain_with_a_stub_domain_takes_it_along(host: SimHost) -> None:
    def attempt() -> None:
        rig = make_rig(host)
        domid = rig.domain(kind="hvm")
        stub = rig.domain(stub_domain_of=domid)
        rig.engine.domain_destroy(domid)
        assert not {domid, stub} & {info.domid for info in host.domains()}
        rig.engine.ctx_free()

    in_a_fresh_process(attempt)


# What it says, and to whom


def test_the_log_is_written_when_the_lock_is_released(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    class Inquisitive(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            rig.engine.domain_info(0)

    handler = Inquisitive()
    logger = logging.getLogger("gxl.embedded")
    logger.addHandler(handler)
    try:
        with pytest.raises(Disaster), caplog.at_level(logging.CRITICAL, "gxl.embedded"):
            lose_an_eject(rig)
    finally:
        logger.removeHandler(handler)
    assert "DISASTER" in caplog.text
    assert "DISK_EJECT" in caplog.text


def lose_an_eject(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    rig.engine.evenable_disk_eject(domid, "xvda")
    rig.settle()
    rig.host.fail_next("WRITE", errno.EIO)
    rig.host.eject_disk(domid, "xvda")
    rig.until(lambda: False, "the disaster")


PATCHED = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, select, os
from types import SimpleNamespace
from gxl.engines.embedded import EmbeddedEngine
from gxl.interfaces import AsyncHow
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0)
gevent.spawn(tick)
gevent.sleep(0)
engine = EmbeddedEngine()
domid = engine.host.create_domain()
engine.evenable_domain_death(domid, 1)
engine.host.destroy_domain(domid)
before = len(ticks)
assert engine.event_wait().for_user == 1
domid = engine.host.create_domain()
engine.domain_shutdown(domid)
engine.domain_destroy(domid)
fds, _ = engine.osevent_beforepoll()
engine.osevent_afterpoll([(fd, events, events) for fd, events in fds])
assert len(ticks) == before, "another greenlet ran inside the engine"
engine.ctx_free()
print("well")
"""


def test_in_a_patched_process_it_switches_no_greenlets(tmp_path: Any) -> None:
    script = tmp_path / "patched.py"
    script.write_text(PATCHED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", *sys.path])}
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", script],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert done.stdout == "well\n", done.stderr


def test_gevent_is_named_as_the_owner_of_sigchld(host: SimHost) -> None:
    def attempt() -> None:
        loop: Any = gevent.get_hub().loop
        # Other tests in this process may have had it installed.
        loop.reset_sigchld()
        loop.install_sigchld()
        rig = make_rig(host)
        with pytest.raises(MisuseError, match=r"gevent.*MAINLOOP"):
            rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
        rig.engine.ctx_free()

    in_a_fresh_process(attempt)


def test_an_operation_can_be_aborted_whose_child_has_been_reaped_and_not_reported(rig: Rig) -> None:
    forks = Forks()
    rig.engine.childproc_setmode(SimpleNamespace(chldowner=1, fork_replacement=forks, reaped_callback=None))
    how = AsyncHow(1)
    config = {"c_info": {"name": "one", "type": "hvm"}, "b_info": {"max_memkb": 1024, "type.hvm": {}}}
    rig.engine.domain_create_new(json.dumps(config), how)
    pid, status = os.waitpid(forks.pids[0], 0)
    rig.engine.ao_abort(how)
    assert rig.engine.childproc_reaped(pid, status)
    assert users(rig.queued()) == [1]

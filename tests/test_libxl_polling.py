# SPDX-License-Identifier: LGPL-2.1-or-later
"""beforepoll, afterpoll and event_wait on the real libxl."""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time

import pytest
from libxl_pump import Hooks, drained, pump

from gxl.engines.libxl import LibxlEngine
from gxl.engines.libxl.polling import PollSet, timeval
from gxl.errors import Disaster
from gxl.events import DomainDeath, DomainShutdown, Event, mask
from gxl.interfaces import AsyncHow
from gxl.simhost.remote import RemoteHost

pytest_plugins = ["libxl_fixtures"]


def test_waiting_wakes_for_an_event_that_another_threads_call_queued(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    waited: list[Event] = []
    thread = threading.Thread(target=lambda: waited.append(engine.event_wait()))
    thread.start()
    while not engine._ctx._waiting:
        time.sleep(0.001)
    engine.domain_pause(domid, AsyncHow(for_event=3))
    thread.join(10)
    assert [event.for_user for event in waited] == [3]


def test_waiting_hears_of_the_first_fd_that_another_thread_adds(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    waited: list[Event] = []
    thread = threading.Thread(target=lambda: waited.append(engine.event_wait()))
    thread.start()
    while not engine._ctx._waiting:
        time.sleep(0.001)
    engine.evenable_domain_death(domid)
    host.destroy_domain(domid)
    thread.join(10)
    assert waited == [DomainDeath(domid)]


def test_several_threads_that_wait_get_one_event_each(engine: LibxlEngine, host: RemoteHost) -> None:
    domids = [host.create_domain() for _ in range(4)]
    for domid in domids:
        engine.evenable_domain_death(domid)
    waited: list[Event] = []
    threads = [threading.Thread(target=lambda: waited.append(engine.event_wait())) for _ in domids]
    for thread in threads:
        thread.start()
    for domid in domids:
        host.destroy_domain(domid)
    for thread in threads:
        thread.join(10)
    assert sorted(event.domid for event in waited) == domids


def test_a_waiter_that_was_about_to_sleep_hears_of_what_another_pumped_in(
    engine: LibxlEngine, host: RemoteHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    domids = [host.create_domain(), host.create_domain()]
    for domid in domids:
        engine.evenable_domain_death(domid)
    about_to_sleep, go_on = threading.Event(), threading.Event()
    real_before = PollSet.before

    def before(self: PollSet, now: float | None) -> tuple[int, int]:
        if threading.current_thread() is sleepy and not go_on.is_set():
            about_to_sleep.set()
            go_on.wait(10)
        return real_before(self, now)

    monkeypatch.setattr(PollSet, "before", before)
    waited: list[Event] = []
    sleepy = threading.Thread(
        target=lambda: waited.append(engine.event_wait(predicate=lambda event: event.domid == domids[0]))
    )
    sleepy.start()
    about_to_sleep.wait(10)
    with host.quiet():
        for domid in domids:
            host.destroy_domain(domid)
    assert engine.event_wait(predicate=lambda event: event.domid == domids[1]) == DomainDeath(domids[1])
    go_on.set()
    sleepy.join(5)
    assert waited == [DomainDeath(domids[0])]


def test_waiting_leaves_other_events_in_order(engine: LibxlEngine, host: RemoteHost, three_deaths: list[int]) -> None:
    domid = host.create_domain()
    engine.evenable_domain_death(domid)
    host.shutdown_domain(domid)
    assert engine.event_wait(mask(DomainShutdown)) == DomainShutdown(domid, 0)
    assert [event.for_user for event in drained(engine)] == [0, 1, 2]


def test_ctrl_c_ends_a_wait_and_loses_nothing(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    engine.evenable_domain_death(domid)

    def interrupt() -> None:
        while not engine._ctx._waiting:
            time.sleep(0.001)
        time.sleep(0.02)  # so that poll has begun; it would be a weaker test, and not a failing one, without
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        engine.event_wait()
    thread.join()
    host.destroy_domain(domid)
    assert engine.event_wait() == DomainDeath(domid)


def test_a_wait_ends_with_the_engine_even_if_a_hook_was_told(engine: LibxlEngine, host: RemoteHost) -> None:
    told: list[tuple[int, str, int]] = []
    engine.event_register_callbacks(Hooks(0, lambda *disaster: told.append(disaster)))
    domid = host.create_domain()
    engine.evenable_domain_death(domid)
    pump(engine)
    host.fail_next("getdomaininfolist", errno.EIO)
    host.destroy_domain(domid)
    with pytest.raises(Disaster, match="xc_domain_getinfolist failed"):
        # The watch's very first firing may fail in the place of the death's, which is then an event as ever.
        list(iter(engine.event_wait, None))
    assert len(told) == 1


def test_beforepoll_speaks_of_what_is_to_be_polled(engine: LibxlEngine, host: RemoteHost) -> None:
    fds, timeout_ms = engine.osevent_beforepoll()
    assert len(fds) == 1
    assert timeout_ms is None
    domid = host.create_domain()
    engine.evenable_domain_death(domid)
    assert len(engine.osevent_beforepoll()[0]) == 2
    how = AsyncHow()
    engine.domain_shutdown(domid, how)
    now = time.time()
    timeout = engine.osevent_beforepoll(now)[1]
    assert timeout is not None
    assert 59_000 < timeout <= 60_001
    later = engine.osevent_beforepoll(now + 30)[1]
    assert later is not None
    assert timeout - later == pytest.approx(30_000, abs=1)
    engine.ao_abort(how)


def test_false_readiness_and_fds_that_are_gone_are_harmless(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    engine.evenable_domain_death(domid)
    pump(engine)
    fds, _ = engine.osevent_beforepoll()
    engine.osevent_afterpoll([(fd, events, select.POLLIN) for fd, events in fds])
    fds, _ = engine.osevent_beforepoll()
    # libxl would abort: no fd of its own has gone.
    engine.osevent_afterpoll([(fd, events, select.POLLNVAL) for fd, events in fds])
    engine.osevent_afterpoll([])
    host.destroy_domain(domid)
    assert engine.event_wait() == DomainDeath(domid)


def test_a_moment_keeps_its_microsecond_on_the_way_to_libxl() -> None:
    # As floats, most of these lie a little below the decimal that they stand for.
    for microseconds in range(0, 1_000_000, 997):
        assert timeval(1_795_000_000 + microseconds / 1e6) == (1_795_000_000, microseconds)
    assert timeval(0) == (0, 0)

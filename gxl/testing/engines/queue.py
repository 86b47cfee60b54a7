# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for event_check and event_wait: what is returned, in which order, and to whom."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gxl.errors import MisuseError
from gxl.events import EVENTMASK_ALL, DomainDeath, DomainShutdown, Event, EventType, OperationComplete, mask
from gxl.interfaces import AsyncHow
from gxl.testing.engines.rig import Rig, users

LARGEST_USER = 2**64 - 1


def _mixed(rig: Rig) -> list[Event]:
    """Queues a shutdown, a death, a shutdown and a death, and says what they are."""
    domids = [rig.domain() for _ in range(4)]
    for user, domid in enumerate(domids, 1):
        rig.engine.evenable_domain_death(domid, user)
    with rig.host.quiet():
        rig.host.shutdown_domain(domids[0], 1)
        rig.host.destroy_domain(domids[1])
        rig.host.shutdown_domain(domids[2], 3)
        rig.host.destroy_domain(domids[3])
    rig.settle()
    return [
        DomainShutdown(domids[0], 1, for_user=1),
        DomainDeath(domids[1], for_user=2),
        DomainShutdown(domids[2], 3, for_user=3),
        DomainDeath(domids[3], for_user=4),
    ]


def nothing_has_happened_yet(rig: Rig) -> None:
    assert rig.engine.event_check() is None


def events_are_returned_oldest_first_and_once(rig: Rig) -> None:
    expected = _mixed(rig)
    assert rig.queued() == expected
    assert rig.events() == []


def a_mask_lets_only_its_types_through(rig: Rig) -> None:
    events = _mixed(rig)
    deaths = mask(EventType.DOMAIN_DEATH)
    assert rig.engine.event_check(deaths) == events[1]
    assert rig.engine.event_check(deaths) == events[3]
    assert rig.engine.event_check(deaths) is None
    assert rig.queued() == [events[0], events[2]]


def mask_0_matches_nothing(rig: Rig) -> None:
    rig.queue_deaths(1)
    assert rig.engine.event_check(0) is None
    assert len(rig.queued()) == 1


def a_predicate_chooses_and_what_it_passes_over_stays_in_order(rig: Rig) -> None:
    events = rig.queue_deaths(1, 2, 3, 4)
    assert rig.engine.event_check(EVENTMASK_ALL, lambda event: event.for_user == 3) == events[2]
    assert rig.queued() == [events[0], events[1], events[3]]


def a_predicate_sees_what_passes_the_mask_in_order_and_once_each(rig: Rig) -> None:
    _mixed(rig)
    seen: list[Event] = []
    assert rig.engine.event_check(mask(EventType.DOMAIN_SHUTDOWN), seen.append) is None
    assert users(seen) == [1, 3]


def a_predicate_is_not_asked_about_what_comes_after_its_choice(rig: Rig) -> None:
    rig.queue_deaths(1, 2, 3)
    seen: list[Event] = []

    def choose(event: Event) -> bool:
        seen.append(event)
        return event.for_user == 2

    assert rig.engine.event_check(EVENTMASK_ALL, choose) is not None
    assert users(seen) == [1, 2]


def any_true_value_of_a_predicate_accepts(rig: Rig) -> None:
    rig.queue_deaths(1, 2)
    found = rig.engine.event_check(EVENTMASK_ALL, lambda event: -1)
    assert found is not None
    assert found.for_user == 1
    assert rig.engine.event_check(EVENTMASK_ALL, lambda event: "") is None


def a_predicate_that_raises_leaves_the_queue_as_it_was(rig: Rig) -> None:
    events = rig.queue_deaths(1, 2)
    for raises_at in (1, 2):

        def choke(event: Event, at: int = raises_at) -> bool:
            if event.for_user == at:
                raise ZeroDivisionError
            return False

        with pytest.raises(ZeroDivisionError):
            rig.engine.event_check(EVENTMASK_ALL, choke)
    assert rig.queued() == events


def a_predicate_must_not_call_the_engine(rig: Rig) -> None:
    events = rig.queue_deaths(1)
    for call in (
        rig.engine.event_check,
        rig.engine.osevent_beforepoll,
        rig.engine.ctx_free,
        lambda: rig.engine.evenable_domain_death(1),
        lambda: rig.engine.event_register_callbacks(None),
    ):
        with pytest.raises(MisuseError):
            rig.engine.event_check(EVENTMASK_ALL, lambda event, call=call: call())  # type: ignore[misc]  # mypy infers no lambda that has a default
    assert rig.queued() == events


def checking_does_no_input(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid)
    rig.settle()
    rig.host.destroy_domain(domid)
    # Whatever the connection to xenstored is like, by now it has been told.
    rig.host.domains()
    assert rig.engine.event_check() is None
    assert [type(event) for event in rig.events()] == [DomainDeath]


def the_user_value_has_all_its_64_bits(rig: Rig) -> None:
    rig.queue_deaths(LARGEST_USER, 1 << 63, 0xDEADBEEF00000000, 0)
    assert users(rig.queued()) == [LARGEST_USER, 1 << 63, 0xDEADBEEF00000000, 0]


def waiting_returns_what_is_queued_already(rig: Rig) -> None:
    events = rig.queue_deaths(1, 2)
    assert rig.engine.event_wait() == events[0]
    assert rig.engine.event_wait(mask(EventType.DOMAIN_DEATH), lambda event: True) == events[1]


def waiting_for_one_event_leaves_the_others_in_order(rig: Rig) -> None:
    events = _mixed(rig)
    assert rig.engine.event_wait(EVENTMASK_ALL, lambda event: event.for_user == 3) == events[2]
    assert rig.queued() == [events[0], events[1], events[3]]


def waiting_blocks_until_the_event_happens(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 7)
    timer = threading.Timer(0.05, rig.host.destroy_domain, [domid])
    timer.start()
    try:
        assert rig.engine.event_wait() == DomainDeath(domid, for_user=7)
    finally:
        timer.join()


class _InThread:
    """Runs `work` in a native thread. `result` gives what it returned or raises what it raised."""

    def __init__(self, rig: Rig, work: Callable[[], Any]) -> None:
        self._patience = rig.patience
        self._outcome: list[Any] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=[work], daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._outcome.append(work())
        except BaseException as error:
            self._error = error

    def sleeps(self) -> None:
        """Give it the time to go to sleep, by whatever but a lock: who waits for Python's own has work to do."""
        until = time.monotonic() + 1
        wait = Path(f"/proc/self/task/{self._thread.native_id}/wchan")
        while time.monotonic() < until and self._thread.is_alive():
            with contextlib.suppress(FileNotFoundError):  # it has ended
                where = wait.read_text()
                if where != "0" and "futex" not in where:
                    break

    def result(self) -> Any:
        self._thread.join(self._patience)
        assert not self._thread.is_alive(), f"a thread that should have returned still blocks after {self._patience} s"
        if self._error is not None:
            raise self._error
        return self._outcome[0]


def a_waiting_thread_is_woken_by_an_event_that_another_threads_call_queued(rig: Rig) -> None:
    [other] = rig.queue_deaths(1)
    domid = rig.domain()
    has_looked = threading.Event()

    def wanted(event: Event) -> bool:
        has_looked.set()
        return event.for_user == 2

    waiter = _InThread(rig, lambda: rig.engine.event_wait(EVENTMASK_ALL, wanted))
    assert has_looked.wait(rig.patience)
    waiter.sleeps()
    # Ends, and is queued, inside this call: no fd becomes ready.
    rig.engine.domain_pause(domid, AsyncHow(2))
    assert waiter.result() == OperationComplete(domid, 0, for_user=2)
    assert rig.queued() == [other]


def a_waiting_thread_sees_to_an_evgen_that_another_threads_call_enabled(rig: Rig) -> None:
    domid, other = rig.domain(), rig.domain()
    rig.engine.domain_pause(other, AsyncHow(1))
    has_looked = threading.Event()

    def wanted(event: Event) -> bool:
        has_looked.set()
        return event.for_user == 5

    waiter = _InThread(rig, lambda: rig.engine.event_wait(EVENTMASK_ALL, wanted))
    assert has_looked.wait(rig.patience)
    waiter.sleeps()
    rig.engine.evenable_domain_death(domid, 5)
    rig.host.destroy_domain(domid)
    assert waiter.result() == DomainDeath(domid, for_user=5)


def several_threads_that_wait_get_each_event_once(rig: Rig) -> None:
    domids = [rig.domain() for _ in range(6)]
    waiters = [_InThread(rig, rig.engine.event_wait) for _ in domids]
    for user, domid in enumerate(domids):
        rig.engine.evenable_domain_death(domid, user)
    with rig.host.quiet():
        for domid in domids:
            rig.host.destroy_domain(domid)
    assert sorted(waiter.result().for_user for waiter in waiters) == list(range(6))


def malformed_arguments_are_refused_before_anything_happens(rig: Rig) -> None:
    events = rig.queue_deaths(1)
    malformed: list[tuple[type[Exception], tuple[Any, ...]]] = [
        (TypeError, ("all",)),
        (TypeError, (True,)),
        (ValueError, (-1,)),
        (ValueError, (1 << 64,)),
        (ValueError, (1 << 40,)),
        (TypeError, (EVENTMASK_ALL, "predicate")),
    ]
    for error, arguments in malformed:
        for call in (rig.engine.event_check, rig.engine.event_wait):
            with pytest.raises(error):
                call(*arguments)
    assert rig.queued() == events

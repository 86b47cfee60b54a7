# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for osevent_beforepoll and osevent_afterpoll."""

from __future__ import annotations

import select
import threading
import time
from typing import Any

import pytest

from gxl.events import DomainDeath
from gxl.interfaces import AsyncHow
from gxl.testing import differences
from gxl.testing.engines.rig import Rig, poll, users

POLLIN = select.POLLIN


def there_is_always_something_to_poll_that_can_wake_the_poll(rig: Rig) -> None:
    fds, timeout_ms = rig.engine.osevent_beforepoll()
    assert [events for _, events in fds] == [POLLIN]
    assert timeout_ms is None
    assert poll(fds, 0) == [(*fds[0], 0)]


def an_evgen_adds_an_fd_in_front_of_the_others_and_takes_it_away(rig: Rig) -> None:
    idle, _ = rig.engine.osevent_beforepoll()
    evgen = rig.engine.evenable_domain_death(1)
    fds, _ = rig.engine.osevent_beforepoll()
    assert fds[1:] == idle
    assert len(fds) == 2
    rig.engine.evdisable_domain_death(evgen)
    assert rig.engine.osevent_beforepoll() == (idle, None)


def all_evgens_share_one_fd(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    rig.engine.evenable_domain_death(domid)
    rig.engine.evenable_domain_death(domid)
    rig.engine.evenable_disk_eject(domid, "xvda")
    fds, _ = rig.engine.osevent_beforepoll()
    assert len(fds) == 2


def nothing_is_listed_that_wants_no_events(rig: Rig) -> None:
    rig.engine.evenable_domain_death(1)
    fds, _ = rig.engine.osevent_beforepoll()
    assert all(events for _, events in fds)


def readiness_that_is_reported_does_the_work(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    rig.host.destroy_domain(domid)
    fds, _ = rig.engine.osevent_beforepoll()
    results = poll(fds, round(rig.patience * 1000))
    assert rig.engine.event_check() is None
    rig.engine.osevent_afterpoll(results)
    assert rig.engine.event_check() == DomainDeath(domid, for_user=1)


def readiness_is_honoured_once(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    fds, _ = rig.engine.osevent_beforepoll()
    ready = [(fd, events, events) for fd, events in fds]
    rig.engine.osevent_afterpoll(ready)
    rig.host.destroy_domain(domid)
    poll(fds, round(rig.patience * 1000))
    rig.engine.osevent_afterpoll(ready)
    assert rig.queued() == []
    assert users(rig.events()) == [1]


def false_readiness_is_ignored(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    for bits in (POLLIN, select.POLLOUT, select.POLLERR | select.POLLHUP, 0xFF & ~select.POLLNVAL):
        fds, _ = rig.engine.osevent_beforepoll()
        rig.engine.osevent_afterpoll([(fd, events, bits) for fd, events in fds])
    rig.host.destroy_domain(domid)
    assert users(rig.events()) == [1]


def fds_that_are_not_reported_are_left_alone(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    rig.host.destroy_domain(domid)
    fds, _ = rig.engine.osevent_beforepoll()
    poll(fds, round(rig.patience * 1000))
    rig.engine.osevent_afterpoll([])
    rig.engine.osevent_afterpoll([(fd, events, 0) for fd, events in fds])
    assert rig.queued() == []
    assert users(rig.events()) == [1]


def results_of_an_fd_that_is_of_no_more_interest_are_ignored(rig: Rig) -> None:
    evgen = rig.engine.evenable_domain_death(1, 1)
    fds, _ = rig.engine.osevent_beforepoll()
    results = poll(fds, round(rig.patience * 1000))
    rig.engine.evdisable_domain_death(evgen)
    rig.engine.osevent_afterpoll(results)
    assert rig.queued() == []


def an_fd_that_was_added_since_beforepoll_waits_for_the_next(rig: Rig) -> None:
    fds, _ = rig.engine.osevent_beforepoll()
    rig.engine.evenable_domain_death(31000, 1)
    more, _ = rig.engine.osevent_beforepoll()
    poll(more, round(rig.patience * 1000))
    # The results of a poll that did not have it.
    rig.engine.osevent_afterpoll([(fd, events, events) for fd, events in fds])
    assert rig.queued() == []
    assert users(rig.events()) == [1]


def the_timeout_is_the_earliest_deadline_rounded_up(rig: Rig) -> None:
    before = time.time()
    rig.engine.domain_shutdown(rig.domain(paused=True), AsyncHow(1))
    after = time.time()
    for now, at_least, at_most in (
        (before, 60_000, 60_000 + (after - before) * 1000 + 1),
        (before + 59.9995, 0, (after - before) * 1000 + 2),
        (before + 30, 30_000, 30_000 + (after - before) * 1000 + 1),
    ):
        _, timeout_ms = rig.engine.osevent_beforepoll(now)
        assert timeout_ms is not None
        assert at_least <= timeout_ms <= at_most
    _, timeout_ms = rig.engine.osevent_beforepoll(after + 61)
    assert timeout_ms == 0
    _, timeout_ms = rig.engine.osevent_beforepoll(before - 5_000_000)
    assert timeout_ms == 2_000_000_000
    rig.engine.osevent_afterpoll([], after + 61)
    # Only hooks are told the moment itself.
    exact = rig.fresh("hooks")
    with exact.cleanup:
        exact.engine.domain_shutdown(rig.domain(paused=True), AsyncHow(1))
        [(deadline, _)] = exact.loop.timeouts.values()
        for earlier, expected_ms in ((0.0003, 1), (0.0102, 11), (30.0006, 30_001)):
            assert exact.engine.osevent_beforepoll(deadline - earlier)[1] == expected_ms
        exact.engine.osevent_afterpoll([], deadline - 0.0003)
        assert exact.queued() == []
        exact.engine.osevent_afterpoll([], deadline)
        assert len(exact.queued()) == 1


def what_is_due_by_the_callers_clock_happens(rig: Rig) -> None:
    deadline = time.time() + 60
    rig.engine.domain_shutdown(rig.domain(paused=True), AsyncHow(7))
    rig.engine.osevent_beforepoll()
    rig.engine.osevent_afterpoll([], deadline - 1)
    assert rig.queued() == []
    rig.engine.osevent_afterpoll([], time.time() + 60)
    [event] = rig.queued()
    assert (event.for_user, getattr(event, "rc", None)) == (7, -9)


def a_new_operation_wakes_the_poll_that_is_under_way(rig: Rig) -> None:
    fds, _ = rig.engine.osevent_beforepoll()
    for user in (1, 2):
        rig.engine.domain_shutdown(rig.domain(paused=True), AsyncHow(user))
    results = poll(fds, 0)
    assert [revents for *_, revents in results] == [POLLIN]
    # Once is enough: afterpoll takes note of it.
    rig.engine.osevent_afterpoll(results)
    fds, _ = rig.engine.osevent_beforepoll()
    assert poll(fds[-1:], 0)[0][2] == 0


def a_new_evgen_and_the_poll_that_is_under_way(rig: Rig) -> None:
    fds, _ = rig.engine.osevent_beforepoll()
    rig.engine.evenable_domain_death(1)
    assert bool(poll(fds, 0)[0][2]) is rig.expected(differences.EVENABLE_WAKES_POLL)


def a_queued_event_does_not_wake_the_poll(rig: Rig) -> None:
    domid = rig.domain(paused=True)
    rig.poll()
    fds, _ = rig.engine.osevent_beforepoll()
    rig.engine.domain_unpause(domid, AsyncHow(1))
    assert poll(fds, 0)[-1][2] == 0
    assert users(rig.queued()) == [1]


def hooks_and_polling_may_be_mixed(rig: Rig) -> None:
    other = rig.another()
    other.engine.osevent_register_hooks(other.loop)
    domid = rig.domain()
    other.engine.evenable_domain_death(domid, 1)
    fds, _ = other.engine.osevent_beforepoll()
    assert [fd for fd, *_ in other.loop.named("fd_register")] == [fds[0][0]]
    other.settle()
    rig.host.destroy_domain(domid)
    assert users(other.events()) == [1]


def waiting_beside_hooks_works(rig: Rig) -> None:
    other = rig.another()
    other.engine.osevent_register_hooks(other.loop)
    domid = rig.domain()
    other.engine.evenable_domain_death(domid, 1)
    timer = threading.Timer(0.02, rig.host.destroy_domain, [domid])
    timer.start()
    assert other.engine.event_wait() == DomainDeath(domid, for_user=1)
    timer.join()


def malformed_arguments_are_refused(rig: Rig) -> None:
    fd = rig.engine.osevent_beforepoll()[0][0][0]
    wrong: list[tuple[type[Exception], tuple[Any, ...]]] = [
        (TypeError, (None,)),
        (TypeError, ([], "now")),
        (ValueError, ([], -1.0)),
        (ValueError, ([], float("nan"))),
        (ValueError, ([(-1, POLLIN, 0)],)),
        (TypeError, ([("0", POLLIN, 0)],)),
        (ValueError, ([(fd, 1 << 20, 0)],)),
        (ValueError, ([(fd, POLLIN, -1 << 20)],)),
    ]
    for error, arguments in wrong:
        with pytest.raises(error):
            rig.engine.osevent_afterpoll(*arguments)
    with pytest.raises(TypeError):
        rig.engine.osevent_beforepoll("now")  # type: ignore[arg-type]  # that it is refused is what is tested

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The queue and its waiters, with a hub's real waiters but no engine."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import gevent
import greenlet
import pytest
from worlds import outcome, settle
from zope.interface import implementer

from gxl import EVENTMASK_ALL, DomainDeath, DomainShutdown, Event, OperationComplete, WaitTimeout, mask
from gxl.hubhooks import choose
from gxl.interfaces import IEventSink
from gxl.mailbox import Mailbox
from gxl.metrics import Counters


@implementer(IEventSink)
class Nobody:
    def fd_ready(self, for_libxl: object, fd: int, events: int, revents: int) -> None: ...

    def timeout_due(self, for_libxl: object) -> None: ...

    def child_reaped(self, pid: int, status: int) -> None: ...


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    binding = choose("gevent").attach(Nobody())
    yield Mailbox(binding.waiter, binding.no_switch, Counters(), logging.log)
    binding.close()


def death(seq: int, domid: int = 1, user: int = 0) -> Event:
    return DomainDeath(domid, for_user=user, seq=seq, time=0.0)


def waiting(
    mailbox: Mailbox, typemask: int = EVENTMASK_ALL, predicate: Any = None, domid: int | None = None
) -> gevent.Greenlet[..., Any]:
    waiter = gevent.spawn(mailbox.wait, typemask, predicate, None, domid, None)
    settle(1)
    return waiter


def test_an_event_nobody_waits_for_is_queued_and_taken_in_order(mailbox: Mailbox) -> None:
    for seq in (1, 2, 3):
        mailbox.put(death(seq, domid=seq))
    assert len(mailbox) == 3
    assert mailbox.wait(EVENTMASK_ALL, None, 0, 2, None).seq == 2
    assert [mailbox.wait(EVENTMASK_ALL, None, 0, None, None).seq for _ in range(2)] == [1, 3]
    with pytest.raises(WaitTimeout):
        mailbox.wait(EVENTMASK_ALL, None, 0, None, None)


def test_an_event_goes_past_waiters_that_do_not_want_it(mailbox: Mailbox) -> None:
    reluctant = waiting(mailbox, mask(OperationComplete))
    picky = waiting(mailbox, predicate=lambda event: event.domid == 9)
    elsewhere = waiting(mailbox, domid=2)
    taker = waiting(mailbox)
    mailbox.put(death(1))
    assert outcome(taker).seq == 1
    mailbox.put(death(2, domid=2))
    assert outcome(elsewhere).seq == 2
    mailbox.put(death(3, domid=9))
    assert outcome(picky).seq == 3
    mailbox.put(death(4))
    assert len(mailbox) == 1
    assert not reluctant.ready()
    reluctant.kill()


def test_a_predicate_that_declines_lets_an_older_plain_waiter_stay_first(mailbox: Mailbox) -> None:
    order: list[str] = []
    first = waiting(mailbox, predicate=lambda event: order.append("asked") or False)
    second = waiting(mailbox)
    third = waiting(mailbox, predicate=lambda event: order.append("never") or True)
    mailbox.put(death(1))
    assert outcome(second).seq == 1
    assert order == ["asked"]
    gevent.killall([first, third])


def test_events_of_killed_waiters_return_to_their_place(mailbox: Mailbox) -> None:
    victims = [waiting(mailbox) for _ in range(3)]
    # Killed but not yet run again: each is still given an event, and then leaves without it.
    gevent.killall([victims[2], victims[0], victims[1]], block=False)
    for seq in (1, 2, 3, 4):
        mailbox.put(death(seq))
    assert len(mailbox) == 1
    gevent.joinall(victims)
    assert [mailbox.wait(EVENTMASK_ALL, None, 0, None, None).seq for _ in range(4)] == [1, 2, 3, 4]


def test_a_killed_waiters_event_goes_to_the_next_that_waits(mailbox: Mailbox) -> None:
    victim, heir = waiting(mailbox), waiting(mailbox)
    victim.kill(block=False)
    mailbox.put(death(1))
    assert outcome(heir).seq == 1


def test_ten_thousand_greenlets_killed_at_once_lose_nothing(mailbox: Mailbox) -> None:
    victims = [gevent.spawn(mailbox.wait, EVENTMASK_ALL, None, None, None, None) for _ in range(10_000)]
    settle(1)
    gevent.killall(victims, block=False)
    for seq in range(1, 10_001):
        mailbox.put(death(seq))
    assert len(mailbox) == 0
    gevent.joinall(victims)
    assert len(mailbox) == 10_000
    assert mailbox.wait(EVENTMASK_ALL, None, 0, None, None).seq == 1


def test_an_event_wakes_only_the_greenlet_that_gets_it(mailbox: Mailbox) -> None:
    waiters = [waiting(mailbox, domid=domid) for domid in range(200)]
    settle()
    resumed: list[object] = []
    previous = greenlet.settrace(lambda event, args: resumed.append(args[1]))
    try:
        mailbox.put(death(1, domid=77))
        settle(2)
    finally:
        greenlet.settrace(previous)
    assert [waiter for waiter in waiters if waiter in resumed] == [waiters[77]]
    gevent.killall(waiters)


def test_a_waiter_for_one_domain_costs_the_same_among_ten_thousand(mailbox: Mailbox) -> None:
    def steps(parked: int) -> int:
        """Calls of gxl's functions that one event costs: a count, not a time, so it can't be noisy."""
        waiters = [gevent.spawn(mailbox.wait, EVENTMASK_ALL, None, None, domid, None) for domid in range(parked)]
        settle(1)
        calls = 0

        def count(frame: FrameType, event: str, arg: object) -> None:
            nonlocal calls
            calls += event == "call" and "/gxl/" in frame.f_code.co_filename

        sys.setprofile(count)
        try:
            mailbox.put(death(parked, domid=5))
        finally:
            sys.setprofile(None)
        gevent.killall(waiters)
        return calls

    assert steps(10_000) <= steps(10)


def test_failing_wakes_those_whose_mask_meets_it(mailbox: Mailbox) -> None:
    ejects = waiting(mailbox, mask(OperationComplete, DomainShutdown))
    deaths = waiting(mailbox, mask(DomainDeath))
    assert mailbox.fail(lambda: LookupError("gone"), mask(DomainShutdown), closing=False) == 1
    assert isinstance(outcome(ejects), LookupError)
    mailbox.put(death(1))
    assert outcome(deaths).seq == 1


def test_after_closing_queued_events_can_be_taken_and_then_the_error_comes(mailbox: Mailbox) -> None:
    mailbox.put(death(1))
    mailbox.fail(lambda: LookupError("gone"), EVENTMASK_ALL, closing=True)
    assert mailbox.wait(EVENTMASK_ALL, None, None, None, None).seq == 1
    with pytest.raises(LookupError):
        mailbox.wait(EVENTMASK_ALL, None, None, None, None)


def test_whatever_a_predicate_raises_is_its_waiters_and_the_event_goes_to_the_next(mailbox: Mailbox) -> None:
    def ending(event: Event) -> bool:
        raise gevent.GreenletExit("enough")

    ended, next_one = waiting(mailbox, predicate=ending), waiting(mailbox)
    mailbox.put(death(1))
    assert isinstance(outcome(ended), gevent.GreenletExit)
    assert outcome(next_one).domid == 1
    assert len(mailbox) == 0

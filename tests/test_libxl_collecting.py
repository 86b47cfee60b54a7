# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taking events off libxl in batches, as a Context does: in order, each once, whatever strikes meanwhile.

In Python, and in C.
"""

from __future__ import annotations

import itertools
import linecache
import sys
from collections import deque
from contextlib import nullcontext
from types import FrameType
from typing import Any

import pytest
from libxl_pump import Full, Hooks, pump, queued
from zope.interface.verify import verifyClass

from gxl.arguments import devid
from gxl.engines.libxl import LibxlEngine
from gxl.engines.libxl.collecting import Collecting
from gxl.errors import Disaster, MisuseError
from gxl.events import DiskEject, DomainDeath, Event, EventType, OperationComplete
from gxl.interfaces import AsyncHow, ICollectedEngine
from gxl.simhost.remote import RemoteHost

pytest_plugins = ["libxl_fixtures", "forms"]


@pytest.fixture(autouse=True)
def in_each_form(form: str) -> None:
    """Before the engine is opened."""


def broken(form: str, monkeypatch: pytest.MonkeyPatch) -> deque[Event]:
    """Where the first event gets lost on its way to."""

    def draft(*arguments: Any) -> Any:
        monkeypatch.undo()
        raise MemoryError

    if form == "compiled":
        return Full()
    monkeypatch.setattr(Collecting, "draft", draft)
    return deque()


def test_the_engine_provides_the_contract() -> None:
    assert verifyClass(ICollectedEngine, LibxlEngine)


def test_a_batch_has_the_oldest_events_and_no_more_than_was_asked_for(
    engine: LibxlEngine, three_deaths: list[int]
) -> None:
    events: deque[Event] = deque()
    assert engine.event_collect(events, 2)
    assert [event.domid for event in events] == three_deaths[:2]
    assert not engine.event_collect(events, 2)
    assert [event.domid for event in events] == three_deaths
    assert all(isinstance(event, DomainDeath) for event in events)
    assert engine.event_check() is None


def test_what_is_collected_says_what_event_check_would(engine: LibxlEngine, host: RemoteHost) -> None:
    """Of each disk twice, for the second may be known from the first. One has no name, and one that is no text."""
    domid = host.create_domain()
    users = itertools.count(2**64 - 5)
    host.add_disk(domid, "xvda")
    host.write(f"/local/domain/{domid}/device/vbd/{devid('xvda')}/dev", b"xv\xff\n\xc3\xa9")
    host.add_disk(domid, "xvdb")
    for vdev in ("xvda", "xvdb", "xvdc"):
        engine.evenable_disk_eject(domid, vdev, next(users))
    host.add_disk(domid, "xvdc")
    engine.evenable_domain_death(domid, next(users))
    expected: list[Event] = []
    for vdev in ("xvda", "xvdb", "xvdc") * 2:
        host.eject_disk(domid, vdev)
        expected = until(engine, len(expected) + 1)
    host.shutdown_domain(domid, 255)
    until(engine, 7)
    host.destroy_domain(domid)
    expected = until(engine, 8)
    events: deque[Event] = deque()
    while engine.event_collect(events, 3):
        pass
    assert [event.as_dict() for event in events] == [event.as_dict() for event in expected]
    names = [event.vdev for event in events if isinstance(event, DiskEject)]
    assert names == ["xv\\xff\né", "xvdb", "xvdc"] * 2


def until(engine: LibxlEngine, count: int) -> list[Event]:
    """What is in the queue once there are so many."""
    while len(seen := queued(engine)) < count:
        pump(engine)
    return seen


def test_an_operation_gives_notice_however_it_was_started(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    noticed: list[bool] = []
    events: deque[Event] = deque()
    engine.event_notify(lambda: noticed.append(engine.event_collect(events, 10)), events, 10)
    engine.domain_pause(domid, AsyncHow(for_event=7))
    assert noticed
    assert events == deque([OperationComplete(domid, 0, for_user=7)])


def test_what_a_call_of_the_loop_finds_it_collects_as_far_as_there_is_room(
    engine: LibxlEngine, host: RemoteHost
) -> None:
    events: deque[Event] = deque()
    noticed: list[int] = []
    engine.event_notify(lambda: noticed.append(len(events)), events, 2)
    domids = [host.create_domain() for _ in range(4)]
    with host.quiet():
        for domid in domids:
            engine.evenable_domain_death(domid)
            host.mark_dying(domid)
    while not events:
        pump(engine)
    assert ([event.domid for event in events], noticed) == (domids[:2], [2])
    events.popleft()
    engine.osevent_afterpoll([])
    assert ([event.domid for event in events], noticed) == (domids[1:3], [2, 2])
    events.clear()
    engine.osevent_afterpoll([])
    assert ([event.domid for event in events], noticed) == (domids[3:], [2, 2])


def test_what_a_context_owns_others_can_not_collect(host: RemoteHost) -> None:
    engine = LibxlEngine()
    owner = engine.claim(nullcontext)
    with pytest.raises(MisuseError, match="belongs to a Context"):
        engine.event_collect(deque(), 1)
    owner.ctx_free()
    with pytest.raises(MisuseError, match="closed"):
        owner.event_collect(deque(), 1)


def test_an_event_that_can_not_be_copied_is_a_disaster_and_the_next_still_comes(
    engine: LibxlEngine, host: RemoteHost, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, str, int]] = []
    engine.event_register_callbacks(Hooks(0, lambda *disaster: told.append(disaster)))
    domids = [host.create_domain() for _ in range(2)]
    for domid in domids:
        engine.evenable_domain_death(domid)
    with host.quiet():
        for domid in domids:
            host.destroy_domain(domid)
    while len(queued(engine)) < 2:
        pump(engine)
    events = broken(form, monkeypatch)
    assert engine.event_collect(events, 10)
    assert not engine.event_collect(events, 10)
    assert [(kind, str(domids[0]) in message) for kind, message, _ in told] == [(EventType.DOMAIN_DEATH, True)]
    assert [event.domid for event in events] == domids[1:]
    assert engine.dead is None


def test_without_a_disaster_hook_the_loss_is_raised(
    engine: LibxlEngine, three_deaths: list[int], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = broken(form, monkeypatch)
    with pytest.raises(Disaster, match=f"domain {three_deaths[0]} was lost"):
        engine.event_collect(events, 10)
    assert not engine.event_collect(events, 10)
    assert [event.domid for event in events] == three_deaths[1:]


@pytest.mark.parametrize("place", range(60))
def test_ctrl_c_loses_and_doubles_no_event_wherever_it_strikes(
    engine: LibxlEngine, three_deaths: list[int], place: int
) -> None:
    passed = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal passed
        if frame.f_code.co_filename != sys.modules[Collecting.__module__].__file__:
            return None
        # Python looks for signals where something was called or at a jump back, and so not between these two.
        if event == "line" and linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() != "out[0] = null":
            passed += 1
            if passed == place + 1:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    events: deque[Event] = deque()
    before = sys.gettrace()
    try:
        sys.settrace(trace)
        engine.event_collect(events, 10)
        finished = True
    except KeyboardInterrupt:
        finished = False
    finally:
        sys.settrace(before)
    assert finished == (passed <= place)
    while engine.event_collect(events, 10):
        pass
    assert [event.domid for event in events] == three_deaths

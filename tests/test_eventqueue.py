# SPDX-License-Identifier: LGPL-2.1-or-later
"""EventQueue against the plainest thing that could be right: a sorted list."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gxl.eventqueue import EventQueue
from gxl.events import EVENTMASK_ALL, DomainDeath, DomainShutdown, Event, EventType, UnknownEvent, mask

KINDS: list[Callable[[int, int], Event]] = [
    lambda domid, user: DomainDeath(domid, for_user=user),
    lambda domid, user: DomainShutdown(domid, 3, for_user=user),
    lambda domid, user: UnknownEvent(domid, 40, for_user=user),
    lambda domid, user: UnknownEvent(domid, 70, for_user=user),
    lambda domid, user: UnknownEvent(domid, -1, for_user=user),
]
MASKS = [EVENTMASK_ALL, 0, mask(EventType.DOMAIN_DEATH), mask(EventType.DOMAIN_DEATH, EventType.DOMAIN_SHUTDOWN)]
small = st.integers(0, 2)
events = st.builds(lambda make, domid, user: make(domid, user), st.sampled_from(KINDS), small, small)
masks = st.sampled_from(MASKS)
keys = st.none() | small


def passes(event: Event, typemask: int, domid: int | None, user: int | None) -> bool:
    return (
        (typemask == EVENTMASK_ALL or (event.type >= 0 and bool(typemask >> event.type & 1)))
        and domid in (None, event.domid)
        and user in (None, event.for_user)
    )


class AgainstASortedList(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue = EventQueue()
        self.model: list[tuple[int, Event]] = []
        self.taken: list[tuple[int, Event]] = []
        self.next = 0

    def model_take(self, typemask: int, domid: int | None, user: int | None, wanted: Callable[[Event], bool]) -> object:
        for place, (_, event) in enumerate(self.model):
            if passes(event, typemask, domid, user) and wanted(event):
                self.taken.append(self.model.pop(place))
                return event
        return None

    @rule(event=events)
    def put(self, event: Event) -> None:
        self.next += 1
        self.queue.put(self.next, event)
        self.model.append((self.next, event))

    @precondition(lambda self: self.model)
    @rule(typemask=masks, domid=keys, user=keys)
    def take(self, typemask: int, domid: int | None, user: int | None) -> None:
        expected = self.model_take(typemask, domid, user, lambda event: True)
        assert self.queue.take(typemask, domid=domid, user=user) is expected

    @precondition(lambda self: self.model)
    @rule(typemask=masks, domid=keys, user=keys, skip=st.integers(0, 5))
    def take_with_predicate(self, typemask: int, domid: int | None, user: int | None, skip: int) -> None:
        candidates = [event for _, event in self.model if passes(event, typemask, domid, user)]
        seen: list[Event] = []

        def predicate(event: Event) -> bool:
            seen.append(event)
            return len(seen) > skip

        chosen = candidates[skip] if skip < len(candidates) else None
        assert self.queue.take(typemask, predicate, domid, user) is chosen
        assert [id(event) for event in seen] == [id(event) for event in candidates[: skip + 1]]
        self.model_take(typemask, domid, user, lambda event: event is chosen)

    @precondition(lambda self: self.model)
    @rule(typemask=masks, inner_mask=masks, data=st.data())
    def take_while_the_predicate_uses_the_queue(self, typemask: int, inner_mask: int, data: st.DataObject) -> None:
        seen: list[Event] = []

        def predicate(event: Event) -> bool:
            assert not any(event is other for other in seen)
            seen.append(event)
            match data.draw(st.sampled_from(["take", "put", "put_back", "no", "yes"])):
                case "take":
                    self.take(inner_mask, None, None)
                case "put":
                    self.put(data.draw(events))
                case "put_back":
                    self.put_back(data.draw(st.integers(0, 3)))
                case answer:
                    return answer == "yes"
            return data.draw(st.booleans())

        result = self.queue.take(typemask, predicate)
        if result is not None:
            assert result is seen[-1]
            assert self.model_take(EVENTMASK_ALL, None, None, lambda event: event is result) is result

    @rule(which=st.integers(0, 3))
    def put_back(self, which: int) -> None:
        if which < len(self.taken):
            seq, event = self.taken.pop(-1 - which)
            self.queue.put(seq, event)
            self.model.append((seq, event))
            self.model.sort(key=lambda entry: entry[0])

    @invariant()
    def same_length(self) -> None:
        assert len(self.queue) == len(self.model)

    def teardown(self) -> None:
        for _, event in self.model:
            assert self.queue.take() is event
        assert self.queue.take() is None
        assert not self.queue._lanes


AgainstASortedList.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestAgainstASortedList = AgainstASortedList.TestCase


def filled(count: int) -> EventQueue:
    queue = EventQueue()
    for seq in range(count):
        queue.put(seq, DomainDeath(seq, for_user=seq))
    return queue


def test_a_predicate_that_raises_changes_nothing() -> None:
    queue = filled(3)

    def fail(event: Event) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        queue.take(predicate=fail)
    assert [getattr(queue.take(), "domid", None) for _ in range(4)] == [0, 1, 2, None]


def test_an_event_that_its_own_predicate_took_is_not_handed_out_twice() -> None:
    queue = filled(2)
    inner: list[Event | None] = []

    def steal(event: Event) -> bool:
        if not inner:
            inner.append(queue.take())
        return True

    outer = queue.take(predicate=steal)
    assert [event and event.domid for event in (*inner, outer)] == [0, 1]
    assert len(queue) == 0


def test_a_seq_can_be_queued_only_once() -> None:
    queue = filled(1)
    with pytest.raises(ValueError, match="seq 0 is queued already"):
        queue.put(0, DomainDeath(9))
    assert len(queue) == 1


def test_clear_forgets_everything() -> None:
    queue = filled(50)
    queue.clear()
    assert len(queue) == 0
    assert queue.take() is None


@given(st.permutations(range(60)))
def test_events_come_back_to_their_places_in_any_order(order: list[int]) -> None:
    queue = filled(60)
    taken = [queue.take() for _ in range(60)]
    for seq in order:
        event = taken[seq]
        assert event is not None
        queue.put(seq, event)
    assert [queue.take() for _ in range(60)] == taken


def calls_made(work: Callable[[], object]) -> int:
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


@pytest.mark.parametrize("key", [{}, {"domid": 7}, {"user": 7}, {"domid": 7, "user": 7}], ids=str)
def test_the_cost_of_put_and_take_does_not_grow_with_the_queue(key: dict[str, Any]) -> None:
    def cost(queued: int) -> int:
        queue = filled(queued)
        queue.take(domid=6)  # the first who chooses pays for the index
        queue.put(queued, DomainDeath(7, for_user=7))

        def work() -> None:
            for seq in range(queued + 1, queued + 100):
                event = queue.take(**key)
                assert event is not None
                queue.put(seq, DomainDeath(7, for_user=7))

        return calls_made(work)

    assert cost(20_000) <= cost(10) * 1.2


def test_a_predicate_costs_one_call_per_event_that_passes_the_rest() -> None:
    queue = filled(10_000)
    seen: list[int] = []
    queue.take(predicate=lambda event: seen.append(event.domid), domid=5_000)
    assert seen == [5_000]


def test_many_puts_and_takes_leave_nothing_behind() -> None:
    queue = filled(3)
    queue.take(domid=0)
    for seq in range(3, 10_000):
        queue.put(seq, DomainDeath(seq % 5, for_user=seq))
        queue.take()
    assert queue._lanes is not None
    assert sum(len(lane.seqs) for lanes in queue._lanes.values() for lane in lanes.values()) < 200


def test_whoever_takes_what_comes_pays_for_no_index() -> None:
    chosen, unchosen = filled(100), filled(100)
    chosen.take(domid=0)
    unchosen.take()

    def work(queue: EventQueue) -> Callable[[], None]:
        def take_all() -> None:
            for seq in range(100, 200):
                queue.put(seq, DomainDeath(seq))
                assert queue.take() is not None

        return take_all

    assert calls_made(work(unchosen)) * 3 < calls_made(work(chosen))


def test_an_event_that_is_put_back_first_comes_first_again() -> None:
    queue = filled(3)
    first = queue.take()
    assert first is not None
    queue.put(0, first)
    assert [queue.take(), queue.take()] == [first, DomainDeath(1, for_user=1)]

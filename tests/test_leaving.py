# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an engine is told only after the event has come, is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gxl.errors import Disaster
from gxl.leaving import Leaving


class Turns:
    """A loop whose turns the test takes."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def later(self, f: Callable[[], object]) -> None:
        self.waiting.append(f)

    def take(self) -> None:
        waiting, self.waiting = self.waiting, []
        for f in waiting:
            f()


def raised(error: BaseException) -> None:
    raise AssertionError from error


def fails(error: BaseException) -> Callable[[], object]:
    def call() -> None:
        raise error

    return call


def test_all_calls_are_made_in_one_later_turn() -> None:
    turns, made = Turns(), list[int]()
    leaving = Leaving(turns.later, lambda: False, lambda: False, raised)
    for number in (1, 2, 3):
        leaving.add(lambda number=number: made.append(number))  # type: ignore[misc]  # mypy infers no lambda that has a default
    assert (made, len(turns.waiting)) == ([], 1)
    turns.take()
    assert sorted(made) == [1, 2, 3]
    assert not turns.waiting


@pytest.mark.parametrize("error", [Disaster(0, "gone"), KeyboardInterrupt(), ValueError()], ids=repr)
def test_a_call_that_raises_is_told_of_and_the_others_are_made_in_the_next_turn(error: BaseException) -> None:
    turns, made, told = Turns(), list[int](), list[BaseException]()
    leaving = Leaving(turns.later, lambda: False, lambda: False, told.append)
    leaving.add(lambda: made.append(1))
    leaving.add(fails(error))
    turns.take()
    assert (made, told) == ([], [error])
    turns.take()
    assert made == [1]
    assert not turns.waiting


def test_what_is_taken_amid_the_calls_is_not_made() -> None:
    turns, made = Turns(), list[int]()
    leaving = Leaving(turns.later, lambda: False, lambda: False, raised)
    leaving.add(lambda: made.append(1))
    leaving.add(leaving.take)
    turns.take()
    turns.take()
    assert made == []


def test_events_come_first_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, made, now = Turns(), list[int](), [0.0]
    events = True
    monkeypatch.setattr("gxl.leaving.perf_counter", lambda: now[0])
    leaving = Leaving(turns.later, lambda: False, lambda: events, raised)
    for ends_by in ("no event is left", "time"):
        leaving.add(lambda: made.append(1))
        for _ in range(3):
            turns.take()
        assert made == [], ends_by
        if ends_by == "time":
            now[0] += 1.0
        else:
            events = False
        turns.take()
        assert (made, turns.waiting) == ([1], [])
        made.clear()
        events = True


def test_many_calls_take_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, made, now = Turns(), list[int](), [0.0]
    monkeypatch.setattr("gxl.leaving.perf_counter", lambda: now[0])
    leaving = Leaving(turns.later, lambda: False, lambda: False, raised)

    def call() -> None:
        now[0] += 0.0001
        made.append(1)

    for _ in range(7):
        leaving.add(call)
    counts = []
    while turns.waiting:
        turns.take()
        counts.append(len(made))
    assert counts == [3, 6, 7]


def test_a_call_that_fails_because_the_engine_is_lost_is_no_news() -> None:
    turns, made = Turns(), list[int]()
    leaving = Leaving(turns.later, lambda: True, lambda: False, raised)
    leaving.add(lambda: made.append(1))
    leaving.add(fails(Disaster(0, "gone")))
    turns.take()
    assert made == [1]


def test_what_was_taken_back_is_not_made() -> None:
    turns, made = Turns(), list[int]()
    leaving = Leaving(turns.later, lambda: False, lambda: False, raised)
    leaving.add(lambda: made.append(1))
    (call,) = leaving.take()
    turns.take()
    assert made == []
    call()
    assert made == [1]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What gxl is to be held to: each goal is a number that follows from a run's figures, and what it should not exceed.

`gross` is the limit of the short form, which CI runs beside who knows what: beyond it something is broken, not merely
slow. It has none for times, which depend on the machine; ratios, counts and sizes do not.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import NamedTuple

# Figures by workload, candidate and figure's name: one a round.
Results = dict[str, dict[str, dict[str, list[float]]]]
# System calls an eject by candidate and the call's name.
Calls = dict[str, dict[str, float]]


class Goal(NamedTuple):
    """`measure` returns None where the run lacks something that it needs. Without `gross` the short form is blind."""

    about: str
    limit: float
    gross: float | None
    measure: Callable[[Results, Calls], float | None]


class Outcome(NamedTuple):
    """What became of a goal."""

    goal: Goal
    measured: float

    @property
    def met(self) -> bool:
        return self.measured <= self.goal.limit

    @property
    def broken(self) -> bool:
        return self.goal.gross is not None and self.measured > self.goal.gross


def figures(results: Results, workload: str, candidate: str, figure: str = "") -> list[float]:
    """One number a round; none if this was not measured."""
    return results.get(workload, {}).get(candidate, {}).get(figure, [])


def ratio(results: Results, workload: str, candidate: str, to: str, figure: str = "") -> float | None:
    """The median of the ratios within each round."""
    mine, theirs = figures(results, workload, candidate, figure), figures(results, workload, to, figure)
    ratios = [one / other for one, other in zip(mine, theirs, strict=False) if other]
    return median(ratios) if ratios else None


def _to(workload: str, candidate: str, other: str) -> Callable[[Results, Calls], float | None]:
    return lambda results, calls: ratio(results, workload, candidate, other)


def _grows(figure: str, candidate: str) -> Callable[[Results, Calls], float | None]:
    """One death among 10,000 beside one among 10."""

    def measure(results: Results, calls: Calls) -> float | None:
        many, few = (figures(results, f"a death among {waiters}", candidate, figure) for waiters in (10_000, 10))
        return median(many) / median(few) if many and few else None

    return measure


def _for_a_thousand(figure: str, candidate: str, unit: float = 1) -> Callable[[Results, Calls], float | None]:
    """What 1,000 parked waiters more take."""

    def measure(results: Results, calls: Calls) -> float | None:
        many, few = (figures(results, f"memory at {waiters}", candidate, figure) for waiters in (2010, 10))
        return (median(many) - median(few)) / 2 / unit if many and few else None

    return measure


def _memory_to(other: str) -> Callable[[Results, Calls], float | None]:
    def measure(results: Results, calls: Calls) -> float | None:
        mine, theirs = (_for_a_thousand("", candidate)(results, calls) for candidate in ("gxl", other))
        return mine / theirs if mine is not None and theirs else None

    return measure


def _held(results: Results, calls: Calls) -> float | None:
    more = [_for_a_thousand(what, "gxl")(results, calls) for what in ("fds", "threads", "timers")]
    return sum(found for found in more if found is not None) if None not in more else None


def _figure(workload: str, candidate: str, figure: str, unit: float = 1) -> Callable[[Results, Calls], float | None]:
    def measure(results: Results, calls: Calls) -> float | None:
        found = figures(results, workload, candidate, figure)
        return median(found) / unit if found else None

    return measure


def _pause_to_call(results: Results, calls: Calls) -> float | None:
    pauses, libxls = (figures(results, "storm of 1000", "gxl", figure) for figure in ("pause", "call"))
    ratios = [pause / call for pause, call in zip(pauses, libxls, strict=True)]
    return median(ratios) if ratios else None


def _idle_beside(other: str) -> Callable[[Results, Calls], float | None]:
    def measure(results: Results, calls: Calls) -> float | None:
        mine, theirs = (figures(results, "idle", candidate) for candidate in ("gxl", other))
        return median(mine) - median(theirs) if mine and theirs else None

    return measure


def in_all(calls: dict[str, float]) -> float:
    """System calls without futex(2).

    libxenstore has a thread that reads. How often it and the one that asks have to wait for one another, depends on
    which of them is faster, and in one program differs from run to run by more than all that gxl adds.
    """
    return sum(count for name, count in calls.items() if name != "futex")


def _more_calls(results: Results, calls: Calls) -> float | None:
    return in_all(calls["gxl"]) - in_all(calls["C"]) if "gxl" in calls and "C" in calls else None


_TIMED = [
    *("eject ping-pong", "burst of 200 ejects"),
    *(f"a death among {waiters}" for waiters in (1, 10, 1000, 10_000)),
    *(f"storm of {domains}" for domains in (10, 100, 1000, 10_000)),
]
_BEYOND = "longest pause in a storm of {} beyond libxl's longest call, ms"
_EMBEDDED = "longest pause in a storm of 10,000, embedded engine, ms"
_AT_WORK = ", and of it at work"
GOALS = [
    Goal("eject ping-pong, gxl / C", 1.10, 8, _to("eject ping-pong", "gxl", "C")),
    Goal("one death among 10 waiters, gxl / C", 1.25, 15, _to("a death among 10", "gxl", "C")),
    Goal("storm of 10,000, gxl / C, an event", 1.4, 60, _to("storm of 10000", "gxl", "C")),
    Goal("storm of 1,000, gxl / C, an event", 1.4, 60, _to("storm of 1000", "gxl", "C")),
    Goal("burst of 200 ejects, gxl / C", 1.05, 5, _to("burst of 200 ejects", "gxl", "C")),
    *(
        goal
        for other in ("threadpool", "thread")
        for goal in (
            *(Goal(f"{workload}, gxl / {other}", 1.0, 6, _to(workload, "gxl", other)) for workload in _TIMED),
            Goal(f"memory of 1,000 parked waiters, gxl / {other}", 1.0, 6, _memory_to(other)),
            Goal(f"wake-ups a second when idle, gxl beyond {other}", 0, 1, _idle_beside(other)),
        )
    ),
    Goal("gxl's own share of a death, 10,000 waiters / 10", 1.1, 30, _grows("share", "gxl")),
    Goal("one death, 10,000 waiters / 10, embedded engine", 1.5, 5, _grows("", "embedded")),
    Goal("MiB for 1,000 parked waiters", 8.5, 10, _for_a_thousand("", "gxl", 1024)),
    Goal("fds, threads and timers for 1,000 parked waiters", 0, 0, _held),
    Goal("wake-ups a second when idle", 0, 1, _figure("idle", "gxl", "")),
    # The ticker can't see less than one of its ticks.
    *(
        Goal(_BEYOND.format(f"{domains:,}") + of_it, 1, None, _figure(f"storm of {domains}", "gxl", figure, 1e3))
        for domains in (10_000, 1000)
        for of_it, figure in (("", "beyond"), (_AT_WORK, "worked_beyond"))
    ),
    Goal("longest pause in a storm of 1,000 / libxl's longest call", 1.3, 20, _pause_to_call),
    *(
        Goal(_EMBEDDED + of_it, 5, None, _figure("storm of 10000", "embedded", figure, 1e3))
        for of_it, figure in (("", "pause"), (_AT_WORK, "worked"))
    ),
    Goal("system calls an eject beyond C's", 2, 15, _more_calls),
]


def outcomes(results: Results, calls: Calls) -> list[Outcome]:
    """Of each goal for which there are figures."""
    measured = ((goal, goal.measure(results, calls)) for goal in GOALS)
    return [Outcome(goal, value) for goal, value in measured if value is not None]


def table(found: list[Outcome], gross: bool = False) -> str:
    """The goals, what was measured, and whether that will do."""
    lines = ["| goal | at most | measured | |", "|---|--:|--:|---|"]
    for outcome in found:
        limit = outcome.goal.gross if gross else outcome.goal.limit
        if limit is None:
            continue
        verdict = ("**broken**" if outcome.broken else "") if gross else "met" if outcome.met else "not met"
        lines.append(f"| {outcome.goal.about} | {limit:g} | {outcome.measured:.3g} | {verdict} |")
    return "\n".join(lines)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What gxl is to be held to: each goal is a number that follows from a run's figures, and what it should not exceed.

Only ratios, counts and sizes: times depend on the machine. `gross` is the limit of the short form, which CI runs beside
who knows what: beyond it something is broken, not merely slow.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import NamedTuple

# Figures by workload, candidate and figure's name: one a round.
Results = dict[str, dict[str, dict[str, list[float]]]]
Calls = dict[str, float]


class Goal(NamedTuple):
    """`measure` returns None where the run lacks something that it needs."""

    about: str
    limit: float
    gross: float
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
        return self.measured > self.goal.gross


def figures(results: Results, workload: str, candidate: str, figure: str = "") -> list[float]:
    """One number a round; none if this was not measured."""
    return results.get(workload, {}).get(candidate, {}).get(figure, [])


def ratio(results: Results, workload: str, candidate: str, to: str) -> float | None:
    """The median of the ratios within each round."""
    mine, theirs = figures(results, workload, candidate), figures(results, workload, to)
    ratios = [one / other for one, other in zip(mine, theirs, strict=False) if other]
    return median(ratios) if ratios else None


def _to(workload: str, candidate: str, other: str) -> Callable[[Results, Calls], float | None]:
    return lambda results, calls: ratio(results, workload, candidate, other)


def _own_share(results: Results, calls: Calls) -> float | None:
    shares = []
    for waiters in (10_000, 10):
        name = f"a death among {waiters}"
        mine, theirs = figures(results, name, "gxl"), figures(results, name, "C")
        if not mine or not theirs:
            return None
        shares.append(median(mine) - median(theirs))
    return shares[0] / shares[1]


def _flatness(results: Results, calls: Calls) -> float | None:
    many, few = (figures(results, f"a death among {waiters}", "embedded") for waiters in (10_000, 10))
    return median(many) / median(few) if many and few else None


def memory(results: Results, candidate: str) -> float | None:
    """MiB for each 1,000 parked waiters."""
    many, few = (figures(results, f"memory at {waiters}", candidate) for waiters in (2010, 10))
    return (median(many) - median(few)) / 2 / 1024 if many and few else None


def _pause(storm: int) -> Callable[[Results, Calls], float | None]:
    def measure(results: Results, calls: Calls) -> float | None:
        pause = figures(results, f"storm of {storm}", "gxl", "pause")
        call = figures(results, f"storm of {storm}", "C", "longest")
        return median(pause) / median(call) if pause and call else None

    return measure


def _pause_embedded(results: Results, calls: Calls) -> float | None:
    pause = figures(results, "storm of 10000", "embedded", "pause")
    return median(pause) / 1e3 if pause else None


def _more_calls(results: Results, calls: Calls) -> float | None:
    return calls["gxl"] - calls["C"] if "gxl" in calls and "C" in calls else None


def _idle(results: Results, calls: Calls) -> float | None:
    woken = figures(results, "idle", "gxl")
    return median(woken) if woken else None


GOALS = [
    Goal("eject ping-pong, gxl / C", 1.10, 8, _to("eject ping-pong", "gxl", "C")),
    Goal("one death among 10 waiters, gxl / C", 1.25, 15, _to("a death among 10", "gxl", "C")),
    Goal("storm of 10,000, gxl / C, an event", 1.4, 60, _to("storm of 10000", "gxl", "C")),
    Goal("storm of 1,000, gxl / C, an event", 1.4, 60, _to("storm of 1000", "gxl", "C")),
    Goal("burst of 200 ejects, gxl / C", 1.05, 5, _to("burst of 200 ejects", "gxl", "C")),
    *(
        Goal(f"{workload}, gxl / {other}", 1.0, 6, _to(workload, "gxl", other))
        for other in ("threadpool", "thread")
        for workload in (
            *("eject ping-pong", "burst of 200 ejects", "a death among 10", "a death among 1000"),
            *("a death among 10000", "storm of 1000", "storm of 10000"),
        )
    ),
    Goal("gxl's share of a death, 10,000 waiters / 10", 1.1, 30, _own_share),
    Goal("one death, 10,000 waiters / 10, embedded engine", 1.5, 5, _flatness),
    Goal("MiB for 1,000 parked waiters", 8.5, 10, lambda results, calls: memory(results, "gxl")),
    Goal("wake-ups a second when idle", 0, 1, _idle),
    Goal("longest pause in a storm of 10,000 / libxl's longest call", 1.1, 4, _pause(10_000)),
    Goal("longest pause in a storm of 1,000 / libxl's longest call", 2, 20, _pause(1000)),
    Goal("longest pause in a storm of 10,000, embedded engine, ms", 5, 50, _pause_embedded),
    Goal("system calls an eject beyond C's", 2, 6, _more_calls),
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
        verdict = ("**broken**" if outcome.broken else "") if gross else "met" if outcome.met else "not met"
        lines.append(f"| {outcome.goal.about} | {limit:g} | {outcome.measured:.3g} | {verdict} |")
    return "\n".join(lines)

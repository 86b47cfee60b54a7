# SPDX-License-Identifier: LGPL-2.1-or-later
"""A run's figures as tables of Markdown: all of them for whoever has run it, and a choice for docs/performance.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from benchmarks import goals
from benchmarks.goals import Calls, Outcome, Results, figures, ratio
from benchmarks.running import Failed
from benchmarks.workloads import ABOUT

_MICROSECONDS = ("us", "us an event")
_FIGURES = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], numbers: int) -> str:
    """The last `numbers` columns are set right."""
    head = list(head)
    rule = ["---"] * (len(head) - numbers) + ["--:"] * numbers
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    lines.insert(1, "|" + "|".join(rule) + "|")
    return "\n".join(lines)


def _number(value: float) -> str:
    """With three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def _spread(values: list[float]) -> str:
    """The median, with the least and the most."""
    return f"{_number(median(values))} ({_number(min(values))} – {_number(max(values))})"


def everything(results: Results, candidates: list[str], units: dict[str, str]) -> str:
    """Medians, with the least and the most, and the median of the ratios to C within each round."""
    rows = []
    for workload, by_candidate in results.items():
        for candidate in candidates:
            for figure in sorted(by_candidate.get(candidate, {})):
                values = figures(results, workload, candidate, figure)
                among = ratio(results, workload, candidate, "C", figure)
                name = f"{workload}: {ABOUT[figure]}" if figure else f"{workload}, {units[workload]}"
                to_c = f"{among:.2f}" if among is not None and candidate != "C" else ""
                span = f"{min(values):.4g} – {max(values):.4g}"
                rows.append([name, candidate, f"{median(values):.4g}", span, to_c])
    return _table(["workload", "candidate", "median", "least – most", "to C"], rows, 3)


def system_calls(calls: Calls) -> str:
    """System calls an eject, by name, the commonest first."""
    names = sorted({name for found in calls.values() for name, count in found.items() if count >= 0.05})
    names.sort(key=lambda name: -max(found.get(name, 0) for found in calls.values()))
    rows = {"all but futex": {name: goals.in_all(found) for name, found in calls.items()}}
    rows |= {name: {candidate: found.get(name, 0) for candidate, found in calls.items()} for name in names}
    head = ["system calls an eject", *calls]
    return _table(head, ([name, *(f"{count:.1f}" for count in row.values())] for name, row in rows.items()), len(calls))


def goals_met(found: list[Outcome]) -> str:
    """The goals, what was measured, and whether that will do."""
    rows = [
        [
            outcome.goal.about,
            f"{outcome.goal.limit:g}",
            # 1.003 is not met, and should not be told as 1.
            f"{outcome.measured:.3g}" if outcome.met else f"{outcome.measured:.4g}",
            "" if outcome.bare is None else f"{outcome.bare:.3g}",
            "met" if outcome.met else "**not met**",
        ]
        for outcome in found
    ]
    return _table(["goal", "at most", "gxl", "bare", "met?"], rows, 4)


def grossly_slow(found: list[Outcome]) -> str:
    """The limits of the short form."""
    rows = [
        [outcome.goal.about, f"{outcome.goal.gross:g}", f"{outcome.measured:.3g}", "**broken**" * outcome.broken]
        for outcome in found
        if outcome.goal.gross is not None
    ]
    return _table(["beyond this something is broken", "at most", "measured", ""], rows, 3)


def _times(results: Results, units: dict[str, str]) -> str:
    known = ("C", "bare", "gxl", "gxl-plain", "threadpool", "thread", "gxl-asyncio", "gxl-poll", "embedded")
    columns = [name for name in known if any(name in by for by in results.values())]

    def cell(workload: str, candidate: str) -> str:
        values = figures(results, workload, candidate)
        to_c = ratio(results, workload, candidate, "C")
        if not values:
            return ""
        if candidate == "C" or to_c is None:
            return _spread(values)
        # What has no libxl can't be so many times slower than libxl.
        times = "" if candidate == "embedded" else f" ×{to_c:.2f}"
        return (_spread(values) if candidate == "gxl" else _number(median(values))) + times

    rows = (
        [workload, *(cell(workload, candidate) for candidate in columns)]
        for workload in results
        if units[workload] in _MICROSECONDS
    )
    return _table(["µs", *columns], rows, len(columns))


def _shares(results: Results) -> str:
    columns = [
        (f"{candidate}, {what}", candidate, figure)
        for candidate in ("gxl", "bare")
        for what, figure in (("µs", "share"), ("functions called", "calls"))
    ]
    rows = (
        [
            workload,
            *(
                _spread(values) if (values := figures(results, workload, candidate, figure)) else ""
                for _, candidate, figure in columns
            ),
        ]
        for workload, by in results.items()
        if by.get("gxl", {}).get("calls")
    )
    return _table(["from libxl's return to the application", *(name for name, _, _ in columns)], rows, len(columns))


def _pauses(results: Results) -> str:
    candidates = ("gxl", "gxl-asyncio", "gxl-poll", "bare", "threadpool", "thread", "embedded")
    columns = [(name, name, "pause") for name in candidates]
    columns[1:1] = [("gxl: libxl's longest call", "gxl", "call"), ("gxl: the pause without it", "gxl", "beyond")]
    rows = (
        [
            workload,
            *(
                _spread([value / 1e3 for value in values])
                if (values := figures(results, workload, candidate, figure))
                else ""
                for _, candidate, figure in columns
            ),
        ]
        for workload, by in sorted(results.items(), key=lambda item: item[0] != "idle")
        if any("pause" in found for found in by.values())
    )
    return _table(["longest pause, ms", *(name for name, _, _ in columns)], rows, len(columns))


def _memory(results: Results) -> str:
    sizes = {name: goals.for_a_thousand(results, name) for name in results.get("memory at 2010", {})}
    row = (_spread([size / 1024 for size in found]) if found else "" for found in sizes.values())
    return _table(["MiB for 1,000 parked waiters", *sizes], [["", *row]], len(sizes))


def _opening(results: Results, costs: dict[str, list[float]]) -> str:
    opened = results.get("opening a Context", {})
    rows = [["`import gxl`, beyond the interpreter's own start", _spread(costs["import gxl"])]]
    rows += [[f"the first Context, {name}", _spread(figures(results, "opening a Context", name))] for name in opened]
    return _table(["once, ms", ""], rows, 1)


def _where(machine: dict[str, Any], results: Results) -> str:
    rounds = max(len(values) for by in results.values() for found in by.values() for values in found.values())
    told = ", ".join(f"{name} {value}" for name, value in machine.items())
    return f"{rounds} rounds: {told}."


def for_the_page(everything: dict[str, Any], units: dict[str, str]) -> dict[str, str]:
    """What docs/performance.md shows, by the names that stand there."""
    results, calls = everything["results"], everything["calls"]
    found = goals.outcomes(results, calls)
    return {
        "machine": _where(everything["machine"], results),
        "times": _times(results, units),
        "shares": _shares(results),
        "pauses": _pauses(results),
        "memory": _memory(results),
        "opening": _opening(results, everything["costs"]),
        "system_calls": system_calls(calls),
        "goals": goals_met([outcome for outcome in found if outcome.goal in goals.GOALS]),
        "ahead": goals_met([outcome for outcome in found if outcome.goal in goals.AHEAD]),
    }


def filled(page: str, told: dict[str, str]) -> str:
    """`page` with what it shows between `<!-- figures: NAME -->` and `<!-- end of figures -->` replaced."""
    shown = [name for _, name, _ in _FIGURES.findall(page)]
    if sorted(shown) != sorted(told):
        raise Failed(f"the page shows {', '.join(shown) or 'nothing'}; there are {', '.join(told)}")
    put: Callable[[re.Match[str]], str] = lambda found: f"{found[1]}\n{told[found[2]]}\n\n{found[3]}"  # noqa: E731
    return _FIGURES.sub(put, page)

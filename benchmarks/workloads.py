# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is measured: each workload drives one client and gives figures, by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from benchmarks.running import Run

Figures = dict[str, float]

# Who is measured where. Whoever has nothing new to say is left out, or a run would take an hour.
#
# What gxl is measured by, in everything that is timed: what libxl needs, what Python needs, and what programs do today.
MAIN = ("C", "bare", "gxl", "threadpool", "thread")
# Without gxl's compiled part the way of an event is another, and nothing else is.
PLAIN = ("gxl-plain",)
# Other hubs have another loop and nothing else: an event by itself and a thousand at once show that.
HUBS = ("gxl-asyncio", "gxl-poll")
# Another engine has no libxl, and its host in the same process: what is asked of it is that it stays flat.
EMBEDDED = ("embedded",)

# The figures beside a workload's own.
ABOUT = {
    "pause": "longest pause, us",
    "worked": "of it at work, us",
    "call": "libxl's longest call, us",
    "beyond": "what of the longest pause was no such call, us",
    "share": "from libxl's return to the application, us",
    "calls": "functions called meanwhile",
    "fds": "fds",
    "threads": "threads",
    "timers": "timers",
}
IDLE_SECONDS = 1.0
BURST = 200


class Workload(NamedTuple):
    """`kind`, `domains` and `per_byte` are the client's arguments; `drive` gives the figures, in microseconds."""

    name: str
    kind: str
    domains: int
    per_byte: int
    drive: Callable[[Run], Figures]
    unit: str
    candidates: tuple[str, ...]


def _observed(run: Run, act: Callable[[], object]) -> Figures:
    """What the client says of itself while `act` goes on: once more, and apart from what is timed."""
    if not run.observe():
        return {}
    act()
    report = run.report()
    return _pauses(report) | ({"share": report["share"] * 1e6} if report["share"] else {})


def _pauses(report: dict[str, Any]) -> Figures:
    # Where no call of libxl's was timed, all of a pause would seem to be something else.
    told = ("pause", "call", "beyond") if report["call"] else ("pause",)
    return {figure: report[figure] * 1e6 for figure in told}


def _ping_pong(run: Run) -> Figures:
    run.command("eject 20 1")
    figures = {"": median(run.command("eject 200 1")) / 1e3}
    return figures | _observed(run, lambda: run.command("eject 50 1"))


def _burst(run: Run) -> Figures:
    run.command(f"eject 1 {BURST}")
    figures = {"": median(run.command(f"eject 5 {BURST}")) / 1e3 / BURST}
    return figures | _observed(run, lambda: run.command(f"eject 2 {BURST}"))


def _one_death(run: Run) -> Figures:
    def deaths(*domids: int) -> list[int]:
        return [run.command(f"death {domid} 1")[0] for domid in domids if domid <= run.domains]

    times = deaths(*range(1, 6))
    # The first finds caches cold, and a process of one domain has no other.
    figures = {"": median(times[1:] or times) / 1e3}
    if run.domains < 10:
        return figures
    figures |= _observed(run, lambda: deaths(*range(6, 9)))
    if "share" in figures:
        run.count()
        # Not the last one that lives: with its end libxl ends its watch.
        run.command("shutdown 9 1")
        deaths(9)
        figures["calls"] = run.report()["calls"]
    return figures


def _storm(run: Run) -> Figures:
    observed = run.observe()
    times = [run.command(f"{what} 1 {run.domains}")[0] / 1e3 for what in ("shutdown", "death")]
    figures = {"": sum(times) / 2 / run.domains}
    if observed:
        report = run.report()
        figures |= _pauses(report) | {"worked": report["worked"] * 1e6}
    return figures


def _idle(run: Run) -> Figures:
    before = run.report()["switches"]
    time.sleep(IDLE_SECONDS)
    # To report is to be woken, once.
    figures = {"": (run.report()["switches"] - before - 1) / IDLE_SECONDS}
    return figures | _observed(run, lambda: time.sleep(IDLE_SECONDS))


def _memory(run: Run) -> Figures:
    report = run.report()
    held: Figures = {kind: report[kind] for kind in ("fds", "threads", "timers") if kind in report}
    return {"": report["rss_kib"], **held}


def _opening(run: Run) -> Figures:
    opened = run.report().get("opened")
    return {"": opened * 1e3} if opened else {}


def storm(domains: int, *others: str, one_greenlet: bool = False) -> Workload:
    """All of them shut down at once, and then die at once. What a callback does in C, a greenlet each does, or one."""
    by, kind = (", one greenlet", "death/one") if one_greenlet else ("", "death")
    return Workload(f"storm of {domains}{by}", kind, domains, domains, _storm, "us an event", (*MAIN, *others))


def one_death(domains: int, *others: str) -> Workload:
    return Workload(f"a death among {domains}", "death", domains, 1, _one_death, "us", (*MAIN, *others))


PING_PONG = Workload("eject ping-pong", "eject", 1, 1, _ping_pong, "us", (*MAIN, *PLAIN, *HUBS, *EMBEDDED))
BURST_OF_EJECTS = Workload(f"burst of {BURST} ejects", "eject", BURST, BURST, _burst, "us an event", (*MAIN, *HUBS))
# What differs from one death among 10,000 is how many greenlets there are, and not how long libxl takes.
FEW_WAIT = Workload("a death among 10000, 10 wait", "death/ten", 10_000, 1, _one_death, "us", ("bare", "gxl"))
IDLE = Workload("idle", "death", 10, 1, _idle, "wake-ups a second", ("C", *MAIN[2:], *HUBS, *EMBEDDED))
OPENING = Workload("opening a Context", "death", 1, 1, _opening, "ms", ("gxl", *HUBS, *EMBEDDED))


def memory(domains: int) -> Workload:
    return Workload(f"memory at {domains}", "death", domains, 1, _memory, "KiB", MAIN)

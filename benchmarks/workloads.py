# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is measured: each workload drives one client and gives figures, by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from benchmarks.running import Run

Figures = dict[str, float]
# The figures beside a workload's own.
ABOUT = {
    "pause": "longest pause, us",
    "worked": "most work between two ticks, us",
    "call": "libxl's longest call, us",
    "beyond": "pause beyond that call, us",
    "worked_beyond": "work beyond that call, us",
    "share": "from libxl's return to the application, us",
    "fds": "fds",
    "threads": "threads",
    "timers": "timers",
}
IDLE_SECONDS = 2.0
BURST = 200


class Workload(NamedTuple):
    """`kind`, `domains` and `per_byte` are the client's arguments; `drive` gives the figures, in microseconds."""

    name: str
    kind: str
    domains: int
    per_byte: int
    drive: Callable[[Run], Figures]
    unit: str


def _observed(run: Run, act: Callable[[], object]) -> Figures:
    """What the client says of itself while `act` goes on: once more, and apart from what is timed."""
    if not run.observe():
        return {}
    act()
    report = run.report()
    return {"pause": report["pause"] * 1e6} | ({"share": report["share"] * 1e6} if report["share"] else {})


def _ping_pong(run: Run) -> Figures:
    run.command("eject 20 1")
    figures = {"": median(run.command("eject 200 1")) / 1e3}
    return figures | _observed(run, lambda: run.command("eject 50 1"))


def _burst(run: Run) -> Figures:
    run.command(f"eject 1 {BURST}")
    figures = {"": median(run.command(f"eject 5 {BURST}")) / 1e3 / BURST}
    return figures | _observed(run, lambda: run.command(f"eject 2 {BURST}"))


def _one_death(run: Run) -> Figures:
    first, second = range(1, min(run.domains, 5) + 1), range(6, min(run.domains, 10) + 1)
    times = [run.command(f"death {domid} 1")[0] for domid in first]
    # The first finds caches cold, and a process of one domain has no other.
    figures = {"": median(times[1:] or times) / 1e3}
    return (
        figures | _observed(run, lambda: [run.command(f"death {domid} 1") for domid in second]) if second else figures
    )


def _storm(run: Run) -> Figures:
    observed = run.observe()
    times = [run.command(f"{what} 1 {run.domains}")[0] / 1e3 for what in ("shutdown", "death")]
    figures = {"": sum(times) / 2 / run.domains}
    if observed:
        report = run.report()
        figures |= {"pause": report["pause"] * 1e6, "worked": report["worked"] * 1e6}
        if report["call"]:
            figures |= {
                "call": report["call"] * 1e6,
                "beyond": (report["pause"] - report["call"]) * 1e6,
                "worked_beyond": (report["worked"] - report["call_worked"]) * 1e6,
            }
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


def storm(domains: int) -> Workload:
    return Workload(f"storm of {domains}", "death", domains, domains, _storm, "us an event")


def one_death(domains: int) -> Workload:
    return Workload(f"a death among {domains}", "death", domains, 1, _one_death, "us")


PING_PONG = Workload("eject ping-pong", "eject", 1, 1, _ping_pong, "us")
BURST_OF_EJECTS = Workload(f"burst of {BURST} ejects", "eject", BURST, BURST, _burst, "us an event")
IDLE = Workload("idle", "death", 10, 1, _idle, "wake-ups a second")

OPENING = Workload("opening a Context", "death", 1, 1, _opening, "ms")


def memory(domains: int) -> Workload:
    return Workload(f"memory at {domains}", "death", domains, 1, _memory, "KiB")

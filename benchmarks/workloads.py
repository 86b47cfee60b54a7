# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is measured: each workload drives one client and gives figures, by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from benchmarks.running import Run

Figures = dict[str, float]
IDLE_SECONDS = 2.0
BURST = 200


class Workload(NamedTuple):
    """`kind`, `domains` and `per_byte` are the client's arguments; `drive` gives the figures, in microseconds."""

    name: str
    kind: str
    domains: int
    per_byte: int
    drive: Callable[[Run], Figures]
    about: str


def _ping_pong(run: Run) -> Figures:
    run.command("eject 20 1")
    return {"": median(run.command("eject 200 1")) / 1e3}


def _burst(run: Run) -> Figures:
    run.command(f"eject 1 {BURST}")
    return {"": median(run.command(f"eject 5 {BURST}")) / 1e3 / BURST}


def _one_death(run: Run) -> Figures:
    times = [run.command(f"death {domid} 1")[0] for domid in range(1, min(run.domains, 5) + 1)]
    # The first finds caches cold, and a process of one domain has no other.
    return {"": median(times[1:] or times) / 1e3}


def _storm(run: Run) -> Figures:
    run.report()
    times = [run.command(f"{what} 1 {run.domains}")[0] / 1e3 for what in ("shutdown", "death")]
    return {"": sum(times) / 2 / run.domains, "longest": max(times), "pause": run.report()["pause"] * 1e6}


def _idle(run: Run) -> Figures:
    before = run.report()["switches"]
    time.sleep(IDLE_SECONDS)
    # To report is to be woken, once.
    return {"": (run.report()["switches"] - before - 1) / IDLE_SECONDS}


def _memory(run: Run) -> Figures:
    return {"": run.report()["rss_kib"]}


def _opening(run: Run) -> Figures:
    opened = run.report()["opened"]
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

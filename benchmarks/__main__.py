# SPDX-License-Identifier: LGPL-2.1-or-later
"""python -m benchmarks: gxl, C and what people do without gxl, side by side. See --help."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks import goals, tables
from benchmarks.clients import CLIENTS
from benchmarks.goals import Results
from benchmarks.plot import draw
from benchmarks.running import TOP, Bench, Failed
from benchmarks.workloads import (
    BURST_OF_EJECTS,
    EMBEDDED,
    FEW_WAIT,
    HUBS,
    IDLE,
    OPENING,
    PING_PONG,
    PLAIN,
    Workload,
    memory,
    one_death,
    storm,
)
from gxl import compiled

WORKLOADS = [
    PING_PONG,
    BURST_OF_EJECTS,
    one_death(1),
    one_death(10, *PLAIN, *HUBS, *EMBEDDED),
    one_death(1000),
    one_death(10_000, *EMBEDDED),
    FEW_WAIT,
    storm(10),
    storm(100),
    storm(1000, *PLAIN, *HUBS, *EMBEDDED),
    storm(1000, *PLAIN, one_greenlet=True),
    storm(10_000, *PLAIN, *EMBEDDED),
    storm(10_000, *EMBEDDED, one_greenlet=True),
    memory(10),
    memory(2010),
    IDLE,
    OPENING,
]
SHORT = [PING_PONG, BURST_OF_EJECTS, one_death(10), storm(1000), storm(1000, one_greenlet=True)]
SHORT += [memory(10), memory(2010), IDLE]
UNITS = {workload.name: workload.unit for workload in WORKLOADS}
IS_COMPILED = compiled.part is not None
CANDIDATES = ["C", *(name for name in CLIENTS if IS_COMPILED or name not in PLAIN)]
_FILE = click.Path(dir_okay=False, path_type=Path)


def measure(
    bench: Bench, workloads: list[Workload], candidates: list[str], rounds: int, keep: Callable[[Results], object]
) -> Results:
    """Every candidate once a round, in turn, so that what slows the machine slows them all. Each round is kept.

    Another begins each time: what a candidate leaves behind, or has to wait for, is not always the same one's.
    """
    results: Results = {}
    taking_part = {workload: [name for name in candidates if name in workload.candidates] for workload in workloads}
    length = rounds * sum(map(len, taking_part.values()))
    with click.progressbar(length=length, file=sys.stderr) as progress:
        for turn in range(rounds):
            for workload, names in taking_part.items():
                first = turn % len(names)
                for candidate in names[first:] + names[:first]:
                    with bench.client(candidate, workload.kind, workload.domains, workload.per_byte) as run:
                        found = workload.drive(run)
                    measured = results.setdefault(workload.name, {}).setdefault(candidate, {})
                    for figure in measured.keys() | found.keys():
                        measured.setdefault(figure, [None] * turn).append(found.get(figure))
                    progress.update(1)
            keep(results)
    return results


def costs(rounds: int) -> dict[str, list[float]]:
    """What `import gxl` takes beyond the interpreter's own start, in milliseconds."""
    found: dict[str, list[float]] = {"import gxl": []}
    for _ in range(rounds):
        spans = []
        for program in ("pass", "import gxl"):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, cwd=TOP)
            spans.append(time.perf_counter() - began)
        found["import gxl"].append((spans[1] - spans[0]) * 1e3)
    return found


def machine() -> dict[str, str]:
    """Where it is measured."""
    from gxl.engines.libxl.loading import load

    return {
        "CPython": platform.python_version(),
        "gevent": version("gevent"),
        "cffi": version("cffi"),
        "gxl": "with its compiled part" if IS_COMPILED else "without a compiled part",
        "libxenlight": load().version,
        "Linux": platform.release(),
        "CPUs": str(os.cpu_count()),
    }


@click.command()
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="How often each is measured.")
@click.option("--only", "wanted", multiple=True, metavar="TEXT", help="Only workloads whose names contain TEXT.")
@click.option("--candidate", "candidates", multiple=True, type=click.Choice(CANDIDATES), help="Only these, and C.")
@click.option("--json", "path", type=_FILE, help="Write all figures there, after each round.")
@click.option("--from", "earlier", type=_FILE, help="Measure nothing: the figures are there, from an earlier --json.")
@click.option("--plot", type=_FILE, help="Draw the ratios to C there, as SVG.")
@click.option("--page", type=_FILE, help="Put the tables into this page, in the place of those that it shows.")
@click.option("--short", is_flag=True, help="A few workloads, once, C, gxl and a thread; fail if gxl is grossly slow.")
def main(
    rounds: int,
    wanted: tuple[str, ...],
    candidates: tuple[str, ...],
    path: Path | None,
    earlier: Path | None,
    plot: Path | None,
    page: Path | None,
    short: bool,
) -> None:
    """Measure gxl against a C program on the same libxenlight, and against libxl_event_wait in threads.

    No Xen is needed: a host written in C serves the real libxenlight. All candidates are measured in turn, round by
    round, each client pinned to one CPU and the host to another. Times are microseconds, from the moment at which the
    host changes something to the moment at which the client has answered from its application's code. Needed are
    libxenlight with its headers, a C compiler and strace (Debian: libxen-dev gcc strace).
    """
    if short:
        rounds, candidates = 1, candidates or ("gxl", "thread")
    workloads = [
        workload
        for workload in (SHORT if short else WORKLOADS)
        if not wanted or any(text in workload.name for text in wanted)
    ]
    if not workloads:
        raise click.UsageError(
            f"no workload's name contains {' or '.join(wanted)}; there are: "
            + ", ".join(workload.name for workload in WORKLOADS)
        )
    chosen = ["C", *(name for name in CANDIDATES[1:] if name in candidates or not candidates)]
    try:
        told = json.loads(earlier.read_text()) if earlier else run(workloads, chosen, rounds, path, short)
        found = goals.outcomes(told["results"], told["calls"])
        print(tables.everything(told["results"], chosen, UNITS))
        print(f"\n{tables.system_calls(told['calls'])}")
        print(f"\nimport gxl: {median(told['costs']['import gxl']):.0f} ms")
        print(f"\n{tables.grossly_slow(found) if short else tables.goals_met(found)}")
        if plot is not None:
            plot.write_text(draw(told["results"]))
        if page is not None:
            page.write_text(tables.filled(page.read_text(), tables.for_the_page(told, UNITS)))
    except Failed as error:
        raise click.ClickException(str(error)) from None
    broken = [outcome.goal.about for outcome in found if outcome.broken]
    if short and broken:
        raise click.ClickException(f"grossly slow: {'; '.join(broken)}")


def run(workloads: list[Workload], chosen: list[str], rounds: int, path: Path | None, short: bool) -> dict[str, Any]:
    """Measure, and return all figures, as `path` has them."""
    with tempfile.TemporaryDirectory(prefix="gxl-bench-") as directory:
        bench = Bench(Path(directory))
        told: dict[str, Any] = {"machine": machine(), "costs": costs(rounds)}
        told["calls"] = {name: bench.system_calls(name) for name in chosen if name != "embedded"}
        loads = [os.getloadavg()[0]]

        def keep(results: Results) -> None:
            told["results"] = results
            loads.append(os.getloadavg()[0])
            told["machine"]["load"] = f"{min(loads):.1f} to {max(loads):.1f}"
            if path is not None:
                path.write_text(json.dumps(told, indent=1) + "\n")

        results = measure(bench, workloads, chosen, rounds, keep)
        if short and any(outcome.broken for outcome in goals.outcomes(results, told["calls"])):
            # Something else may have had the machine for a moment. What is broken, is so again.
            measure(bench, workloads, chosen, rounds, keep)
        bench.stop()
    return told


if __name__ == "__main__":
    main()

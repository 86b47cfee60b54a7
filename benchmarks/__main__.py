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
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks import goals
from benchmarks.clients import CLIENTS
from benchmarks.goals import Results, ratio
from benchmarks.plot import draw
from benchmarks.running import TOP, Bench, Failed
from benchmarks.workloads import (
    ABOUT,
    BURST_OF_EJECTS,
    EMBEDDED,
    FEW_WAIT,
    HUBS,
    IDLE,
    OPENING,
    PING_PONG,
    Workload,
    memory,
    one_death,
    storm,
)

WORKLOADS = [
    PING_PONG,
    BURST_OF_EJECTS,
    one_death(1),
    one_death(10, *HUBS, *EMBEDDED),
    one_death(1000),
    one_death(10_000, *EMBEDDED),
    FEW_WAIT,
    storm(10),
    storm(100),
    storm(1000, *HUBS, *EMBEDDED),
    storm(1000, one_greenlet=True),
    storm(10_000, *EMBEDDED),
    storm(10_000, *EMBEDDED, one_greenlet=True),
    memory(10),
    memory(2010),
    IDLE,
    OPENING,
]
SHORT = [PING_PONG, BURST_OF_EJECTS, one_death(10), storm(1000), storm(1000, one_greenlet=True)]
SHORT += [memory(10), memory(2010), IDLE]
CANDIDATES = ["C", *CLIENTS]


def measure(
    bench: Bench, workloads: list[Workload], candidates: list[str], rounds: int, keep: Callable[[Results], object]
) -> Results:
    """Every candidate once a round, in turn, so that what slows the machine slows them all. Each round is kept."""
    results: Results = {}
    runs = [
        (workload, candidate) for workload in workloads for candidate in candidates if candidate in workload.candidates
    ]
    with click.progressbar(length=rounds * len(runs), file=sys.stderr) as progress:
        for _ in range(rounds):
            for workload, candidate in runs:
                with bench.client(candidate, workload.kind, workload.domains, workload.per_byte) as run:
                    figures = workload.drive(run)
                for figure, value in figures.items():
                    measured = results.setdefault(workload.name, {}).setdefault(candidate, {})
                    measured.setdefault(figure, []).append(value)
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


def table(results: Results, candidates: list[str]) -> str:
    """Medians, with the least and the most, and the median of the ratios to C within each round."""
    lines = ["| workload | candidate | median | least – most | to C |", "|---|---|--:|--:|--:|"]
    units = {workload.name: workload.unit for workload in WORKLOADS}
    for workload, by_candidate in results.items():
        for candidate in candidates:
            for figure, values in by_candidate.get(candidate, {}).items():
                among = ratio(results, workload, candidate, "C", figure)
                name = f"{workload}: {ABOUT[figure]}" if figure else f"{workload}, {units[workload]}"
                to_c = f"{among:.2f}" if among is not None and candidate != "C" else ""
                span = f"{min(values):.4g} – {max(values):.4g}"
                lines.append(f"| {name} | {candidate} | {median(values):.4g} | {span} | {to_c} |")
    return "\n".join(lines)


def calls_table(calls: goals.Calls) -> str:
    """System calls an eject, by name, the commonest first."""
    names = sorted({name for found in calls.values() for name, count in found.items() if count >= 0.05})
    names.sort(key=lambda name: -max(found.get(name, 0) for found in calls.values()))
    lines = ["| system calls an eject | " + " | ".join(calls) + " |", "|---|" + "--:|" * len(calls)]
    rows = {"all but futex": {name: goals.in_all(found) for name, found in calls.items()}}
    rows |= {name: {candidate: found.get(name, 0) for candidate, found in calls.items()} for name in names}
    lines += [
        f"| {name} | " + " | ".join(f"{count:.1f}" for count in row.values()) + " |" for name, row in rows.items()
    ]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load average": os.getloadavg()[0],
    }


@click.command()
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="How often each is measured.")
@click.option("--only", "wanted", multiple=True, metavar="TEXT", help="Only workloads whose names contain TEXT.")
@click.option("--candidate", "candidates", multiple=True, type=click.Choice(CANDIDATES), help="Only these, and C.")
@click.option(
    "--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there, after each round."
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the ratios to C there, as SVG.")
@click.option("--short", is_flag=True, help="A few workloads, once, C, gxl and a thread; fail if gxl is grossly slow.")
def main(
    rounds: int,
    wanted: tuple[str, ...],
    candidates: tuple[str, ...],
    path: Path | None,
    plot: Path | None,
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
        with tempfile.TemporaryDirectory(prefix="gxl-bench-") as directory:
            bench = Bench(Path(directory))
            imported = costs(rounds)
            calls = {name: bench.system_calls(name) for name in chosen if name != "embedded"}

            def keep(results: Results) -> None:
                if path is not None:
                    everything = {"machine": machine(), "results": results, "calls": calls, "costs": imported}
                    path.write_text(json.dumps(everything, indent=1) + "\n")

            results = measure(bench, workloads, chosen, rounds, keep)
            found = goals.outcomes(results, calls)
            if short and any(outcome.broken for outcome in found):
                # Something else may have had the machine for a moment. What is broken, is so again.
                results = measure(bench, workloads, chosen, rounds, keep)
                found = goals.outcomes(results, calls)
            bench.stop()
    except Failed as error:
        raise click.ClickException(str(error)) from None
    print(table(results, chosen))
    print(f"\n{calls_table(calls)}")
    print(f"\nimport gxl: {median(imported['import gxl']):.0f} ms")
    print(f"\n{goals.table(found, gross=short)}")
    if plot is not None:
        plot.write_text(draw(results))
    broken = [outcome.goal.about for outcome in found if outcome.broken]
    if short and broken:
        raise click.ClickException(f"grossly slow: {'; '.join(broken)}")


if __name__ == "__main__":
    main()

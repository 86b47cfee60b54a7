# SPDX-License-Identifier: LGPL-2.1-or-later
"""The benchmarks run, and compare what they say they compare. How fast anything is, is not tested here."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock
from xml.etree import ElementTree

import pytest
from requirements import Requirements

from benchmarks import goals, plot, tables
from benchmarks.__main__ import CANDIDATES
from benchmarks.clients import CLIENTS
from benchmarks.job import Job
from benchmarks.running import Bench, Failed
from benchmarks.workloads import PING_PONG, one_death, storm

ROOT = Path(__file__).resolve().parent.parent


def _benchmarks(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_each_candidate_is_measured_beside_c(tmp_path: Path, require: Requirements) -> None:
    require.file("/usr/include/libxl.h")
    require.program("cc")
    require.program("strace")
    figures, drawn = tmp_path / "figures.json", tmp_path / "plot.svg"
    ran = _benchmarks("--rounds", "1", "--only", "ping-pong", "--json", str(figures), "--plot", str(drawn))
    assert ran.returncode == 0, ran.stderr
    found = json.loads(figures.read_text())
    measured = found["results"]["eject ping-pong"]
    assert set(PING_PONG.candidates) == {"C", *CLIENTS}
    assert list(measured) == CANDIDATES
    assert all(values[""][0] > 0 for values in measured.values())
    # What is the same in all of them is libxl's own work.
    assert all(goals.in_all(calls) > 20 for calls in found["calls"].values())
    assert found["calls"]["C"]["read"] == pytest.approx(found["calls"]["gxl"]["read"], abs=1)
    assert "| eject ping-pong, us | gxl |" in ran.stdout
    assert "eject ping-pong" in drawn.read_text()
    # Whoever has measured once can have it told again.
    told = _benchmarks("--from", str(figures))
    assert told.stdout == ran.stdout


def test_each_form_of_a_storm_and_a_death_is_driven(tmp_path: Path, require: Requirements) -> None:
    require.file("/usr/include/libxl.h")
    require.program("cc")
    bench = Bench(tmp_path)
    try:
        for candidate in ("C", "gxl", "bare", "thread"):
            for kind in ("death", "death/one", "death/ten"):
                if kind == "death/ten" and candidate == "thread":
                    continue  # these have a greenlet for each, or one
                with bench.client(candidate, kind, 12, 12 if kind != "death/ten" else 1) as run:
                    figures = (storm(12) if kind != "death/ten" else one_death(12)).drive(run)
                assert figures[""] > 0, (candidate, kind)
                if kind == "death/ten" and candidate in ("gxl", "bare"):
                    assert figures["share"] > 0
                    # From libxl's return to the application a bare program calls a handful of functions.
                    assert (figures["calls"] > 20) == (candidate == "gxl")
                if kind != "death/ten" and candidate != "C":
                    assert figures["pause"] >= figures["worked"] >= 0
    finally:
        bench.stop()


def test_an_unknown_workload_is_refused_with_those_that_there_are() -> None:
    ran = _benchmarks("--only", "nothing like it")
    assert ran.returncode == 2
    assert "eject ping-pong" in ran.stderr


def _results(gxl: list[float | None], c: list[float | None]) -> goals.Results:
    return {"eject ping-pong": {"gxl": {"": gxl}, "C": {"": c}}, "idle": {"gxl": {"": [0.0, 0.0]}}}


def test_a_goal_compares_within_each_round() -> None:
    # The machine was busy in the second round, for both.
    found = {outcome.goal.about: outcome for outcome in goals.outcomes(_results([100.0, 900.0], [100.0, 900.0]), {})}
    assert set(found) == {"eject ping-pong, gxl / C", "wake-ups a second when idle"}
    assert found["eject ping-pong, gxl / C"].measured == 1.0
    assert all(outcome.met and not outcome.broken for outcome in found.values())


def test_a_round_that_lacks_a_figure_moves_no_other() -> None:
    found = goals.outcomes(_results([100.0, None, 100.0], [100.0, 100.0, 50.0]), {})
    assert found[0].measured == pytest.approx(1.5)


def test_what_a_call_of_libxls_keeps_the_ticker_waiting_for_is_counted_from_when_it_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call that began while the ticker slept is longer than what it has seen of it."""
    told = Job("", "death", 1, 1)
    now = itertools.chain([0.0], [0.0005, 0.003], [0.0034])
    monkeypatch.setattr("benchmarks.job.time", Mock(perf_counter=lambda: next(now), thread_time=lambda: 0.0))
    told.tick()
    told._timed(lambda: None)()
    told.ticked()
    assert told.call == pytest.approx(0.0025)
    assert told.pause == pytest.approx(0.0024)
    assert told.beyond == pytest.approx(0.0004)


def test_what_is_slow_is_not_met_and_what_is_grossly_slow_is_broken() -> None:
    slow, broken = (goals.outcomes(_results([times * 100.0], [100.0]), {})[0] for times in (2, 20))
    assert (slow.met, slow.broken) == (False, False)
    assert (broken.met, broken.broken) == (False, True)
    assert "| eject ping-pong, gxl / C | 1.1 | 2 |  | **not met** |" in tables.goals_met([slow])
    assert "| eject ping-pong, gxl / C | 6 | 20 | **broken** |" in tables.grossly_slow([broken])


def test_a_goal_says_what_a_program_without_gxl_comes_to() -> None:
    results = _results([300.0, 400.0], [100.0, 100.0])
    results["eject ping-pong"]["bare"] = {"": [150.0, 140.0]}
    assert goals.outcomes(results, {})[0].bare == pytest.approx(1.45)


def test_a_page_shows_all_that_there_is_and_nothing_else() -> None:
    told = {"times": "| new |", "goals": "| met |"}
    page = (
        "a\n<!-- figures: times -->\n| old |\n<!-- end of figures -->\nb\n"
        "<!-- figures: goals -->\n<!-- end of figures -->\n"
    )
    assert tables.filled(page, told) == (
        "a\n<!-- figures: times -->\n\n| new |\n\n<!-- end of figures -->\nb\n"
        "<!-- figures: goals -->\n\n| met |\n\n<!-- end of figures -->\n"
    )
    assert tables.filled(tables.filled(page, told), told) == tables.filled(page, told)
    with pytest.raises(Failed, match="the page shows times, goals; there are times, goals, pauses"):
        tables.filled(page, told | {"pauses": ""})


def test_what_a_storm_costs_a_loop_is_measured_by_libxls_own_longest_call() -> None:
    results: goals.Results = {
        "storm of 10000": {"gxl": {"pause": [70e3, 90e3], "call": [69e3, 88e3], "beyond": [1e3, 2e3]}},
        "storm of 1000": {"gxl": {"call": [3e3, 9e3], "beyond": [3e3, 0.0]}},
        "memory at 10": {"gxl": {"": [1024.0]}},
        "memory at 2010": {"gxl": {"": [17 * 1024.0]}},
    }
    calls = {"gxl": {"read": 13.0, "ioctl": 1.0, "futex": 9.0}, "C": {"read": 13.0, "futex": 20.0}}
    found = {outcome.goal.about: outcome.measured for outcome in goals.outcomes(results, calls)}
    assert found == {
        "MiB for 1,000 parked waiters": 8.0,
        "longest pause in a storm of 10,000, without libxl's call in it, ms": 1.5,
        "longest pause in a storm of 1,000, without libxl's call in it, ms": 1.5,
        "libxl's longest call and the rest of the longest pause / that call, storm of 1,000": 1.5,
        "system calls an eject beyond C's": 1.0,
    }


def test_the_plot_has_a_bar_for_each_ratio() -> None:
    svg = ElementTree.fromstring(plot.draw(_results([250.0], [100.0])))
    shown = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "eject ping-pong" in shown
    assert "2.50" in shown
    assert "idle" not in shown

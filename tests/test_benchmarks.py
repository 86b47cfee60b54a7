# SPDX-License-Identifier: LGPL-2.1-or-later
"""The benchmarks run, and compare what they say they compare. How fast anything is, is not tested here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from requirements import Requirements

from benchmarks.clients import CLIENTS

ROOT = Path(__file__).resolve().parent.parent


def _benchmarks(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_each_candidate_is_measured_beside_c(tmp_path: Path, require: Requirements) -> None:
    require.file("/usr/include/libxl.h")
    require.program("cc")
    require.program("strace")
    figures = tmp_path / "figures.json"
    ran = _benchmarks("--rounds", "1", "--only", "ping-pong", "--json", str(figures))
    assert ran.returncode == 0, ran.stderr
    found = json.loads(figures.read_text())
    measured = found["results"]["eject ping-pong"]
    assert set(measured) == {"C", *CLIENTS}
    assert all(values[""][0] > 0 for values in measured.values())
    # What is the same in all of them is libxl's own work.
    assert all(count > 20 for count in found["calls"].values())
    assert "| eject ping-pong | gxl |" in ran.stdout


def test_an_unknown_workload_is_refused_with_those_that_there_are() -> None:
    ran = _benchmarks("--only", "nothing like it")
    assert ran.returncode == 2
    assert "eject ping-pong" in ran.stderr

# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl` as a program, as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def program(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    """`python -m gxl …` with these environment variables."""
    return program_with({}, *arguments, **variables)


def program_with(how: dict[str, Any], *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    """The same, with arguments of Popen's."""
    return subprocess.Popen(
        [sys.executable, "-m", "gxl", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **variables},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how},
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its status, what it said on standard output, and on standard error."""
    try:
        out, err = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # which makes it tell where it is
        raise AssertionError(f"{process.args!r} does not end: {process.communicate(timeout=30)!r}") from None
    return process.returncode, out, err

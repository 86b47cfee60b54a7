# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl` as a program, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def program(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    """`python -m gxl …` with these environment variables."""
    return subprocess.Popen(
        [sys.executable, "-m", "gxl", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its status, what it said on standard output, and on standard error."""
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err

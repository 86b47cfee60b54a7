# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks program.py against the gxl that is installed, with mypy: `python tests/user_types/check.py`."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = Path(__file__).with_name("program.py")


def main() -> None:
    # Elsewhere than the checkout, which has a gxl and a configuration of its own.
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--show-error-codes",
            "--cache-dir",
            directory,
            str(PROGRAM),
        ]
        told = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    found = {
        (int(line), code) for line, code in re.findall(r"^\S+:(\d+): error: .*\[([\w-]+)\]$", told.stdout, re.MULTILINE)
    }
    lines = enumerate(PROGRAM.read_text().splitlines(), 1)
    expected = {(number, code) for number, line in lines for code in re.findall(r"# wrong: ([a-z-]+)$", line)}
    if found != expected or not expected:
        sys.exit(
            f"missed: {sorted(expected - found)}; unexpected: {sorted(found - expected)}\n{told.stdout}{told.stderr}"
        )
    print(f"mypy finds the {len(expected)} mistakes of {PROGRAM.name}, and no other")


if __name__ == "__main__":
    main()

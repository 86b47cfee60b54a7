# SPDX-License-Identifier: LGPL-2.1-or-later
"""The gevent hub on each of gevent's loops, in a patched process and in one that is not.

A loop can be chosen only once per process, so each of the six has a process of its own, which runs what is in
hub_cases/. To see one of them alone:  GEVENT_LOOP=libuv-cffi python -m pytest tests/hub_cases/gevent_*.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = sorted(map(str, (Path(__file__).parent / "hub_cases").glob("gevent_*.py")))
PLAIN = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
PATCHED = f"from gevent import monkey; monkey.patch_all(); {PLAIN}"


@pytest.mark.parametrize("program", [PLAIN, PATCHED], ids=["plain", "patched"])
@pytest.mark.parametrize("loop", ["libev-cext", "libev-cffi", "libuv-cffi"])
def test_the_gevent_hub_does_what_a_provider_must(loop: str, program: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", program, "-q", "-x", "-p", "no:cacheprovider", *CASES],
        env={**os.environ, "GEVENT_LOOP": loop},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, f"exit status {ran.returncode}:\n{ran.stdout}"

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Context's tests once more on each of gevent's loops, with and without monkey.patch_all()."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOMS = [
    *("context", "feeds", "sidechannel", "mailbox", "pump", "operations", "children", "building", "watch", "expect"),
    *("watching", "domains", "misuse", "recovery_waiters"),
]

# What this process does itself: gevent's default loop, unpatched.
OTHERS = [(loop, patched) for loop in ("libev-cext", "libev-cffi", "libuv-cffi") for patched in (False, True)][1:]

PROGRAM = """
import sys
if sys.argv[1] == "patched":
    from gevent import monkey
    monkey.patch_all()
import gevent, pytest
print("loop:", type(gevent.get_hub().loop).__module__, flush=True)
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("loop", "patched"), OTHERS, ids=lambda value: value if isinstance(value, str) else str(value))
def test_a_context_keeps_its_promises_on_every_loop(loop: str, patched: bool) -> None:
    # The library is preloaded already where it can be; pytest must not start itself anew and lose the patches.
    environment = os.environ | {"GEVENT_LOOP": loop, "GXL_TESTS_PRELOADED": "1"}
    rooms = [str(TESTS / f"test_{room}.py") for room in ROOMS]
    arguments = ["patched" if patched else "plain", "-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=60"]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments, *rooms],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    module = {"libev-cext": "corecext", "libev-cffi": "corecffi", "libuv-cffi": "libuv"}[loop]
    assert module in run.stdout.splitlines()[0]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed
    assert int(passed[1]) > 100

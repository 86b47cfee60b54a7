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


# Interruptions: they hang on what a loop does within one turn, and so not on patches. What waits for whole
# processes, which take their time, is left out.
FAULTS = ["test_greenlets_killed.py", "test_time_is_up.py", "test_close_anywhere.py"]
SHORT = "not domain_create and not domain_restore and not a_close_that_is_killed"


def run_pytest(loop: str, patched: bool, *arguments: str) -> int:
    """Run pytest on a loop, in a process of its own. Returns how many tests have passed; none may fail."""
    # The library is preloaded already where it can be; pytest must not start itself anew and lose the patches.
    environment = os.environ | {"GEVENT_LOOP": loop, "GXL_TESTS_PRELOADED": "1"}
    options = ["patched" if patched else "plain", "-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=60"]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *options, *arguments],
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
    return int(passed[1])


@pytest.mark.parametrize(("loop", "patched"), OTHERS, ids=lambda value: value if isinstance(value, str) else str(value))
def test_a_context_keeps_its_promises_on_every_loop(loop: str, patched: bool) -> None:
    assert run_pytest(loop, patched, *(str(TESTS / f"test_{room}.py") for room in ROOMS)) > 100


@pytest.mark.parametrize("loop", ["libev-cffi", "libuv-cffi"])
def test_an_interruption_loses_nothing_on_every_loop(loop: str) -> None:
    files = [str(TESTS / "faults" / name) for name in FAULTS]
    # Each scene, killed, timed out and closed, with each engine.
    assert run_pytest(loop, False, "-k", SHORT, *files) > 150

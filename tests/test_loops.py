# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Context's tests once more on each of gevent's loops, with and without monkey.patch_all()."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

Run = tuple[str, bool, tuple[str, ...]]
"""A loop, whether the process is patched, and pytest's arguments."""

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


def run_pytest(loop: str, patched: bool, arguments: tuple[str, ...]) -> int:
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
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    module = {"libev-cext": "corecext", "libev-cffi": "corecffi", "libuv-cffi": "libuv"}[loop]
    assert module in run.stdout.splitlines()[0]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed
    return int(passed[1])


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[Run, Future[int]]]:
    """All runs that were asked for, as many at a time as there are processors."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    asked: list[Run] = [cast(Run, item.callspec.params["run"]) for item in items]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield {run: pool.submit(run_pytest, *run) for run in asked}
    finally:
        pool.shutdown(cancel_futures=True)


def name(run: Run) -> str:
    loop, patched, _ = run
    return f"{loop}-patched" if patched else loop


CONTEXTS: list[Run] = [
    (loop, patched, tuple(str(TESTS / f"test_{room}.py") for room in ROOMS)) for loop, patched in OTHERS
]


@pytest.mark.parametrize("run", CONTEXTS, ids=name)
def test_a_context_keeps_its_promises_on_every_loop(run: Run, runs: dict[Run, Future[int]]) -> None:
    assert runs[run].result() > 100


INTERRUPTIONS: list[Run] = [
    (loop, False, ("-k", SHORT, *(str(TESTS / "faults" / file) for file in FAULTS)))
    for loop in ("libev-cffi", "libuv-cffi")
]


@pytest.mark.parametrize("run", INTERRUPTIONS, ids=name)
def test_an_interruption_loses_nothing_on_every_loop(run: Run, runs: dict[Run, Future[int]]) -> None:
    # Each scene, killed, timed out and closed, with each engine.
    assert runs[run].result() > 150

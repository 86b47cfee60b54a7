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

CASES = Path(__file__).parent / "hub_cases"
# Without this directory's conftest, which may start pytest anew: that would undo the patches.
PROGRAM = """
import sys
from gevent import config, monkey
if sys.argv[1] == "patched":
    monkey.patch_all()
import pytest
code = pytest.main(sys.argv[2:])
print("ran to its end on", config.loop.__module__, "patched" if monkey.is_module_patched("os") else "plain")
sys.exit(code)
"""
LOOPS = {
    "libev-cext": "gevent.libev.corecext",
    "libev-cffi": "gevent.libev.corecffi",
    "libuv-cffi": "gevent.libuv.loop",
}


@pytest.mark.parametrize("patches", ["plain", "patched"])
@pytest.mark.parametrize("loop", LOOPS)
def test_the_gevent_hub_does_what_a_provider_must(loop: str, patches: str) -> None:
    options = ["-q", "-x", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=60", f"--confcutdir={CASES}"]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, patches, *options, *map(str, sorted(CASES.glob("gevent_*.py")))],
        env=os.environ | {"GEVENT_LOOP": loop},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, f"exit status {ran.returncode}:\n{ran.stdout}"
    assert ran.stdout.endswith(f"ran to its end on {LOOPS[loop]} {patches}\n"), ran.stdout

# SPDX-License-Identifier: LGPL-2.1-or-later
"""examples/legacy_app.py, written for threads, run unchanged in a patched process, on each loop and each engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gxl.simhost.remote import RemoteHost

APP = str(Path(__file__).parent.parent / "examples" / "legacy_app.py")
PATCHED_FIRST = f"""
from gevent import monkey
monkey.patch_all()
import runpy, sys
sys.argv = [{APP!r}, *sys.argv[1:]]
runpy.run_path({APP!r}, run_name="__main__")
"""
WAYS = {"patched first": ["-c", PATCHED_FIRST], "by gevent.monkey": ["-m", "gevent.monkey", APP]}
# All of them, or the one that this run of the tests is for.
LOOPS = [os.environ["GEVENT_LOOP"]] if os.environ.get("GEVENT_LOOP") else ["libev-cext", "libev-cffi", "libuv-cffi"]

every_way = pytest.mark.parametrize("way", WAYS)
every_loop = pytest.mark.parametrize("loop", LOOPS)


@contextmanager
def running(way: str, loop: str, *arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The application, and where it serves."""
    process = subprocess.Popen(
        [sys.executable, *WAYS[way], *arguments],
        env={**os.environ, **environment, "GEVENT_LOOP": loop, "PYTHONPATH": str(Path(APP).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("serving on "), process.communicate(timeout=20)
            yield line.split()[-1], process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> Any:
    """What it says at its end."""
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err, err
    return json.loads(out)


def told(summary: Any, kind: str) -> list[int]:
    return sorted(event["domid"] for event in summary["events"] if event["event"] == kind)


@every_way
@every_loop
def test_it_serves_runs_its_commands_and_gets_every_event(way: str, loop: str) -> None:
    with running(way, loop, "8", "--simulate") as (url, process):
        for _ in range(3):
            with urllib.request.urlopen(f"{url}events", timeout=10) as answer:
                assert isinstance(json.load(answer), list)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}destroy/30000", data=b"", timeout=10)
        summary = ended(process)
    assert told(summary, "DomainShutdown") == told(summary, "DomainDeath") == list(range(1, 9))
    assert [event["code"] for event in summary["events"]] == [number % 8 for number in range(16)]
    assert summary["requests"] == 4


@every_way
@every_loop
def test_it_does_so_on_the_real_libxenlight(
    way: str, loop: str, served_host: tuple[RemoteHost, dict[str, str]]
) -> None:
    host, variables = served_host
    host.reset()
    before = [host.create_domain() for _ in range(3)]
    with running(way, loop, "6", **variables, GXL_ENGINE="libxl") as (url, process):
        after = [host.create_domain() for _ in range(3)]
        for domid in before:
            host.shutdown_domain(domid)
        # libxl forks a child for each, beside those of the commands.
        for domid in (*before, *after):
            with urllib.request.urlopen(f"{url}destroy/{domid}", data=b"", timeout=10) as answer:
                assert json.load(answer) == f"domain {domid} is destroyed"
        summary = ended(process)
    assert told(summary, "DomainShutdown") == before
    assert told(summary, "DomainDeath") == [*before, *after]
    assert [event["code"] for event in summary["events"]] == [number % 8 for number in range(9)]

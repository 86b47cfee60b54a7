# SPDX-License-Identifier: LGPL-2.1-or-later
"""The example of a web toolstack in one file: short enough to be copied, and no worse in what matters."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gxl.simhost.remote import RemoteHost

EXAMPLE = Path(__file__).parent.parent / "examples" / "web_toolstack.py"
Start = Callable[..., tuple[str, str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts it, and returns its address and its token."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **variables: str) -> tuple[str, str]:
        environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parent.parent), **variables}
        command = [sys.executable, str(EXAMPLE), *arguments]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout is not None
        url, _, token = running[-1].stdout.readline().strip().partition("#")
        return url, token

    yield start
    for process in running:
        process.kill()
        process.communicate()


def lines(url: str, wanted: str, **headers: str) -> list[str]:
    """What comes from /events until a line contains `wanted`."""
    request = urllib.request.Request(f"{url}events", headers={k.replace("_", "-"): v for k, v in headers.items()})
    with urllib.request.urlopen(request, timeout=60) as stream:
        found: list[str] = []
        while not found or wanted not in found[-1]:
            line = stream.readline()
            assert line, found
            found.append(line.decode().rstrip("\n"))
        return found


def status(url: str, method: str = "GET", **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_it_can_be_read_at_one_sitting() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 150


def test_a_simulated_host_lives_in_it_and_a_browser_comes_back_to_where_it_was(start: Start) -> None:
    url, _ = start("--sim")
    seen = lines(url, '"type"')
    last = next(line for line in reversed(seen) if line.startswith("id: ")).removeprefix("id: ")
    again = lines(url, "event: event", Last_Event_ID=last)
    number = next(line for line in again if line.startswith("id: ")).rpartition(".")[2]
    assert int(number) == int(last.rpartition(".")[2]) + 1
    assert not any("started anew" in line for line in again)
    assert "started anew" in "".join(lines(url, "event: domains", Last_Event_ID="former.7"))
    assert {status(url), status(f"{url}page.js"), status(f"{url}metrics")} == {200}


def test_it_shows_and_destroys_what_the_real_libxenlight_has(
    start: Start, served_host: tuple[RemoteHost, dict[str, str]]
) -> None:
    host, variables = served_host
    host.reset()
    domid = host.create_domain("web1")
    uuid = host.domain_info(domid).uuid
    url, token = start(**variables)
    assert status(f"{url}destroy/{uuid}", "POST") == 401
    assert status(f"{url}destroy/{uuid}", "POST", Authorization=f"Bearer {token}", Origin="http://evil.example") == 403
    assert status(f"{url}destroy/{uuid}", "POST", Authorization=f"Bearer {token}", Host="evil.example") == 421
    assert status(f"{url}destroy/{domid}", "POST", Authorization=f"Bearer {token}") == 404
    assert domid in {info.domid for info in host.domains()}
    assert status(f"{url}destroy/{uuid}", "POST", Authorization=f"Bearer {token}") == 200
    assert domid not in {info.domid for info in host.domains()}
    assert "domain_death" in lines(url, '"type"')[-1]

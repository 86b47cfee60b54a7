# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl serve`, as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from requirements import Requirements

from gxl import cli
from gxl.simhost.remote import RemoteHost

ROOT = Path(__file__).parent.parent


class Served:
    """A running `gxl serve`."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gxl", "serve", "--port", "0", *arguments],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"gxl: (http://\S+/)(?:#token=(\S+))?\n", line)
        assert found, line + (self.process.stderr.read() if self.process.stderr else "")
        self.url, self.token = found[1], found[2]

    def ask(self, path: str, method: str = "GET", token: str | None = None, body: object = None) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def domains(self) -> dict[str, Any]:
        """By name."""
        return {row["name"]: row for row in self.ask("api/domains", token=self.token)[1]["domains"]}

    def event_types(self) -> set[str]:
        return {event["type"] for event in self.ask("api/events", token=self.token)[1]["events"]}

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its exit status, and what it said on standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[Served] = []

    def serve(*arguments: str, **variables: str) -> Served:
        running.append(Served(*arguments, **variables))
        return running[-1]

    yield serve
    for served in running:
        served.process.kill()
        served.process.communicate()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def said(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main, ["serve", *arguments])
    return result.exit_code, result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_simulated_host_lives_in_the_browser_until_a_signal(serve: Serve, number: signal.Signals) -> None:
    served = serve("--sim")
    assert served.token
    until(lambda: {"web1", "db1"} <= served.domains().keys())
    status, errors = served.end(number)
    assert status == 0
    assert errors.startswith("gxl: engine: ")
    assert errors.count("\n") == 1


def test_on_the_simulated_host_a_domain_can_be_ended_and_has_no_thread_beside(serve: Serve) -> None:
    served = serve("--sim")
    until(lambda: "web1" in served.domains())
    uuid = served.domains()["web1"]["uuid"]
    assert served.ask(f"api/domains/{uuid}/destroy", "POST")[0] == 401
    assert served.ask(f"api/domains/{uuid}/destroy", "POST", served.token)[0] == 200
    until(lambda: "domain_death" in served.event_types())
    assert len(list(Path(f"/proc/{served.process.pid}/task").iterdir())) == 1


def test_streams_do_not_keep_it_from_ending(serve: Serve) -> None:
    served = serve("--sim")
    with urllib.request.urlopen(served.url + "api/stream", timeout=30) as stream:
        assert stream.readline() == b"event: hello\n"
        started = time.monotonic()
        assert served.end()[0] == 0
        assert time.monotonic() - started < 20
        stream.read()


def test_it_shows_what_the_real_libxenlight_reports(
    served_host: tuple[RemoteHost, dict[str, str]], serve: Serve
) -> None:
    host, variables = served_host
    host.reset()
    domid = host.create_domain("web1")
    served = serve("--allow", "destroy", GXL_ENGINE="libxl", **variables)
    assert served.domains()["web1"]["domid"] == domid
    host.shutdown_domain(domid, 3)
    until(lambda: served.event_types() == {"domain_shutdown"})
    assert served.ask(f"api/domains/{served.domains()['web1']['uuid']}/destroy", "POST", served.token)[0] == 200
    until(lambda: served.event_types() == {"domain_shutdown", "domain_death"})
    status, errors = served.end()
    assert (status, "libxenlight" in errors) == (0, True)


def test_it_outlives_a_restart_of_xenstored_and_says_so(
    served_host: tuple[RemoteHost, dict[str, str]], serve: Serve
) -> None:
    host, variables = served_host
    host.reset()
    domid = host.create_domain("web1")
    served = serve(GXL_ENGINE="libxl", **variables)
    host.drop_connections()
    until(lambda: "resynced" in served.event_types())
    host.destroy_domain(domid)
    until(lambda: "domain_death" in served.event_types())
    assert served.ask("health") == (200, {"status": "ok"})


def test_looking_needs_no_token_here_and_does_elsewhere(serve: Serve) -> None:
    here = serve("--sim")
    assert here.ask("api/domains")[0] == 200
    there = serve("--sim", "--host", "0.0.0.0")
    there.url = f"http://127.0.0.1:{there.url.rpartition(':')[2]}"
    private = serve("--sim", "--private")
    for served in (there, private):
        assert served.ask("api/domains")[0] == 401
        assert served.ask("api/domains", token=served.token)[0] == 200


def test_it_answers_for_the_names_that_it_was_given_and_the_machines_own(serve: Serve) -> None:
    served = serve("--sim", "--name", "xen1.example.org", "--name", "xen.example.org")
    answered = {}
    for host in ("xen1.example.org", "xen.example.org:443", socket.gethostname(), "xen2.example.org"):
        request = urllib.request.Request(served.url + "health", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answered[host] = answer.status
        except urllib.error.HTTPError as error:
            with error:
                answered[host] = error.code
    assert list(answered.values()) == [200, 200, 200, 421]


def test_the_token_is_that_of_the_file_and_is_not_printed(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a-token-from-a-file\n")
    file.chmod(0o600)
    served = serve("--sim", "--token-file", str(file))
    assert served.token is None
    until(lambda: "web1" in served.domains())
    uuid = served.domains()["web1"]["uuid"]
    assert served.ask(f"api/domains/{uuid}/destroy", "POST", "a-token-from-a-file")[0] in (200, 404)


@pytest.mark.parametrize(
    ("content", "mode", "named"),
    [
        (None, 0, "No such file"),
        ("0123456789abcdef", 0o644, "chmod 600"),
        ("short", 0o600, "16"),
        ("", 0o600, "16"),
        ("0123456789 abcdef", 0o600, "no space"),
    ],
)
def test_a_token_file_that_is_none_is_refused(tmp_path: Path, content: str | None, mode: int, named: str) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    status, errors = said("--sim", "--token-file", str(file))
    assert (status, named in errors, str(file) in errors) == (1, True, True)
    assert not content or content not in errors


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, errors = said("--sim", "--port", str(port))
    assert (status, f"127.0.0.1:{port}" in errors, "--port" in errors) == (1, True, True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--host", "xen1.example.org"], "xen1.example.org"),
        (["--port", "70000"], "70000"),
        (["--allow", "explode"], "explode"),
        (["--user", "nobody", "--allow", "destroy"], "destroy"),
    ],
)
def test_a_wrong_command_line_is_named_with_status_2(arguments: list[str], named: str) -> None:
    status, errors = said(*arguments)
    assert (status, named in errors) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--host", "192.0.2.1"], "does not have that address"),
        (["--user", "nobody-by-that-name"], "nobody-by-that-name"),
        (["--user", "root"], "gives nothing up"),
    ],
)
def test_what_can_not_be_is_said_with_status_1(arguments: list[str], named: str) -> None:
    status, errors = said("--sim", "--port", "0", *arguments)
    assert (status, named in errors, "Traceback" in errors) == (1, True, False)


def test_without_xen_it_says_what_was_tried_and_what_to_do() -> None:
    environment = {"GXL_ENGINE": "libxl", "GXL_LIBXENLIGHT": "/nowhere/libxenlight.so.4.17"}
    result = CliRunner().invoke(cli.main, ["serve", "--port", "0"], env=environment)
    assert result.exit_code == 1
    assert "/nowhere/libxenlight.so.4.17" in result.stderr
    assert "gxl serve --sim" in result.stderr


def test_as_root_it_becomes_another_user_for_good(
    served_host: tuple[RemoteHost, dict[str, str]], serve: Serve, require: Requirements
) -> None:
    if os.geteuid() != 0:
        require.missing("root")
    host, variables = served_host
    host.reset()
    domid = host.create_domain("web1")
    served = serve("--user", "nobody", "--allow", "shutdown", GXL_ENGINE="libxl", **variables)
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    assert re.search(r"^Uid:\t(\d+)\t\1\t\1\t\1$", status, re.MULTILINE)[1] != "0"  # type: ignore[index]  # None fails the test, too
    assert re.search(r"^Groups:\t\s*$", status, re.MULTILINE)
    assert set(re.findall(r"^Cap(?:Inh|Prm|Eff|Amb):\t(\w+)$", status, re.MULTILINE)) == {"0" * 16}
    # What it holds open goes on working: the hypervisor, and xenstored.
    uuid = served.domains()["web1"]["uuid"]
    assert served.ask(f"api/domains/{uuid}/shutdown", "POST", served.token)[0] == 200
    until(lambda: "domain_shutdown" in served.event_types())
    host.destroy_domain(domid)
    until(lambda: "domain_death" in served.event_types())
    for path in ("", "static/page.js", "metrics"):
        with urllib.request.urlopen(served.url + path, timeout=30) as answer:
            assert answer.status == 200
    # To open Xen anew, it would have to be root again: it ends instead, for its manager to start another.
    host.drop_connections()
    served.process.wait(30)
    assert served.process.returncode == 1
    assert served.process.stderr is not None
    assert "xenstored" in served.process.stderr.read()

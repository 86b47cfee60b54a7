# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl serve --user` on a real Xen host: what an unprivileged process goes on seeing, and may still do."""

from __future__ import annotations

import json
import pwd
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
import pytest
from gevent import socket, subprocess
from guests import Guests

USER = "nobody"


class Served:
    """A running `gxl serve`, and a client of it that waits cooperatively."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "gxl", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"gxl: (http://\S+/)#token=(\S+)\n", line)
        assert found, line + self.process.stderr.read()
        address = urlsplit(found[1])
        self._address = (str(address.hostname), int(address.port or 0))
        self._token = found[2]

    def connect(self, path: str, method: str = "GET") -> HTTPConnection:
        connection = HTTPConnection(*self._address)
        connection.sock = socket.create_connection(self._address)
        connection.request(method, path, headers={"Authorization": f"Bearer {self._token}"})
        return connection

    def ask(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """The status and the content of an answer."""
        with closing(self.connect(path, method)) as connection, connection.getresponse() as answer:
            return answer.status, answer.read()

    def domains(self) -> dict[str, str]:
        """Their names by UUID."""
        return {row["uuid"]: row["name"] for row in json.loads(self.ask("/api/domains")[1])["domains"]}

    def status(self) -> dict[str, list[str]]:
        """What the kernel says of the process: words by name."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {name: words.split() for name, _, words in (line.partition(":") for line in lines)}


@contextmanager
def streaming(served: Served) -> Iterator[Callable[..., dict[str, Any]]]:
    """Follow the server-sent events: call it with the kind of a message, and what its data must say, to wait for it."""
    with closing(served.connect("/api/stream")) as connection, connection.getresponse() as lines:
        assert lines.status == 200

        def until(kind: str, **wanted: Any) -> dict[str, Any]:
            while line := lines.readline().decode():
                if line == f"event: {kind}\n":
                    data: dict[str, Any] = json.loads(lines.readline().decode().removeprefix("data: "))
                    if wanted.items() <= data.items():
                        return data
            raise AssertionError(f"the stream ended before {kind} {wanted}")

        yield until


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served("--user", USER, "--allow", "shutdown")
    yield served
    if served.process.poll() is None:
        served.process.kill()
    served.process.communicate()


def test_a_server_that_gave_up_root_shows_real_domains_end_and_may_ask_them_to(guests: Guests, served: Served) -> None:
    user = pwd.getpwnam(USER)
    status = served.status()
    assert (status["Uid"], status["Gid"]) == ([str(user.pw_uid)] * 4, [str(user.pw_gid)] * 4)
    assert status["Groups"] == []
    capabilities = {status[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
    assert capabilities == {"0" * 16}

    # All of it happens after root was given up, to domains that were not there before.
    with streaming(served) as until:
        assert "libxenlight" in until("hello")["engine"]
        asked, crashing = guests.tiny(), guests.tiny()
        assert {str(guest.uuid): guest.name for guest in (asked, crashing)}.items() <= served.domains().items()

        assert served.ask(f"/api/domains/{asked.uuid}/destroy", "POST")[0] == 403
        assert served.ask(f"/api/domains/{asked.uuid}/shutdown", "POST")[0] == 200
        until("event", type="domain_shutdown", uuid=str(asked.uuid), shutdown_reason="poweroff")
        crashing.order("shutdown 3")
        until("event", type="domain_shutdown", uuid=str(crashing.uuid), shutdown_reason="crash")
        asked.destroy()
        death = until("event", type="domain_death", uuid=str(asked.uuid))
        assert (death["domid"], death["name"]) == (asked.domid, asked.name)
    while str(asked.uuid) in served.domains():
        gevent.sleep(0.05)

    for path in ("/", "/static/page.js", "/metrics", "/health"):
        assert served.ask(path)[0] == 200
    assert served.status()["CapEff"] == ["0" * 16]
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0

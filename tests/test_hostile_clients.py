# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clients that would fill or break the simulated host, and files that would break a replay."""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_simhost_server import Raw, serving

from gxl import DomainDeath
from gxl.cli.text import line
from gxl.recording import BrokenRecording, header, parse
from gxl.simhost import SimHost
from gxl.simhost.remote import RemoteHost
from gxl.simhost.server import Server
from gxl.xenstore import Message, Operation, encode

MEGABYTE = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server in a thread of this process, with many domains, so that a short request has a long answer."""
    server = Server(tmp_path)
    for _ in range(300):
        server.host.create_domain()
    with serving(server):
        yield server


def backlog(server: Server) -> int:
    """What the server holds for its clients."""
    return sum(peer.unread() + peer.unanswered() for peer in list(server._peers))


def fill(server: Server, raw: Raw, request: bytes) -> tuple[int, int]:
    """Send and never read until nothing more is taken: how many bytes were, and the most that the server ever held."""
    raw.sock.setblocking(False)
    sent = most = 0
    stuck_since = time.monotonic()
    while time.monotonic() < stuck_since + 0.5 and most < 64 * MEGABYTE:
        try:
            sent += raw.sock.send((request * 50)[sent % len(request) :])
            stuck_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        most = max(most, backlog(server))
    raw.sock.settimeout(10)
    return sent, most


LIST = struct.pack("=II H2xIQ", 6, 0x15, 0, 1024, 4096).ljust(136, b"\0")


@pytest.mark.parametrize(
    ("door", "request_"),
    [
        ("control", b'{"call": "domains"}\n'),
        ("hypercalls", struct.pack("=6QQ", 35, 4096, 0, 0, 0, 0, len(LIST)) + LIST),
        ("socket", encode(Message(Operation.DIRECTORY, 1, 0, b"/local/domain/1\0"))),
    ],
    ids=["control", "hypercalls", "xenstore"],
)
def test_who_asks_and_never_reads_fills_no_memory(server: Server, door: str, request_: bytes) -> None:
    with Raw(server, door) as raw:
        assert fill(server, raw, request_)[1] < 4 * MEGABYTE
    with RemoteHost(server.directory) as remote:
        assert len(remote.domains()) == 301


def test_what_is_sent_to_a_stalled_daemon_waits_at_its_sender(server: Server) -> None:
    request = encode(Message(Operation.WRITE, 7, 0, b"/tool\0" + bytes(4000)))
    with RemoteHost(server.directory) as remote, Raw(server) as raw:
        with remote.stalled():
            sent, most = fill(server, raw, request)
            assert most < 4 * MEGABYTE
        for _ in range(sent // len(request)):
            assert raw.next().request_id == 7


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": 5},
        {"name": "\udc80"},
        {"domid": 1.0},
        {"domid": True},
        {"uuid": "5"},
        {"kind": "hyperv"},
        {"memory_kb": "much"},
        {"memory_kb": -1},
        {"memory_kb": 2**64},
        {"vcpus": 0},
        {"vcpus": 1.5},
        {"vcpus": 2**31},
        {"stub_domain_of": "1"},
    ],
    ids=str,
)
def test_a_domain_that_can_not_be_is_refused_before_anything_changes(arguments: dict[str, Any]) -> None:
    with SimHost() as host:
        before = host.changes_since(0)
        with pytest.raises((TypeError, ValueError)):
            host.create_domain(**arguments)
        assert host.changes_since(0) == before
        assert host.create_domain() == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"target": 5},
        {"target": "\udc80"},
        {"backend_type": 5},
        {"backend_type": "x" * 3000},
        {"backend_domid": 0.0},
        {"vdev": 5},
    ],
    ids=lambda arguments: str(arguments)[:30],
)
def test_a_disk_that_can_not_be_is_refused_before_anything_changes(arguments: dict[str, Any]) -> None:
    with SimHost() as host:
        domid = host.create_domain()
        with pytest.raises((TypeError, ValueError)):
            host.add_disk(domid, **{"vdev": "xvda", **arguments})
        assert host.ls(f"/local/domain/{domid}/device") == []
        host.add_disk(domid, "xvda")


def test_an_error_that_is_no_number_can_not_be_asked_for() -> None:
    with SimHost() as host:
        with pytest.raises(ValueError, match=r"11\.0"):
            host.fail_next("READ", 11.0)  # type: ignore[arg-type]  # that it is refused is what is tested
        host.fail_next("READ", errno.EAGAIN)


def test_a_domid_that_only_equals_one_is_refused() -> None:
    with SimHost() as host:
        host.create_domain()
        with pytest.raises(TypeError, match="True"):
            host.destroy_domain(True)
        assert host.domain_info(1).running


def test_a_recording_that_claims_an_impossible_time_is_refused_or_shown() -> None:
    start = header("0.1", "x", "now").encode() + b"\n"
    with pytest.raises(BrokenRecording, match='line 2: "at" must be seconds'):
        parse([start, b'{"at": 1%s, "end": "x"}\n' % (b"0" * 400)])
    assert line(DomainDeath(1, time=-62135596800.0, name="web"), "web", colours=False).split() == [
        *("-62135596800.0", "s", "after", "1970", "domain_death", "1", "web")
    ]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The simulated xenstored: requests by a tool in dom0 and by two guests, one of which attacks the other.

Whatever is sent, the daemon answers each request at most once and within the protocol's limits. What a guest does
changes nothing that is not its own, and stays within its quotas.
"""

from __future__ import annotations

import struct

from fuzz.choices import Choices
from gxl.simhost import Connection, SimHost
from gxl.simhost.sessions import PENDING_MAX
from gxl.simhost.tree import NODE_SIZE_MAX, NODES_PER_GUEST
from gxl.xenstore import Decoder, Operation

# What lies below the guest's own directory, and what it would like to reach.
_PATHS = [
    *(b"data", b"data/x", b"device/vbd/51712", b"device/vbd/51712/eject", b"control/shutdown", b"name", b"", b"/"),
    *(b"/local/domain/1", b"/local/domain/1/name", b"/local/domain/1/data/x", b"/local/domain/2/data"),
    *(b"/local/domain/1/device/vbd/51712/eject", b"/local/domain/0/backend/qdisk/1/51712/state", b"/local/domain/12"),
    *(b"@releaseDomain", b"@introduceDomain", b"/tool", b"/libxl/1/device", b"/vm", b"../1/name", b"//", b"data/"),
]
_VALUES = [
    b"",
    b"eject",
    b"n2",
    b"r2",
    b"b1",
    b"n0",
    b"poweroff",
    b"5",
    b"token",
    b"T",
    b"F",
    b"0",
    b"1",
    b"2",
    b"99999",
]


def _owned(host: SimHost, domid: int) -> dict[bytes, object]:
    """Everything in the store that does not belong to this domain."""
    nodes = host._daemon.store._nodes
    return {
        path: (node.value, node.permissions, sorted(node.children))
        for path, node in nodes.items()
        if node.permissions[0].domid != domid
    }


def _message(choices: Choices) -> bytes:
    operation = choices.pick([*Operation, 20, 255])
    parts = []
    for _ in range(choices.number() % 5):
        kind = choices.number() % 4
        parts.append(choices.pick(_PATHS) if kind == 0 else choices.pick(_VALUES) if kind < 3 else choices.chunk())
    payload = b"\0".join(parts) + (b"\0" if choices.number() % 4 else b"")
    length = len(payload) if choices.number() % 8 else choices.number(4)
    return struct.pack("<4I", operation, 7, choices.number() % 4, length) + payload


def _drain(connection: Connection, decoder: Decoder) -> int:
    """Read what was answered; how many replies there were."""
    replies = 0
    while True:
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return replies
        if not data:
            return replies
        replies += sum(message.operation != Operation.WATCH_EVENT for message in decoder.feed(data))


def run(data: bytes) -> None:
    choices = Choices(data)
    with SimHost() as host:
        victim, guest = host.create_domain("victim"), host.create_domain("guest")
        for domid in (victim, guest):
            host.add_disk(domid, "xvda")
        who = choices.pick((guest, guest, 0))
        before = _owned(host, guest)
        connections = [host.connect(who) for _ in range(2)]
        decoders = [Decoder() for _ in connections]
        while choices:
            at = choices.number() % 2
            connection = connections[at]
            sent = choices.chunk() if choices.number() % 8 == 0 else _message(choices)
            try:
                connection.send(sent)
            except BrokenPipeError:
                continue
            # A client that does not read: the next answers wait.
            if choices.number() % 8:
                # Raw bytes may complete a request that an earlier lot began, and hold as many as fit.
                assert _drain(connection, decoders[at]) <= len(data) // 16 + 1
        assert connections[0]._session.unread <= PENDING_MAX
        if who == guest:
            # The one change that a guest makes to what is not its own: it ends.
            assert _owned(host, guest) == before, "a guest changed what is not its own"
            nodes = [node for node in host._daemon.store._nodes.values() if node.permissions[0].domid == guest]
            assert len(nodes) <= NODES_PER_GUEST
            assert all(node.size < 2 * NODE_SIZE_MAX for node in nodes)
            assert host.domain_info(victim).running, "a guest stopped another"
        for connection in connections:
            connection.close()
        assert not host._daemon.sessions()
        assert not host._daemon._watches._by_path, "watches outlived their connection"

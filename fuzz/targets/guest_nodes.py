# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that writes anything below its own devices while it and its neighbour are watched.

Whatever it writes, events are its own, at most one for each time that it asked, under the name that the application
gave to the disk; and none of it reaches a terminal or a log as more than text.
"""

from __future__ import annotations

import json

from fuzz.choices import Choices
from gxl import Context, DiskEject, SimHost
from gxl.cli.text import printable
from gxl.engines.embedded import EmbeddedEngine
from gxl.events import from_json
from gxl.xenstore import Message, Operation, encode

_NODES = (b"eject", b"eject", b"backend", b"dev", b"state", b"backend-id", b"virtual-device", b"x/y/z", b"")
_VALUES = (
    *(b"eject", b"eject", b"eject\0", b"", b"ejected", b"EJECT", b"xvda\n\x1b[2J", b"\xff\xfe", b"\0"),
    *(b"/local/domain/0/backend/vbd/1/51712", b"/local/domain/1/backend/qdisk/1/51712", b"/local/domain/999999999999"),
    *(b"/local/domain/0/backend/" + b"x" * 100, b"/libxl/1", b"../1", b"%s%n"),
)
_DOMAIN = (b"2", b"2", b"2", b"1", b"0", b"22")


def run(data: bytes) -> None:
    choices = Choices(data)
    with SimHost() as host:
        victim, guest = host.create_domain("victim"), host.create_domain("guest")
        for domid in (victim, guest):
            host.add_disk(domid, "xvda")
        with Context(EmbeddedEngine(host), "poll") as ctx:
            for domid in (victim, guest):
                ctx.evenable_disk_eject(domid, "xvda", user=domid)
                ctx.evenable_domain_death(domid, user=domid)
            connection = host.connect(guest)
            asked = 0
            for _ in range(40):
                if not choices:
                    break
                path = b"/local/domain/%s/device/vbd/51712/%s" % (choices.pick(_DOMAIN), choices.pick(_NODES))
                value = choices.pick(_VALUES) if choices.number() % 4 else choices.chunk()
                operation = choices.pick(
                    (Operation.WRITE, Operation.WRITE, Operation.WRITE, Operation.RM, Operation.MKDIR)
                )
                payload = path.rstrip(b"/") + b"\0" + (value if operation == Operation.WRITE else b"")
                if len(payload) > 4096:
                    continue
                asked += operation == Operation.WRITE and path.endswith(b"2/eject") and value[:5] == b"eject"
                connection.send(encode(Message(operation, 1, 0, payload)))
                if choices.number() % 2:
                    asked = _events(ctx, guest, asked)
            _events(ctx, guest, asked)
            connection.close()


def _events(ctx: Context, guest: int, asked: int) -> int:
    """Look at the events; how many more the guest may have asked for."""
    ctx.list_domain()  # waits until all that was reported before has been heard
    while (event := ctx.event_check()) is not None:
        asked -= 1
        assert isinstance(event, DiskEject)
        assert (event.domid, event.for_user, event.vdev, event.name) == (guest, guest, "xvda", "guest")
        line = event.to_json()
        assert from_json(line) == event
        assert "\n" not in line
        assert printable(json.loads(line)["disk"]["vdev"] or "").isprintable()
    assert asked >= 0, "more ejects than the guest asked for"
    return asked

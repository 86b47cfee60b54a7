# SPDX-License-Identifier: LGPL-2.1-or-later
"""The simulated host's control socket: lines of JSON, each a call with any arguments.

Each line is answered by one line. A call that fails changes nothing: whatever was sent, the host still serves.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from fuzz.choices import Choices
from gxl.simhost import Connection, SimHost, abi, control
from gxl.xenstore import Message, Operation, encode

_NAMES = sorted(control.CALLS | control.BLOCKS | {"leave", "reset", "close", "__class__"})
_VALUES: list[Any] = [
    *(
        None,
        True,
        0,
        1,
        2,
        -1,
        11.0,
        1.5,
        2**15,
        2**31,
        2**64,
        "",
        "xvda",
        "hdc",
        "pv",
        "hvm",
        "qdisk",
        "READ",
        "connect",
    ),
    *("/local/domain/1", "/local/domain/1/data", "a\nb", "\udc80", "\x00", [], [1], {}, {"a": 1}, float("inf")),
    *("00000000-0000-0000-0000-000000000005", "x" * 3000, "getdomaininfolist", 250),
]
_KEYWORDS = (
    *("name", "domid", "uuid", "kind", "memory_kb", "vcpus", "paused", "stub_domain_of", "reason", "path", "value"),
    *("backend_type", "backend_domid", "target", "removable", "vdev", "call", "errno", "serial", "self"),
)


@dataclass
class _Served:
    host: SimHost

    def reset(self) -> None:
        self.host.close()
        self.host = SimHost()

    def down(self) -> AbstractContextManager[None]:
        return self.host.down()


def run(data: bytes) -> None:
    choices = Choices(data)
    served = _Served(SimHost())
    blocks: control.Blocks = []
    for _ in range(30):
        if not choices:
            break
        if choices.number() % 8:
            request: dict[str, Any] = {"call": choices.pick(_NAMES)}
            request["args"] = [choices.pick(_VALUES) for _ in range(choices.number() % 4)]
            request["kwargs"] = {choices.pick(_KEYWORDS): choices.pick(_VALUES) for _ in range(choices.number() % 4)}
            line = json.dumps(request).encode()
        else:
            line = choices.chunk()
        answer = control.call(served, blocks, line)
        assert answer.endswith(b"\n")
        assert answer.count(b"\n") == 1
        assert json.loads(answer).keys() <= {"result", "error", "errno", "message"}
    while blocks:
        blocks.pop().__exit__(None, None, None)
    _still_serves(served.host)
    served.host.close()


def _still_serves(host: SimHost) -> None:
    for info in host.domains():
        abi._pack(abi._SINCE_4_16, info)
    domid = host.create_domain("afterwards")
    try:
        connection: Connection = host.connect()
    except OSError:
        return  # a failure that was asked for
    for path in ("/local/domain", f"/local/domain/{domid}/name"):
        connection.send(encode(Message(Operation.READ, 1, 0, path.encode() + b"\0")))
    connection.close()
    host.destroy_domain(domid)

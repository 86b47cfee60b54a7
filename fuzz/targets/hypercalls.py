# SPDX-License-Identifier: LGPL-2.1-or-later
"""The simulated hypervisor's socket, to which the preloaded library sends what libxenctrl asks for.

Every hypercall gets one answer, well formed and no larger than what is there; a domain that a call broke would break
the next call, so each run ends with an honest one.
"""

from __future__ import annotations

import struct
from uuid import UUID

from fuzz.choices import Choices
from gxl.simhost import SimHost, abi

_VERSION = abi.Version(4, 17)
_CALLS = (17, 29, 34, 35, 36, 0, 2**64 - 1)
_COMMANDS = (*range(8), 27, 2**32 - 1)
_INTERFACES = (0x12, 0x13, 0x14, 0x15, 0x16, 0)


def _answered(answer: bytes) -> int:
    result, writes = struct.unpack_from("=qQ", answer)
    at = 16
    for _ in range(writes):
        _, length = struct.unpack_from("=QQ", answer, at)
        at += 16 + length
    assert at == len(answer), "an answer whose parts don't make up the whole"
    return int(result)


def run(data: bytes) -> None:
    choices = Choices(data)
    with SimHost() as host:
        host.create_domain("one")
        host.create_domain("two", uuid=UUID(int=5), kind="hvm")
        while choices:
            number = choices.pick(_CALLS) if choices.number() % 8 else choices.number(8)
            arguments = [choices.number() if choices.number() % 4 else choices.number(8) for _ in range(5)]
            if choices.number() % 8:
                block = struct.pack("<II", choices.pick(_COMMANDS), choices.pick(_INTERFACES)) + choices.chunk()
            else:
                block = choices.chunk()
            _answered(abi.answer(host.hypercalls, _VERSION, (number, *arguments), block))
        assert host.domains()[0].domid == 0
        listing = struct.pack("=II H2xIQ", 6, 0x15, 0, 1024, 4096).ljust(136, b"\0")
        assert _answered(abi.answer(host.hypercalls, _VERSION, (35, 4096, 0, 0, 0, 0), listing)) == 0

# SPDX-License-Identifier: LGPL-2.1-or-later
"""libxl's log, whose messages quote what guests wrote: a message never becomes two, nor drives a terminal."""

from __future__ import annotations

from gxl.engines.libxl.log import parse


def run(data: bytes) -> None:
    for level, message in parse(b"libxl: error: libxl_device.c:1:f: Domain 7:" + data):
        assert isinstance(level, int)
        for letter in message:
            assert letter.isprintable() or letter > "\x9f", f"{letter!r} in a log line"

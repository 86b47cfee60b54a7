# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file that `gxl replay` is given: parsed, and let happen on a simulated host.

What is no recording is refused with the number of the line; what can't happen is an OSError or a ValueError, which the
command prints; and what was played is shown as text that drives no terminal.
"""

from __future__ import annotations

import json
import math
from typing import Any

from fuzz.choices import Choices
from gxl import SimHost
from gxl.cli.text import line, printable
from gxl.events import Event
from gxl.recording import BrokenRecording, Player, RecordedDomain, complete, header, parse

_UUIDS = ("00000000-0000-0000-0000-000000000005", "00000000-0000-0000-0000-000000000006", "5", None)
_DOMIDS = (1, 2, 0, -1, 32751, 32752, 2**32, 1.0, True, "1", None)
_NAMES = ("web1", None, "a\nb\x1b[2J", "\udc80", "x" * 3000, "", 5)
_TIMES = (0.0, 1.5, 0.5, -1, 1e308, 10**400, float("nan"), float("inf"), "1", None)
_KINDS = ("domain_shutdown", "domain_death", "disk_eject", "events_lost", "resynced", "operation_complete", 9, "x")
_MOMENTS = (None, "2026-11-26T08:00:00.25Z", "0001-01-01T00:00:00.0Z")
_DISK = {"pdev_path": "\n", "vdev": "\x1b", "script": None, "backend_domname": None}
_DISK_NUMBERS = dict.fromkeys(("backend_domid", "backend", "format", "removable", "readwrite", "is_cdrom"), 1)


def _event(choices: Choices) -> dict[str, Any]:
    return {
        "type": choices.pick(_KINDS),
        "domid": choices.pick(_DOMIDS),
        "uuid": choices.pick(_UUIDS),
        "name": choices.pick(_NAMES),
        "time": choices.pick(_MOMENTS),
        "seq": 1,
        "for_user": 0,
        "rc": 0,
        "count": 1,
        "shutdown_reason": choices.pick(("poweroff", 250, 256, -1, "x")),
        "reason": "\x1b",
        "vdev": "xvda",
        "since": "2026-11-26T08:00:00.0Z",
        "missed": ["disk_eject"],
        "disk": {**_DISK, **_DISK_NUMBERS},
    }


def _lines(choices: Choices) -> list[bytes]:
    lines = [header("0.1", "embedded", "now").encode() if choices.number() % 8 else choices.chunk()]
    for _ in range(choices.number() % 12):
        content: dict[str, Any] = {"at": choices.pick(_TIMES[: 1 + choices.number() % len(_TIMES)])}
        kind = choices.number() % 5
        if kind < 2:
            domain = {"domid": choices.pick(_DOMIDS), "uuid": choices.pick(_UUIDS), "name": choices.pick(_NAMES)}
            content["domain"] = domain
        elif kind < 4:
            content["event"] = _event(choices)
        else:
            content["end"] = choices.pick(_NAMES)
        lines.append(json.dumps(content).encode() if choices.number() % 8 else choices.chunk())
    return [text + b"\n" for text in lines]


def run(data: bytes) -> None:
    choices = Choices(data)
    try:
        entries = parse(choices.rest().splitlines(True) if choices.number() % 8 == 0 else _lines(choices))
    except BrokenRecording as error:
        if printable(str(error)) != str(error):
            raise AssertionError(f"a message that drives a terminal: {error}") from error
        return
    complete(entries)
    with SimHost() as host:
        player = Player(host)
        for entry in entries:
            assert math.isfinite(entry.at), "a time that never comes"
            assert entry.at >= 0
            if isinstance(entry.what, Event):
                assert line(entry.what, entry.what.name, colours=False).isprintable()
            try:
                player.play(entry)
            except (OSError, ValueError):
                return
            if isinstance(entry.what, RecordedDomain) and entry.what.domid:
                assert host.domain_info(entry.what.domid).uuid == entry.what.uuid
